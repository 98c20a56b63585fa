"""What a process is doing, told whenever nothing was told for a while: a long step is then not taken for a dead one."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_FIRST_S = 10.0
_AGAIN_S = 20.0
_LOOK_S = 0.5


class Heartbeat:
    """Tells from a thread of its own what is being done, while a block runs and is silent.

    A context manager: once it is left nothing is told any more.

    Args:
        tell: called with what is being done, and for how many seconds by now. It must not call this object.
        first_s: how long nothing was told before it is called; `again_s` as long as that silence goes on.
        look_s: how often a look is taken.
        clock: seconds, of any beginning.
    """

    def __init__(
        self,
        tell: Callable[[str, float], None],
        *,
        first_s: float = _FIRST_S,
        again_s: float = _AGAIN_S,
        look_s: float = _LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._clock = tell, clock
        self._first_s, self._again_s, self._look_s = first_s, again_s, look_s
        self._what = self._detail = ""
        self._since = clock()
        self._due = self._since + first_s
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def doing(self, what: str, detail: str = "") -> None:
        """Note what is being done now, and how far; with an empty text nothing is, and so nothing is told."""
        with self._lock:
            if what != self._what:
                if not self._what:  # Idleness is no silence.
                    self._due = self._clock() + self._first_s
                self._what, self._since = what, self._clock()
            self._detail = detail

    def told(self) -> None:
        """Note that something else was told just now."""
        with self._lock:
            self._due = self._clock() + self._first_s

    def look(self) -> None:
        """Tell what is being done, if that is due."""
        with self._lock:
            now = self._clock()
            if self._what and now >= self._due:
                self._due = now + self._again_s
                self._tell(", ".join(filter(None, (self._what, self._detail))), now - self._since)

    def _beat(self) -> None:
        while not self._over.wait(self._look_s):
            with suppress(OSError, ValueError):  # A full disk, or a reader that went away; as for `EventLog`.
                self.look()
