"""Ending another process of one's own, and only that one."""

import os
import select
import signal
from collections.abc import Callable

from yoriai.errors import DaemonError


def end(pid: int, what: str, *, timeout_s: float, remedy: str, check: Callable[[], None] = lambda: None) -> None:
    """Ask a process to end, and wait until it has.

    Args:
        pid: its number.
        what: its name in messages, such as "the site's daemon".
        timeout_s: longest wait, in seconds.
        remedy: what helps when it takes longer.
        check: called with the process in hand, before anything is sent to it; raises if it is not the one.

    Raises:
        DaemonError: this user may not end it, it takes longer, or as `check`.
    """
    try:
        # A descriptor of the process stays with it, should its number be given to another meanwhile.
        with open(os.pidfd_open(pid), "rb", buffering=0) as opened:
            check()
            signal.pidfd_send_signal(opened.fileno(), signal.SIGTERM)
            ended, _, _ = select.select([opened], [], [], timeout_s)
    except ProcessLookupError:
        return
    except PermissionError:
        raise DaemonError(f"this user may not stop {what}, process {pid}", remedy="use its own user, or root") from None
    if not ended:
        raise DaemonError(f"{what}, process {pid}, has not ended after {timeout_s:g} s", remedy=remedy)


def kill(pid: int, *, check: Callable[[], None]) -> None:
    """Kill a process, if it is still there.

    Args:
        check: as for `end`.

    Raises:
        DaemonError: as `check`.
    """
    try:
        with open(os.pidfd_open(pid), "rb", buffering=0) as opened:
            check()
            signal.pidfd_send_signal(opened.fileno(), signal.SIGKILL)
    except ProcessLookupError:
        return
