"""Versions, their facts and the log as lines and tables for a terminal."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.server.versions.log import LogRow
from yoriai.terminal import one_line

_NOT_SHOWN = ("at", "event", "key", "statement")


def print_versions(view: Mapping[str, Any], console: Console) -> None:
    """All versions, newest last."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "adapter", "rounds", "by", "sites", "epsilon", "ended", "channels"):
        table.add_column(name, overflow="fold")
    for row in view["versions"]:
        epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:g}"
        cells = (row["run"], row["adapter"][:12], row["rounds"], row["trained_by"], row["sites"], epsilon)
        shown = (*map(str, cells), row["ended"][:10], ", ".join(row["channels"]))
        table.add_row(*(Text(cell) for cell in shown))
    console.print(table if view["versions"] else "no job has become a version yet")


def print_facts(facts: Mapping[str, Any], console: Console) -> None:
    """All that is known of one version."""
    table = Table(box=None, show_header=False, pad_edge=False)
    statement = facts["statement"]
    table.add_row(Text("adapter", style="bold"), Text(statement["subject"][0]["digest"]["yoriaiAdapter1"]))
    rows = {
        **statement["predicate"],
        **{key: facts[key] for key in ("sites", "metrics", "votes", "votes_withheld", "channels", "lineage")},
    }
    for key, value in rows.items():
        if value not in (None, "", [], {}):
            table.add_row(Text(key, style="bold"), Text(_shown(value)))
    console.print(table)


def print_differences(found: Mapping[str, Sequence[Any]], console: Console) -> None:
    """A row a fact that differs."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "old", "new"):
        table.add_column(name, overflow="fold")
    for key, (old, new) in found.items():
        table.add_row(Text(key, style="bold"), Text(_shown(old)), Text(_shown(new)))
    console.print(table if found else "they do not differ")


def print_checks(run: str, view: Mapping[str, Any], console: Console) -> None:
    """A row a check of the version in production, and what they come to."""
    table = Table(box=None, pad_edge=False)
    for name in ("check", "began", "accuracy", "error", "answered", "withheld"):
        table.add_column(name, overflow="fold")
    for row in view["checks"]:
        figures = ("" if row[key] is None else f"{row[key]:.3f}" for key in ("accuracy", "error"))
        sites = (", ".join(row[key]) for key in ("answered", "withheld"))
        table.add_row(*map(Text, (str(row["period"]), row["began"][:10], *figures, *sites)))
    console.print(f"production holds {run}", markup=False, highlight=False)
    console.print(table if view["checks"] else "no check was asked for yet")
    if found := view["drift"]:
        fell = f"its accuracy fell by {found['fall']:.3f} since the first check (standard error {found['error']:.3f})"
        console.print(f"DRIFT: {fell}", style="bold red")


def log_line(row: LogRow) -> str:
    """A row of the log on one line."""
    body = json.loads(row.body)
    at = datetime.fromtimestamp(body["at"], UTC)
    told = "  ".join(f"{key}={_shown(value)}" for key, value in body.items() if key not in _NOT_SHOWN)
    return one_line(f"{row.number}  {at:%Y-%m-%d %H:%M:%S}  {body['event']}  {told}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
