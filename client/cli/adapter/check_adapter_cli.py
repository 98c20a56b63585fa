"""`yoriai check-adapter`: an adapter or a GGUF file from elsewhere is looked at before anything loads it."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.errors import EXIT_REFUSED
from yoriai.terminal import say_while

_console = Console()


def mount(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("check-adapter")(check_adapter)


def check_adapter(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of an adapter, GGUF file, or a version's file.")],
    base: Annotated[
        str | None, typer.Option("--base", help="The base that it is to go with: a name, a folder or a .gguf file.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="Folder of a site, whose pinned CA verifies the signature.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at an adapter or a GGUF file: digest, signature, base, chat template, tensors, values, sizes, foreign files.

    Exit code 3: it should not be loaded. It says nothing of whether the adapter is any good.
    """
    with say_while("looking at it"):
        from yoriai.client.edge.checking import check
        from yoriai.client.folder.site_folder import SiteFolder

        trust = SiteFolder(site.resolve()).trusted.trust(datetime.now(UTC)) if site is not None else None
        found = check(path, base=base, trust=trust)
    if as_json:
        typer.echo(json.dumps({"schema": 1, "loadable": not found.faults, **asdict(found)}, indent=1))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        rows = {"kind": found.kind, "digest": found.digest, "size": f"{found.size_bytes / 1e6:.2f} MB", **found.facts}
        for name, value in rows.items():
            table.add_row(Text(name, style="bold"), Text(value))
        for name, texts, style in (("fault", found.faults, "bold red"), ("warning", found.warnings, "yellow")):
            for text in texts:
                table.add_row(Text(name, style=style), Text(text))
        _console.print(table)
    if found.faults:
        raise typer.Exit(EXIT_REFUSED)
