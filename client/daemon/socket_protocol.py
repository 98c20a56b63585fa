"""The talk over a site's socket: one question a connection, and its answer. Both ends read and write it here.

    preamble   "YDMN" | version (u16) | kind (u16) | length (u64), big-endian; `length` bytes follow

    hello      ->                         <- answer: the site's name and versions, JSON
    health     ->                         <- answer: what the daemon is at, JSON
    handle     -> the length alone        <- proceed, when it is this message's turn
               -> the message's bytes     <- answer: the site's reply
    any                                   <- refused: code and text, JSON, in place of what would have come

A message's bytes follow only upon `proceed`, so that those that wait or are refused cost neither copying nor memory.
The preamble stays as it is in every version: two ends that differ can still tell each other so.

Nothing is encrypted or authenticated here. The socket does not leave the machine, and the kernel says who is at its
other end.
"""

import json
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Any

from yoriai.errors import DaemonError, WireError

SOCKET_VERSION = 1
LARGEST_MESSAGE_BYTES = 256 * 1024 * 1024
LARGEST_NOTE_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
_MAGIC = b"YDMN"
_PREAMBLE = struct.Struct(">4sHHQ")


class Busy(DaemonError):
    """The daemon has no time for this message now; the same message may be welcome later."""


class FrameKind(IntEnum):
    """What a frame is."""

    HELLO = 1
    HEALTH = 2
    HANDLE = 3
    PROCEED = 4
    ANSWER = 5
    REFUSED = 6


@dataclass(frozen=True)
class Preamble:
    """What a frame says of itself before its bytes."""

    version: int
    kind: int
    size_bytes: int


class Line:
    """One end of a connection, with a time limit that each `within` sets anew.

    Every method raises TimeoutError when the limit has passed, and ConnectionError or another OSError when the other
    end is gone.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._deadline = float("inf")

    def within(self, seconds: float) -> "Line":
        """From now on everything together may take this long."""
        self._deadline = time.monotonic() + seconds
        return self

    def announce(self, kind: FrameKind, size_bytes: int = 0) -> None:
        """Send a preamble alone."""
        self.send_bytes(_PREAMBLE.pack(_MAGIC, SOCKET_VERSION, kind, size_bytes))

    def send(self, kind: FrameKind, data: bytes = b"") -> None:
        """Send a whole frame."""
        self.announce(kind, len(data))
        self.send_bytes(data)

    def send_note(self, kind: FrameKind, values: dict[str, Any]) -> None:
        """Send a frame of JSON."""
        self.send(kind, json.dumps(values).encode())

    def send_bytes(self, data: bytes) -> None:
        """Send bytes, a piece at a time."""
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                self._limit()
                sent += self.connection.send(view[sent : sent + _PIECE_BYTES])

    def preamble(self) -> Preamble:
        """Read a preamble, of whatever version.

        Raises:
            WireError: it is none.
        """
        magic, version, kind, size_bytes = _PREAMBLE.unpack(self.bytes_of(_PREAMBLE.size))
        if magic != _MAGIC:
            raise WireError("bytes on a site's socket are not Yoriai's", remedy="check who else uses the socket")
        return Preamble(version, kind, size_bytes)

    def note(self, size_bytes: int) -> dict[str, Any]:
        """Read a frame's bytes as JSON.

        Raises:
            WireError: too long, or not a JSON object.
        """
        if size_bytes > LARGEST_NOTE_BYTES:
            raise WireError(
                "a note is too long", found=f"{size_bytes} bytes announced", expected=f"at most {LARGEST_NOTE_BYTES}"
            )
        try:
            values = json.loads(self.bytes_of(size_bytes))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise WireError("a note on a site's socket is malformed", expected="a JSON object")
        return values

    def bytes_of(self, size_bytes: int) -> bytes:
        """Read exactly that many bytes. Memory grows with what has come, not with what was announced."""
        whole = BytesIO()
        while (missing := size_bytes - whole.tell()) > 0:
            self._limit()
            piece = self.connection.recv(min(missing, _PIECE_BYTES))
            if not piece:
                raise ConnectionError("the other end hung up")
            whole.write(piece)
        return whole.getvalue()

    def _limit(self) -> None:
        """Give the next call on the socket what is left of the time."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the other end is too slow")
        self.connection.settimeout(None if left == float("inf") else left)


def too_long(size_bytes: int) -> WireError:
    """The refusal of a message above the limit."""
    return WireError(
        "a message for a site's daemon is too long",
        found=f"{size_bytes} bytes",
        expected=f"at most {LARGEST_MESSAGE_BYTES}",
        remedy="train a smaller adapter: a lower rank, or fewer target modules",
    )
