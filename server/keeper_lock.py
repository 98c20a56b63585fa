"""One keeper a server: whoever holds the lock writes its number into the lock's file."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from yoriai.errors import DaemonError
from yoriai.files import PRIVATE

_FILE = "keeper.lock"
_ATTEMPTS, _PAUSE_S = 5, 0.1


@contextlib.contextmanager
def kept(run: Path) -> Iterator[None]:
    """Be the keeper of the server with this folder for what holds only while it runs.

    Raises:
        DaemonError: another process is.
    """
    run.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(run / _FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, PRIVATE)
    try:
        _take(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def keeper_of(run: Path) -> int | None:
    """The keeper's process; None if there is none."""
    try:
        descriptor = os.open(run / _FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 20, 0) or 0) or None
    else:
        return None
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Take the lock; somebody who only looks holds it for a moment."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise DaemonError(
                    "a server is running in this folder already", remedy="yoriai server stop DIR"
                ) from None
            time.sleep(_PAUSE_S)
        else:
            return
