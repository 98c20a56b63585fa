"""The command `site console`."""

from pathlib import Path
from typing import Annotated

import typer


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("console")(console)


def console(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1 that it listens on; 0: any.")
    ] = 8022,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Offer what the command line offers, by a link of its own.")
    ] = False,
) -> None:
    """Show the site on a live page on this machine, until it is stopped: jobs, budget, adapters, alarms."""
    from yoriai.client.cli.own_ledger import check_writer
    from yoriai.client.console.console import console_of
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.console.running import run

    site = SiteFolder(folder.resolve())
    site.config()
    check_writer(site)
    run(console_of(site, allow_actions=allow_actions), port)
