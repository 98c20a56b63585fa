"""How benchmarks give their figures: on the terminal, and in a file."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def command_line() -> str:
    """The command at work, which stands beside its figures."""
    return " ".join(["yoriai", *sys.argv[1:]])


def documented(found: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """The figures with their command; written to the file, if there is one."""
    from yoriai.system.run_files import write_run_file

    document = {"command": command_line(), **found}
    if file is not None:
        write_run_file(file, json.dumps(document, indent=1).encode())
    return document


def show(*tables: Sequence[Sequence[str]], lines: Iterable[str] = ()) -> None:
    """Print tables, each of rows under a head, and lines below them."""
    console = Console()
    for rows in tables:
        console.print(_printed(rows))
    for line in lines:
        console.print(line, highlight=False)


def _printed(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*rows[0], box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows[1:]:
        table.add_row(*row)
    return table
