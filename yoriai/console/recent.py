"""A value that is costly to have, kept for a while: many who look at once cost what one costs."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """See the module. Safe for many threads: those who come while it is worked out wait for it.

    Args:
        read: works the value out; an error is raised to whoever asked, and not kept.
        for_s: how long a value is good.
        clock: seconds, of any beginning.
    """

    def __init__(
        self, read: Callable[[], _Value], for_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._for_s, self._clock = read, for_s, clock
        self._lock = threading.Lock()
        self._kept: tuple[float, _Value] | None = None

    def __call__(self) -> _Value:
        """The value, as it is now or was a short while ago."""
        with self._lock:
            if self._kept is None or self._clock() - self._kept[0] >= self._for_s:
                self._kept = (self._clock(), self._read())
            return self._kept[1]

    def forget(self) -> None:
        """Have it worked out at the next call: something was changed."""
        with self._lock:
            self._kept = None


class Unchanged(Generic[_Value]):
    """A value that is costly to have, kept as long as what it is read from is the same. Safe for many threads.

    Args:
        read: works the value out; an error is raised to whoever asked, and not kept.
        mark: tells two states of the source apart, such as by the times of its files; cheap.
    """

    def __init__(self, read: Callable[[], _Value], mark: Callable[[], object]) -> None:
        self._read, self._mark = read, mark
        self._lock = threading.Lock()
        self._kept: tuple[object, _Value] | None = None

    def __call__(self) -> _Value:
        """The value for the source as it is now."""
        with self._lock:
            mark = self._mark()
            if self._kept is None or self._kept[0] != mark:
                self._kept = (mark, self._read())
            return self._kept[1]


def marks_of(paths: Iterable[Path]) -> tuple[tuple[int, int] | None, ...]:
    """Time and size of files, by which a change of any is seen; None for one that is not there."""
    return tuple(_mark_of(path) for path in paths)


def _mark_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
