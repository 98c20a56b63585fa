"""Whether a site's daemon can work, as its SuperNode's keeper sees it: a node whose daemon cannot is taken off the net.

The server takes a connected node for a site that can be asked. So a daemon that never comes up, or dies again and again
before it is ready, takes its SuperNode along until it is ready again; one that is merely started again does not.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.errors import DaemonError
from yoriai.system.log import EventLog
from yoriai.system.supervisor import Supervisor

# Long enough for a SuperNode to tell the server that it leaves; one that does not must wait a minute to come back.
GRACE_S = 15.0
_LOOK_S = 5.0
# A daemon that is started again listens within seconds.
_GONE_S = 60.0
# Daemons one after the other of which none was ready.
_MOST_STARTS = 3
_READY = ("ready", "working")


class DaemonWatch:
    """Judges, look by look, whether the daemon can work. Pure: whoever looks brings what was seen.

    Args:
        now: when the watch begins, in seconds of any beginning.
    """

    def __init__(self, now: float) -> None:
        self._there_at, self._seen, self._is_down = now, set[int](), False

    def is_well(self, now: float, pid: int | None, state: str) -> bool:
        """Whether the site can be asked, after one more look.

        Args:
            now: in seconds.
            pid: of the process that listens; None if nobody does.
            state: as it says itself.
        """
        if pid is not None:
            self._there_at = now
            self._seen.add(pid)
        if state in _READY:
            self._seen, self._is_down = set(), False
        elif now - self._there_at >= _GONE_S or len(self._seen) >= _MOST_STARTS:
            self._is_down = True
        return not self._is_down


class WatchedNode:
    """A SuperNode that is kept alive as long as the site's daemon can work. Safe for several threads.

    Args:
        made: makes what keeps it alive, for each time anew.
        socket: of the daemon.
        log: told when the node leaves, and comes back, for the daemon's sake.
        look_s: how often the daemon is looked at.
    """

    def __init__(self, made: Callable[[], Supervisor], socket: Path, log: EventLog, *, look_s: float = _LOOK_S) -> None:
        self._made, self._client, self._log, self._look_s = made, DaemonClient(socket), log, look_s
        self._kept, self._earlier = made(), 0
        self._waits = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="daemon watch", daemon=True)

    @property
    def supervisor(self) -> Supervisor:
        """What keeps it alive now, or did last."""
        return self._kept

    @property
    def is_running(self) -> bool:
        """Whether there is a SuperNode now."""
        return self._kept.is_running

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._earlier + self._kept.restarts

    @property
    def waits(self) -> bool:
        """Whether it is down until the daemon is ready."""
        return self._waits

    def start(self) -> None:
        """Start the SuperNode, and look after the daemon from now on."""
        self._kept.start()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """End it for good; as `Supervisor.stop`."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._kept.stop(grace_s)

    def _watch(self) -> None:
        watch = DaemonWatch(time.monotonic())
        while not self._over.wait(self._look_s):
            well = watch.is_well(time.monotonic(), *self._seen())
            if well == self._waits:
                self._switch(on=well)

    def _switch(self, *, on: bool) -> None:
        self._waits = not on
        if on:
            self._log.event("daemon_is_back")
            self._earlier += self._kept.restarts + 1
            self._kept = self._made()
            self._kept.start()
        else:
            self._log.event("daemon_is_gone")
            self._kept.stop(GRACE_S)

    def _seen(self) -> tuple[int | None, str]:
        """The daemon's process and state."""
        state = ""
        with suppress(DaemonError):  # Too busy to answer is not gone.
            state = str(self._client.health()["state"])
        try:
            return self._client.pid(), state
        except DaemonError:  # Its process cannot be seen from another container.
            return (0 if state else None), state
