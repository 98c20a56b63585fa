"""Commands of a site's daemon and its SuperNode: `site start`, `site stop`, `site status`."""

import grp
import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.errors import ConfigError, DaemonError
from yoriai.privacy.dp.wording import epsilon_text

if TYPE_CHECKING:
    from yoriai.client.daemon.daemon_config import DaemonConfig
    from yoriai.client.daemon.message_worker import OpenSite
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.node.site_start import Users
    from yoriai.system.log import EventLog

_console = Console()
_Folder = Annotated[Path, typer.Argument(help="The site's folder.", show_default=False)]


def mount(site: typer.Typer) -> None:
    """Add the commands to the group `site`."""
    site.command("start")(start)
    site.command("stop")(stop)
    site.command("status")(status)


def start(
    folder: _Folder,
    only: Annotated[
        Literal["daemon", "node"] | None,
        typer.Option("--only", help="Start one of the two, as the systemd units do; default: both, once enrolled."),
    ] = None,
    node_user: Annotated[
        str | None,
        typer.Option("--node-user", help="User that the SuperNode runs as, where root starts it; may talk to it."),
    ] = None,
    same_user: Annotated[
        bool,
        typer.Option(
            "--same-user",
            help="Run the SuperNode as the daemon's user: if it were taken over, keys and records could be read.",
        ),
    ] = False,
    allow_user: Annotated[
        list[str] | None,
        typer.Option("--allow-user", help="User that may talk to the daemon, beside its own and root."),
    ] = None,
    allow_group: Annotated[
        list[str] | None, typer.Option("--allow-group", help="Group whose users, by their primary group, may.")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
) -> None:
    """Run the site in the foreground, until it is stopped: its daemon and, once it knows a server, Flower's SuperNode.

    It logs to standard error; what Flower says goes to node/supernode.log.
    """
    from yoriai.client.daemon.daemon import run
    from yoriai.client.daemon.daemon_config import config_in
    from yoriai.client.folder.daemon_environment import take_own_cache
    from yoriai.client.folder.site_folder import SiteFolder
    from yoriai.client.node import site_start as starting
    from yoriai.client.node.node import check_ready, keep_node
    from yoriai.system.log import EventLog

    log = EventLog(sys.stderr, as_json=log_json)
    site = SiteFolder(folder.resolve())
    if only is not None and node_user is not None:
        raise ConfigError("--node-user starts both, and --only one of them", remedy="leave one of the two out")
    if only == "node":
        users = starting.Users(site.identity_key.parent.stat().st_uid, os.geteuid())
        _allow_same(site, users, log, same_user=same_user)
        keep_node(site, log)
        return
    config = config_in(
        folder,
        allowed_uids=frozenset(_number_of(name, "user") for name in allow_user or ()),
        allowed_gids=frozenset(_number_of(name, "group") for name in allow_group or ()),
    )
    if only == "daemon" or not config.site.server.address:
        starting.refuse_foreign(site)
        take_own_cache(site)
        run(config, log, _open_site)
        return
    users = starting.users_of(site, node_user)
    _allow_same(site, users, log, same_user=same_user)
    check_ready(site, config.site)
    allowed = [part for name in allow_user or () for part in ("--allow-user", name)]
    allowed += [part for name in allow_group or () for part in ("--allow-group", name)]
    starting.keep_both(site, users, log, options=["--log-json"] * log_json, of_daemon=allowed)


def stop(
    folder: _Folder,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait for an end, in seconds.")] = 90.0,
) -> None:
    """Stop the site: its SuperNode, then its daemon, which finishes the message at hand or gives it up.

    The daemon gives it up after half a minute.
    """
    from yoriai.client.node import site_stop as stopping

    for process in stopping.running(folder):
        stopping.stop(process, timeout_s)


def status(folder: _Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what the site is at: its daemon's job, last error and budget, its membership, and its SuperNode.

    Exit code 4: the daemon is not to be reached.
    """
    from yoriai.client.cli.site_status import site_status

    found = site_status(folder)
    if as_json:
        typer.echo(json.dumps({"schema": 1, **found}, indent=1))
    else:
        _print_status(found)
    if not found["reachable"]:
        if not as_json:
            raise DaemonError(found["reason"])
        raise typer.Exit(DaemonError.exit_code)


def _print_status(found: Mapping[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    budget = found.get("budget")
    rows = {
        "site": found.get("site"),
        "daemon": found.get("state", "not to be reached"),
        "version": found.get("version"),
        "messages": f"{found['messages']} answered, {found['waiting']} waiting" if "messages" in found else None,
        "job": f"{found['job']}, round {found['round']}" if found.get("job") else None,
        "budget": f"epsilon {epsilon_text(budget['left'])} of {budget['epsilon_budget']:g} is left" if budget else None,
        "last error": found.get("last_error"),
        "membership": found["membership"],
        "node": _node_in_words(found["node"]),
    }
    for key, value in rows.items():
        if value:
            table.add_row(Text(key, style="bold"), Text(str(value)))
    _console.print(table)


def _node_in_words(node: Mapping[str, Any]) -> str:
    if not node["reachable"]:
        return str(node["reason"])
    if node.get("waits"):
        return f"down since {node['since']}, until the site's daemon is ready: its log says why it is not"
    state = f"running as process {node['pid']}" if node["running"] else "not running, will be started again"
    text = f"{state} since {node['since']}, restarts: {node['restarts']}, for {node['server']}"
    if node.get("accepted"):
        return f"{text}, which has taken it"
    return text + (f"; the server: {node['server_says']}" if node.get("server_says") else "")


def _allow_same(site: "SiteFolder", users: "Users", log: "EventLog", *, same_user: bool) -> None:
    """Refuse a SuperNode that may read what is the daemon's, or say in the log that the operator wants it so."""
    from yoriai.client.node.site_start import refuse_same

    try:
        refuse_same(site, users)
    except ConfigError as error:
        if not same_user:
            raise
        log.event("unprotected", reason=error.what)


def _open_site(config: "DaemonConfig", log: "EventLog", checkpoint: Callable[[], None]) -> "OpenSite":
    """Load the model libraries last, so that the socket is there and wrong settings are told at once."""
    from yoriai.client.daemon.daemon_site import open_site

    return open_site(config, log, checkpoint)


def _number_of(name: str, kind: Literal["user", "group"]) -> int:
    """The number of a user or group of this machine."""
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"--allow-{kind}: this machine has no such {kind}", found=repr(name[:80]), remedy="correct the name"
        ) from None
