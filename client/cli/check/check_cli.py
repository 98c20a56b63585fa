"""The command `site check`: everything that can be tried without training, as a table of ticks and crosses."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.terminal import say_while

if TYPE_CHECKING:
    from yoriai.client.cli.check.check_rows import Row
    from yoriai.client.cli.check.site_check import LoadedBase

_console = Console()
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


def mount(site: typer.Typer) -> None:
    """Add the command to the group `site`."""
    site.command("check")(check)


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.", show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the base model, which takes longest.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    own: Annotated[bool, typer.Option("--own", hidden=True, help="Only what is the daemon's, as its user.")] = False,
) -> None:
    """Try everything that can be tried without training. Exit code 2: there is a cross.

    Nothing is spent, and nothing about the records is sent. Root sees everything, and has the daemon's user look at
    what is the daemon's, in the daemon's environment; other users see what is theirs.
    """
    from yoriai.client.cli.check.check_rows import passes
    from yoriai.client.cli.check.own_check import asked_of_daemons_user
    from yoriai.client.cli.check.site_check import check_site, own_rows
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder

    if not folder.is_dir():
        raise ConfigError(f"there is no site folder {folder}", remedy="correct the path")
    site, at, base_of = SiteFolder(folder.resolve()), datetime.now(UTC), None if quick else _load
    rows: list[Row] = []
    if site.path.stat().st_uid == os.geteuid():
        take_own_cache(site)
    with say_while("checking") as now:
        if own:
            looked = own_rows(site, site.config(), now=at, base_of=base_of)
        else:
            looked = check_site(site, now=at, base_of=base_of, own=asked_of_daemons_user(site, quick=quick))
        for row in looked:
            rows.append(row)
            now(f"checking; {row.what} is done")
    if as_json:
        typer.echo(json.dumps({"schema": 1, "passes": passes(rows), "rows": [row.as_json() for row in rows]}, indent=1))
    else:
        _print(rows)
    if not passes(rows):
        raise typer.Exit(EXIT_BAD_INPUT)


def _print(rows: "list[Row]") -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")  # Paths and commands stay whole.
    for row in rows:
        sign, style = _MARKS[row.mark]
        table.add_row(Text(sign, style=style), Text(row.what, style="bold"), Text(row.found))
        if row.remedy:
            table.add_row("", "", Text(f"→ {row.remedy}", style=style))
    _console.print(table)
    crosses, warned = (sum(row.mark == mark for row in rows) for mark in ("fail", "warn"))
    _console.print(f"{len(rows)} checks; crosses: {crosses}, warnings: {warned}", highlight=False)


def _load(name: str) -> "LoadedBase":
    """Load the base as the daemon would, and let it go."""
    import torch

    from yoriai.client.base.base_model import choose_device, load_base
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.client.cli.check.site_check import LoadedBase
    from yoriai.system.memory import available_bytes

    device = choose_device("auto")
    free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    with quiet_libraries():
        base = load_base(name, device=device)
    size_bytes = sum(weight.numel() * weight.element_size() for weight in base.model.state_dict().values())
    return LoadedBase(base.digest, size_bytes, str(device), free_bytes)
