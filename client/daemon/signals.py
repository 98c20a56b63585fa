"""How a long-lived process of a site hears that it shall end: its main thread is woken, wherever it waits."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def wake_up_call() -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """A socket that becomes readable when a signal asks the process to stop, or when `wake` is called."""
    woken, waking = socket.socketpair()
    waking.setblocking(False)

    def wake(*_: object) -> None:
        with suppress(OSError):  # Full: it has been woken often enough.
            waking.send(b"!")

    # What the caller has set to be ignored stays so: nohup does, for one.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, wake) for number in heard}
    try:
        with woken, waking:
            yield woken, wake
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
