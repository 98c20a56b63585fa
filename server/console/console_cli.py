"""The command `server console`."""

from pathlib import Path
from typing import Annotated

import typer


def mount(server: typer.Typer) -> None:
    """Add the command to the group `server`."""
    server.command("console")(console)


def console(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1 that it listens on; 0: any.")
    ] = 8021,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Offer what the command line offers, by a link of its own.")
    ] = False,
) -> None:
    """Show the server on a live page on this machine, until it is stopped: sites, jobs, versions, log, alarms."""
    from yoriai.console.running import run
    from yoriai.server.console.console import console_of
    from yoriai.server.folder.server_folder import ServerFolder

    place = ServerFolder(folder.resolve())
    place.config()
    place.check_user()
    run(console_of(place, allow_actions=allow_actions), port)
