"""Commands of the coordinator's machine: of its folder and of its process."""

import typer

from yoriai.server.cli import pages_cli, run_cli, server_setup_cli, versions_cli


def mount(app: typer.Typer) -> typer.Typer:
    """Add the commands to the application; returns their group."""
    server = typer.Typer(help="Look after the coordinator's machine.", no_args_is_help=True)
    server_setup_cli.mount(server)
    run_cli.mount(server)
    versions_cli.mount(server)
    pages_cli.mount(server)
    app.add_typer(server, name="server")
    return server
