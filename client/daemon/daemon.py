"""The long-lived process of a site: holds base, records, keys and ledger, and answers through a Unix socket.

Threat model. Flower's side of the site is foreign code under another user, and may be taken over; all that it can do
here is ask. It is let in by the kernel's word on who it is, gets one message worked off at a time, and hears from
the site what the policy allows. It can keep the daemon busy, which a coordinator could as well.

Not covered: root, and code under the daemon's own user. Memory cannot be dumped or traced by others, but may be swapped
out: encrypt the swap.

    main thread    accepts, watches for signals
    a short thread a connection: who is it, what does it want; hands messages over
    message worker   the one thread that works, see message_worker.py
"""

import ctypes
import os
import resource
import selectors
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import yoriai
from yoriai import wire
from yoriai.alarms.sending import Sender, Watch
from yoriai.client.daemon.alarms import Alarms
from yoriai.client.daemon.daemon_config import DaemonConfig
from yoriai.client.daemon.listener import Listener, Peer, peer_of
from yoriai.client.daemon.message_worker import MessageWorker, OpenSite, refuse
from yoriai.client.daemon.site_alarms import LOOK_EVERY_S, site_alarms
from yoriai.client.daemon.site_metrics import daemon_readings
from yoriai.client.daemon.socket_protocol import LARGEST_MESSAGE_BYTES, SOCKET_VERSION, Busy, FrameKind, Line, too_long
from yoriai.errors import EXIT_PARTIAL, DaemonError, WireError, YoriaiError
from yoriai.system.log import EventLog
from yoriai.system.metrics import served
from yoriai.system.signals import wake_up_call

# Who connects says within this time what they want.
_QUESTION_S = 5.0
# Connections that have not said yet what they want; messages that wait are not among them.
_CONNECTIONS = 16
_PR_SET_DUMPABLE = 4

Opener = Callable[[DaemonConfig, EventLog, Callable[[], None]], OpenSite]


def run(config: DaemonConfig, log: EventLog, open_site: Opener) -> None:
    """Be the daemon until SIGTERM, SIGINT or SIGHUP. Call it in a process's main thread; it hardens the process.

    Args:
        open_site: given the configuration, the log, and what to call at every step, which raises when the message at
            hand is to be given up.

    Raises:
        DaemonError: another daemon is listening there, or the socket cannot be made.
        ConfigError: the port for metrics is taken.
        YoriaiError: the site cannot be opened.
    """
    harden()
    with Listener(config.socket) as listener, wake_up_call() as (woken, wake):
        log.event("started", site=config.site.name, pid=os.getpid(), version=yoriai.__version__)
        worker = MessageWorker(
            lambda checkpoint: open_site(config, log, checkpoint),
            log,
            waiting=config.waiting,
            on_failure=wake,
            on_job_waits=Alarms(config.site.name, config.site.alarms.command, log).job_waits,
        )
        sender = Sender(config.site.alarms, config.site.name, log)
        watch = Watch(lambda: site_alarms(config, worker.health().budget), sender, every_s=LOOK_EVERY_S)
        with served(config.site.metrics_port, lambda: daemon_readings(config, worker.health())), watch:
            worker.start()
            Reception(config, worker, log).receive(listener, woken)
        listener.stop()
        log.event("stopping")
        closed = worker.finish(config.grace_s)
        log.event("stopped", closed=closed, error=type(worker.failure).__name__ if worker.failure else None)
        if not closed:
            # A thread is stuck in a library and would hold up the interpreter's own end; the ledger is durable.
            os._exit(EXIT_PARTIAL)
    if worker.failure is not None:
        raise _told(config, worker.failure) from None


def _told(config: DaemonConfig, error: Exception) -> YoriaiError:
    """Why the site cannot be opened. A fault of the code by type and place alone: its message might quote a record."""
    if isinstance(error, YoriaiError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    return DaemonError(
        f"site {config.site.name} cannot be opened",
        found=f"{type(error).__name__} at {place.filename}:{place.lineno}",
    )


def harden() -> None:
    """New files are the daemon's alone, and its memory goes into no core dump and to no debugger but root's.

    Raises:
        DaemonError: the kernel does not agree.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The limit does not bind a core pattern that is a pipe; this flag does.
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise DaemonError("this system does not let a process forbid its core dumps", expected="Linux")


class Reception:
    """Meets every connection: lets in who may, answers what is quick, and hands messages to the message worker."""

    def __init__(self, config: DaemonConfig, worker: MessageWorker, log: EventLog) -> None:
        self._config, self._worker, self._log = config, worker, log
        self._own = frozenset({os.geteuid(), 0})
        self._places = threading.BoundedSemaphore(_CONNECTIONS)

    def receive(self, listener: Listener, woken: socket.socket) -> None:
        """Accept connections until woken."""
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            selector.register(listener.socket, selectors.EVENT_READ)
            while woken not in [key.fileobj for key, _ in selector.select()]:
                with suppress(OSError):  # The other end may be gone by now.
                    self._meet(listener.socket.accept()[0])

    def _meet(self, connection: socket.socket) -> None:
        if self._places.acquire(blocking=False):
            try:
                threading.Thread(target=self._talk, args=(connection,), name="reception", daemon=True).start()
            except RuntimeError:  # The system has no more threads to give.
                connection.close()
                self._places.release()
        else:
            with connection:
                refuse(Line(connection), Busy("too many talk to the site's daemon at once", remedy="try again later"))

    def _talk(self, connection: socket.socket) -> None:
        """Hear what one connection wants. It is closed here unless the message worker has taken it over."""
        line, taken = Line(connection).within(_QUESTION_S), False
        try:
            peer = peer_of(connection)
            if self._may_talk(peer):
                taken = self._answer(line, peer)
            else:
                self._log.event("turned_away", pid=peer.pid, uid=peer.uid, gid=peer.gid)
                refuse(line, DaemonError("this user may not talk to the site's daemon", remedy="ask the operator"))
        except (Busy, WireError) as error:
            self._log.event("not_taken", reason=str(error))
            refuse(line, error)
        except OSError as error:
            self._log.event("lost", error=type(error).__name__)
        finally:
            if not taken:
                connection.close()
            self._places.release()

    def _may_talk(self, peer: Peer) -> bool:
        return peer.uid in self._own | self._config.allowed_uids or peer.gid in self._config.allowed_gids

    def _answer(self, line: Line, peer: Peer) -> bool:
        """Answer a question, or have the message worker take over a message. Whether it has."""
        asked = line.preamble()
        if asked.version != SOCKET_VERSION:
            raise WireError(
                "who asks the site's daemon speaks another version",
                found=str(asked.version),
                expected=str(SOCKET_VERSION),
                remedy="install the same Yoriai for the daemon and for Flower's side, and start both anew",
            )
        if asked.kind == FrameKind.HANDLE:
            if asked.size_bytes > LARGEST_MESSAGE_BYTES:
                raise too_long(asked.size_bytes)
            self._worker.take(line, asked.size_bytes)
            return True
        if asked.kind == FrameKind.HELLO:
            versions = {"socket": SOCKET_VERSION, "protocol": wire.PROTOCOL_VERSION, "version": yoriai.__version__}
            line.send_note(FrameKind.ANSWER, {"site": self._config.site.name, **versions})
        elif asked.kind == FrameKind.HEALTH:
            health = asdict(self._worker.health())
            # Budget and jobs are the operator's to see, not the SuperNode's.
            shown = health if peer.uid in self._own else {"state": health["state"]}
            line.send_note(FrameKind.ANSWER, shown)
        else:
            raise WireError("the site's daemon does not know this question", found=f"kind {asked.kind}")
        return False
