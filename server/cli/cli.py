"""Commands of the coordinator's machine: those of its folder (`setup_cli.py`) and of its process (`run_cli.py`)."""

import typer

from yoriai.server.cli import run_cli, setup_cli


def mount(app: typer.Typer) -> None:
    """Add the commands to the application."""
    server = typer.Typer(help="Look after the coordinator's machine.", no_args_is_help=True)
    setup_cli.mount(server)
    run_cli.mount(server)
    app.add_typer(server, name="server")
