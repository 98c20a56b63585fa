"""A server's and a job's view as tables for a terminal."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHOWN_ROUNDS, _SHOWN_SITES = 10, 12


def print_server(view: Mapping[str, Any], console: Console) -> None:
    """A server's view, and that of the job at work or done last."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(Text("server", style="bold"), "running" if view["running"] else "not running")
    for site, state in view["sites"].items():
        table.add_row(Text(f"site {site}", style="bold"), Text(state))
    if view["queue"]:
        table.add_row(Text("queue", style="bold"), Text(", ".join(view["queue"])))
    console.print(table)
    if view["job"] is not None:
        print_job(view["job"], console)


def print_job(view: Mapping[str, Any], console: Console) -> None:
    """A job's view as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    progress = view["progress"]
    rows = {
        "job": view["run"],
        "state": f"{view['phase']} for {_ago(view['since'])}",
        "round": f"{view['rounds_done']} of {view['rounds']} done",
        "left": _left(view),
        "stage": f"{progress['stage']} of round {progress['round']}" if view["phase"] == "running" else "",
        "connected": ", ".join(progress["connected"]),
        "starts": str(view["starts"]),
        "last error": view["error"],
        "ending": "no further round; after the one at work" if view["ending"] else "",
        "ended early": view["ended_early"],
        "delivered": ", ".join(view["delivered"]),
        "told": ", ".join(view["told"]),
    }
    for key, value in rows.items():
        if value:
            table.add_row(Text(key, style="bold"), Text(value))
    for record in view["took_part"][-_SHOWN_ROUNDS:]:
        table.add_row(Text(f"round {record['round']}", style="bold"), Text(_took_part(record)))
    for site, reason in progress["absent"].items():
        table.add_row(Text(f"without {site}", style="bold"), Text(reason))
    console.print(table)


def _left(view: Mapping[str, Any]) -> str:
    """What is left to do, and when it will be done, at the pace of the last rounds."""
    if not view["rounds_left"]:
        return ""
    text = f"{view['rounds_left']} round{'s' * (view['rounds_left'] > 1)}, then the delivery"
    if view["seconds_left"] is None:
        return f"{text}; how long that takes is known after the first round"
    done = datetime.now(UTC) + timedelta(seconds=view["seconds_left"])
    return f"{text}; at the pace of the last rounds until {done:%Y-%m-%d %H:%M} UTC"


def _took_part(record: Mapping[str, Any]) -> str:
    sites, without = record["sites"], record["without"]
    text = ", ".join(sites) if len(sites) <= _SHOWN_SITES else f"{len(sites)} sites"
    missing = "; ".join(f"without {site}: {reason}" for site, reason in list(without.items())[:_SHOWN_SITES])
    return f"{text} in {record['seconds']:.0f} s" + (f"; {missing}" if missing else "")


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
