"""Values that must not be printed, logged, copied or pickled.

Python cannot wipe memory, so this is hygiene and not a vault: it keeps secrets out of `repr`, of log lines, of
tracebacks that show local variables, and of pickles (a worker process, a crash dump of a scheduler).
"""

import threading

from yoriai.errors import ProtocolError


class Guarded:
    """Base of everything that holds a secret: a redacted repr, and neither copies nor pickles."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: redacted>"

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        raise TypeError(f"{type(self).__name__} holds a secret and can be neither pickled nor copied")


class SecretBytes(Guarded):
    """A byte string behind a method, so that it is only seen where it is used."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes; call it inside the expression that needs them, and bind no name to the result."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)


class OneShot(Guarded):
    """Something that happens at most once, also when two threads ask for it together."""

    __slots__ = ("_gate", "_what")

    def __init__(self, what: str) -> None:
        self._gate = threading.Lock()
        self._what = what

    def claim(self, error: type[ProtocolError] = ProtocolError) -> None:
        """Take the one chance.

        Raises:
            ProtocolError: (or the given subclass) if it was taken before, whether or not that attempt succeeded.
        """
        if not self._gate.acquire(blocking=False):
            raise error(f"{self._what} was already used", expected="one use a round", remedy="start a fresh round")
