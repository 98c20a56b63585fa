"""How a long-lived process hears that it shall end: its main thread is woken, wherever it waits.

A handler in Python runs once the main thread is back in the interpreter. A signal that comes just before that thread
waits in the kernel, or that the kernel hands to another thread, would be heard at the next connection, or never. So the
socket is written by what the interpreter itself does on a signal, at once and in whichever thread.
"""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def wake_up_call() -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """A socket that becomes readable when a signal asks the process to stop, or when `wake` is called.

    Call it in a process's main thread. Any other signal that has a handler in Python wakes as well.
    """
    woken, waking = socket.socketpair()
    waking.setblocking(False)

    def wake() -> None:
        with suppress(OSError):  # Full: it has been woken often enough.
            waking.send(b"!")

    # What the caller has set to be ignored stays so: nohup does, for one.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with woken, waking:
        told_before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, _heard) for number in heard}
        try:
            yield woken, wake
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(told_before)


@contextmanager
def ignoring(number: signal.Signals) -> Iterator[None]:
    """A signal does nothing meanwhile; what is started within ignores it for good. For the main thread alone."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _heard(*_: object) -> None:
    """There has to be a handler for the socket to be written; it need do nothing."""
