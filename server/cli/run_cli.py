"""The commands `server start | stop | status`: the process that keeps a server."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yoriai.errors import DaemonError

_console = Console()
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]


def mount(server: typer.Typer) -> None:
    """Add the commands to the group `server`."""
    server.command("start")(start)
    server.command("stop")(stop)
    server.command("status")(status)


def start(
    folder: _Folder, log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False
) -> None:
    """Keep the server in the foreground until it is stopped: SuperLink, nodes and jobs. It logs to standard error."""
    from yoriai.alarms.sending import Sender, Watch
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.service.keeper import Keeper
    from yoriai.server.service.keeper_lock import kept
    from yoriai.server.service.server_alarms import LOOK_EVERY_S, look
    from yoriai.server.service.server_metrics import readings
    from yoriai.system.log import EventLog
    from yoriai.system.metrics import served
    from yoriai.system.signals import wake_up_call

    place = ServerFolder(folder.resolve())
    config = place.config()
    place.check_user()
    os.umask(0o077)
    with wake_up_call() as (woken, _), kept(place.run):
        log = EventLog(sys.stderr, as_json=log_json)
        log.event("started", pid=os.getpid(), server=str(place.path))
        watch = Watch(lambda: look(place), Sender(config.alarms, config.name, log), every_s=LOOK_EVERY_S)
        with served(config.metrics_port, lambda: readings(place)), watch:
            Keeper(place, log).run(woken)
        log.event("stopped")


def stop(
    folder: _Folder,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait for its end, in seconds.")] = 60.0,
) -> None:
    """Stop the server. A job at work goes on from its last stored round when the server is started again."""
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.service.keeper_lock import keeper_of
    from yoriai.system.processes import end

    place = ServerFolder(folder.resolve())
    place.config()
    keeper = keeper_of(place.run)
    if keeper is None:
        raise DaemonError("no server is running in this folder")
    remedy = f"wait longer, or kill it: what was stored stays (kill -9 {keeper.pid})"
    owner = place.path.stat().st_uid  # Root may stop it too, but nobody else's process in its stead.
    end(keeper, owner, "the server", timeout_s=timeout_s, remedy=remedy)


def status(folder: _Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the server: sites seen, the job at work, its round and stage, the last error. Exit code 4: not running."""
    from yoriai.server.cli.status_table import print_server
    from yoriai.server.folder.server_folder import ServerFolder
    from yoriai.server.service.keeper_lock import keeper_of
    from yoriai.server.service.status import server_view

    place = ServerFolder(folder.resolve())
    place.config()
    view = server_view(place, is_kept=keeper_of(place.run) is not None)
    if as_json:
        typer.echo(json.dumps({"schema": 1, **view}, indent=1))
    else:
        print_server(view, _console)
    if not view["running"]:
        raise typer.Exit(DaemonError.exit_code)
