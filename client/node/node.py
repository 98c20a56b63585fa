"""Flower's SuperNode at a site: how it is started, and the process that keeps it alive.

Threat model. Nothing of an app bundle is opened or run at a site: an executor of Yoriai's own (`executor.py`) answers
what the SuperNode's messages ask. The SuperNode itself is foreign code that talks to the server all day, so it belongs
to a user of its own, who may read `node/` and nothing else of the site, and reaches the daemon by its socket alone.
What keeps the SuperNode alive, and its executor, run as the same user and hold nothing that this user may not know.

The SuperNode hands messages to its executor over an interface on loopback, where any user of the machine may connect.
Who knows the secret in `node/flower` gets a message there, and who got one may answer it; others can keep it busy.
"""

import os
import secrets
import selectors
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yoriai
from yoriai import flower
from yoriai.alarms.sending import Sender, Watch
from yoriai.client.daemon.answers import NodeHealth
from yoriai.client.daemon.daemon_client import NODE_CONFIG_KEY, DaemonClient
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.daemon.listener import Listener, peer_of
from yoriai.client.daemon.message_worker import refuse
from yoriai.client.daemon.site_metrics import node_readings
from yoriai.client.daemon.socket_protocol import SOCKET_VERSION, FrameKind, Line
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.daemon_watch import GRACE_S, WatchedNode
from yoriai.client.node.node_alarms import LOOK_EVERY_S, node_alarms
from yoriai.client.node.node_words import last_word
from yoriai.config import SiteConfig
from yoriai.errors import ConfigError, DaemonError, WireError
from yoriai.system.files import make_private_folder
from yoriai.system.log import EventLog
from yoriai.system.metrics import served
from yoriai.system.signals import wake_up_call
from yoriai.system.supervisor import Supervisor

_LOOPBACK = "127.0.0.1"
# Below the ports that the system gives to outgoing connections. Flower binds its port seconds after it was found to be
# free; drawn from many, it is hardly ever another node's by then, and if it is, the next start draws anew.
_PORTS = range(20_000, 32_000)
_DRAWS = 100
_QUESTION_S = 2.0
# What a keeper of an earlier version does not say.
_UNSAID: Mapping[str, Any] = {"waits": False, "accepted": None, "server_says": ""}


def node_socket_in(folder: Path) -> Path:
    """Where the keeper of a site's SuperNode answers; who has it keeps the only one."""
    return SiteFolder(folder.resolve()).node / "node.sock"


def node_log_in(site: SiteFolder) -> Path:
    """What Flower says."""
    return site.node / "supernode.log"


def node_command(site: SiteFolder, config: SiteConfig) -> list[str]:
    """The SuperNode's command line, with a port on loopback that is free now.

    Raises:
        ConfigError: no port is free, or the site's path has a character that Flower's settings cannot hold.
    """
    daemon = socket_in(site.path)
    if set(str(daemon)) & set('"\\\n'):
        raise ConfigError("the path of the site's folder has a quotation mark or a backslash", remedy="rename it")
    return [
        *(sys.executable, "-P", str(Path(__file__).with_name("supernode.py"))),
        *(str(config.server.pause_busy_s), str(config.server.pause_idle_s)),
        *("--superlink", config.server.address),
        *("--root-certificates", str(site.server_ca)),
        *("--auth-supernode-private-key", str(site.node_key)),
        *("--node-config", f'{NODE_CONFIG_KEY}="{daemon}"'),
        *("--host", _LOOPBACK),
        *("--port", str(_free_port())),
    ]


def node_environment(site: SiteFolder, config: SiteConfig) -> dict[str, str]:
    """The SuperNode's environment. Which proxy it takes is for site.toml to say, not for whoever starts it."""
    found = flower.environment(site.node / "flower")
    return found | ({"HTTPS_PROXY": config.server.proxy} if config.server.proxy else {})


def check_ready(site: SiteFolder, config: SiteConfig) -> None:
    """What must be there before a SuperNode is started.

    Raises:
        ConfigError: a setting or a file is missing, or may not be read.
    """
    again = f"yoriai site enrol {site.path}"
    if not config.server.address:
        raise ConfigError(
            "this site knows no server", expected="server.address in site.toml", remedy=f"set it in {site.settings}"
        )
    for path, what, remedy in (
        (site.node_key, "the SuperNode's key", again),
        (site.server_ca, "the CA of the server's certificate", f"{again} --server-ca ca.crt"),
    ):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{what}, {path}, is not there, or not for this user to read", remedy=remedy)


def keep_node(site: SiteFolder, log: EventLog) -> None:
    """Keep the site's SuperNode alive until SIGTERM, SIGINT or SIGHUP. Call it in a process's main thread.

    Args:
        site: with an absolute path.

    Raises:
        ConfigError: as `check_ready`, or the port for metrics is taken.
        DaemonError: the site's SuperNode is kept by another process.
    """
    config = site.config()
    check_ready(site, config)
    os.umask(0o077)
    with _only_one(site) as listener, wake_up_call() as (woken, _):
        make_private_folder(site.node / "flower")

        def supervised() -> Supervisor:
            return Supervisor(
                "supernode",
                lambda: node_command(site, config),
                environment=node_environment(site, config),
                log=log,
                output=node_log_in(site),
            )

        kept = WatchedNode(supervised, socket_in(site.path), log)
        log.event("node_started", site=config.name, server=config.server.address, pid=os.getpid())
        kept.start()
        try:
            fixed = {"site": config.name, "server": config.server.address}

            def state() -> dict[str, Any]:
                return _state(kept, node_log_in(site))

            watch = Watch(lambda: node_alarms(state()), Sender(config.alarms, config.name, log), every_s=LOOK_EVERY_S)
            with served(config.node_metrics_port, lambda: node_readings(config.name, kept)), watch:
                _answer_until(woken, listener, lambda: {**fixed, **state()})
        finally:
            listener.stop()
            kept.stop(GRACE_S)
            log.event("node_stopped")


def node_state(folder: Path) -> dict[str, Any]:
    """What the keeper of a site's SuperNode says, as NodeHealth has it; or why it says nothing.

    `reachable` is None where this user may not ask.
    """
    path = node_socket_in(folder)
    if not os.access(path.parent, os.X_OK):
        return {"reachable": None, "reason": "only root and the SuperNode's own user may see it"}
    try:
        return {"reachable": True, **_UNSAID, **DaemonClient(path).health_as(NodeHealth)}
    except DaemonError as error:
        return {"reachable": False, "reason": error.what if os.path.lexists(path) else "not started"}


def _only_one(site: SiteFolder) -> Listener:
    path = node_socket_in(site.path)
    try:
        pid = DaemonClient(path).pid()
    except DaemonError:
        return Listener(path)
    raise DaemonError(
        f"the SuperNode of {site.path} is kept by another process already",
        found=f"process {pid}",
        remedy="`yoriai site status` shows it; keep it alone or under systemd, never both",
    )


def _state(kept: WatchedNode, said: Path) -> dict[str, Any]:
    now = kept.supervisor
    word = last_word(said)
    return {
        "running": now.is_running,
        "pid": now.pid,
        "restarts": kept.restarts,
        "since": now.since.isoformat(timespec="seconds"),
        "waits": kept.waits,
        "accepted": word.accepted,
        "server_says": word.text,
    }


def _answer_until(woken: socket.socket, listener: Listener, state: Any) -> None:
    """Answer root and this process's own user, one after the other; nobody else gets through to the socket."""
    with selectors.DefaultSelector() as selector:
        selector.register(woken, selectors.EVENT_READ)
        selector.register(listener.socket, selectors.EVENT_READ)
        while woken not in [key.fileobj for key, _ in selector.select()]:
            with suppress(OSError, WireError), listener.socket.accept()[0] as connection:
                _answer(connection, state())


def _answer(connection: socket.socket, state: Mapping[str, Any]) -> None:
    line = Line(connection).within(_QUESTION_S)
    if peer_of(connection).uid not in {os.geteuid(), 0}:
        refuse(line, DaemonError("this user may not ask for the site's SuperNode"))
        return
    asked = line.preamble()
    if asked.version == SOCKET_VERSION and asked.kind in (FrameKind.HELLO, FrameKind.HEALTH):
        line.send_note(FrameKind.ANSWER, {**state, "version": yoriai.__version__})
    else:
        refuse(line, DaemonError("the keeper of the site's SuperNode does not know this question"))


def _free_port() -> int:
    for _ in range(_DRAWS):
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial, suppress(OSError):
            trial.bind((_LOOPBACK, port))
            return port
    raise ConfigError(
        "no port on loopback is free for the SuperNode", expected=f"most of {_PORTS.start} to {_PORTS.stop - 1}"
    )
