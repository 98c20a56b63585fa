"""Ending another process of one's own, and only that one: it is named by the lock that it holds."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from yoriai.errors import DaemonError
from yoriai.system.process_lock import Holder


def end(holder: Holder, owner: int, what: str, *, timeout_s: float, remedy: str) -> None:
    """Ask a process to end, and wait until it has.

    Args:
        holder: the process.
        owner: number of the user whose process it has to be.
        what: its name in messages, such as "the site's daemon".
        timeout_s: longest wait, in seconds.
        remedy: what helps when it takes longer.

    Raises:
        DaemonError: this user may not end it, it takes longer, or it is another process than the lock means.
    """
    pid, ended = holder.pid, True
    try:
        with suppress(ProcessLookupError), _in_hand(holder, owner) as descriptor:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            ended = bool(select.select([descriptor], [], [], timeout_s)[0])
    except PermissionError:
        raise DaemonError(f"this user may not stop {what}, process {pid}", remedy="use its own user, or root") from None
    if not ended:
        raise DaemonError(f"{what}, process {pid}, has not ended after {timeout_s:g} s", remedy=remedy)


def kill(holder: Holder, owner: int) -> None:
    """Kill a process, if it is still there.

    Args:
        holder, owner: as for `end`.

    Raises:
        DaemonError: it is another process than the lock means.
        PermissionError: this user may not.
    """
    with suppress(ProcessLookupError), _in_hand(holder, owner) as descriptor:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


@contextmanager
def _in_hand(holder: Holder, owner: int) -> Iterator[int]:
    """A descriptor stays with its process, should the number be given to another meanwhile."""
    with open(os.pidfd_open(holder.pid), "rb", buffering=0) as opened:
        holder.check(owner)
        yield opened.fileno()
