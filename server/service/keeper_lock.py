"""One keeper a server: whoever holds the lock is named in the lock's file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from yoriai.errors import DaemonError
from yoriai.system.process_lock import Holder, hold, holder_of, let_go

_FILE = "keeper.lock"


@contextlib.contextmanager
def kept(run: Path) -> Iterator[None]:
    """Be the keeper of the server with this folder for what holds only while it runs.

    Raises:
        DaemonError: another process is.
    """
    run.mkdir(mode=0o700, exist_ok=True)
    try:
        lock = hold(run / _FILE)
    except BlockingIOError:
        raise DaemonError("a server is running in this folder already", remedy="yoriai server stop DIR") from None
    try:
        yield
    finally:
        let_go(lock)


def keeper_of(run: Path) -> Holder | None:
    """The keeper's process; None if there is none."""
    return holder_of(run / _FILE)
