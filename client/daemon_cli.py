"""Commands of a site's daemon: `site start`, `site stop`, `site status`."""

import grp
import json
import os
import pwd
import select
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.errors import ConfigError, DaemonError

if TYPE_CHECKING:
    from yoriai.client.daemon_config import DaemonConfig
    from yoriai.client.desk import OpenSite
    from yoriai.log import EventLog

_console = Console()
_Folder = Annotated[Path, typer.Argument(help="The site's folder.", show_default=False)]


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("start")(start)
    site.command("stop")(stop)
    site.command("status")(status)


def start(
    folder: _Folder,
    allow_user: Annotated[
        list[str] | None,
        typer.Option("--allow-user", help="User that may talk to it, beside its own and root."),
    ] = None,
    allow_group: Annotated[
        list[str] | None, typer.Option("--allow-group", help="Group whose users, by their primary group, may.")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
) -> None:
    """Run the site's daemon in the foreground, until it is stopped. It logs to standard error."""
    from yoriai.client.daemon import run
    from yoriai.client.daemon_config import config_in
    from yoriai.log import EventLog

    config = config_in(
        folder,
        allowed_uids=frozenset(_number_of(name, "user") for name in allow_user or ()),
        allowed_gids=frozenset(_number_of(name, "group") for name in allow_group or ()),
    )
    run(config, EventLog(sys.stderr, as_json=log_json), _open_site)


def stop(
    folder: _Folder,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait for its end, in seconds.")] = 60.0,
) -> None:
    """Stop the site's daemon: it finishes the message at hand, or gives it up after half a minute."""
    from yoriai.client.daemon_config import socket_in
    from yoriai.client.door import SocketDoor

    pid = SocketDoor(socket_in(folder)).pid()
    try:
        # A descriptor of the process stays with it, should its number be given to another meanwhile.
        with open(os.pidfd_open(pid), "rb", buffering=0) as process:
            signal.pidfd_send_signal(process.fileno(), signal.SIGTERM)
            ended, _, _ = select.select([process], [], [], timeout_s)
    except ProcessLookupError:
        return
    except PermissionError:
        raise DaemonError(
            "this user may not stop the site's daemon", remedy="use the daemon's own user, or root"
        ) from None
    if not ended:
        raise DaemonError(
            f"the site's daemon, process {pid}, has not ended after {timeout_s:g} s",
            remedy=f"wait longer, or kill it: its ledger stays intact (kill -9 {pid})",
        )


def status(folder: _Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what the site's daemon is at: its job, its last error, its budget. Exit code 4: it is not to be reached."""
    from yoriai.client.daemon_config import socket_in
    from yoriai.client.door import SocketDoor

    door = SocketDoor(socket_in(folder))
    try:
        found = {"reachable": True, **door.hello(), **door.health()}
    except DaemonError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"schema": 1, "reachable": False, "reason": str(error)}, indent=1))
        raise typer.Exit(error.exit_code) from None
    if as_json:
        typer.echo(json.dumps({"schema": 1, **found}, indent=1))
    else:
        _print_status(found)


def _print_status(found: Mapping[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    budget = found.get("budget")
    rows = {
        "site": found["site"],
        "daemon": found["state"],
        "version": found["version"],
        "messages": f"{found['messages']} answered, {found['waiting']} waiting" if "messages" in found else None,
        "job": f"{found['job']}, round {found['round']}" if found.get("job") else None,
        "budget": f"epsilon {budget['left']:.3g} of {budget['epsilon_budget']:.3g} is left" if budget else None,
        "last error": found.get("last_error"),
    }
    for key, value in rows.items():
        if value:
            table.add_row(Text(key, style="bold"), Text(str(value)))
    _console.print(table)


def _open_site(config: "DaemonConfig", log: "EventLog", checkpoint: Callable[[], None]) -> "OpenSite":
    """Load the model libraries last, so that the socket is there and wrong settings are told at once."""
    from yoriai.client.daemon_site import open_site

    return open_site(config, log, checkpoint)


def _number_of(name: str, kind: Literal["user", "group"]) -> int:
    """The number of a user or group of this machine."""
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"--allow-{kind}: this machine has no such {kind}", found=repr(name[:80]), remedy="correct the name"
        ) from None
