"""The way to a site's daemon through its socket. Bytes in, bytes out; no model, no record and no key on this side.

A process that Flower starts for one message imports this and little else.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from yoriai import wire
from yoriai.client.daemon.answers import DaemonHealth, Form, Hello, answer_of, error_texts
from yoriai.client.daemon.listener import peer_of
from yoriai.client.daemon.socket_protocol import (
    LARGEST_MESSAGE_BYTES,
    SOCKET_VERSION,
    Busy,
    FrameKind,
    Line,
    Preamble,
    too_long,
)
from yoriai.errors import DaemonError, WireError

# The key of a node's own configuration, as `flower-supernode --node-config` sets it at the site.
NODE_CONFIG_KEY = "daemon-socket"
_SHORT_S = 10.0
_TRANSFER_S = 60.0


class DaemonClient:
    """A site's daemon, reached through its socket; one connection a question.

    Args:
        path: the socket.
        patience_s: longest wait for a message's turn, and again for its answer, which training may keep for hours. A
            daemon that ends meanwhile is noticed at once.

    Every method raises DaemonError, with a remedy, when the daemon does not run, does not let this user in, speaks
    another version, or takes too long.
    """

    def __init__(self, path: Path, *, patience_s: float = 24 * 3600.0) -> None:
        self._path, self._patience_s = path, patience_s

    @cached_property
    def name(self) -> str:
        """The site's name, as the daemon says it."""
        return str(self.hello()["site"])

    def hello(self) -> dict[str, Any]:
        """The daemon's site and versions."""
        return answer_of(Hello, self._ask(FrameKind.HELLO))

    def health(self) -> dict[str, Any]:
        """What the daemon is at: for its own user and root in full, for others the state alone."""
        return self.health_as(DaemonHealth)

    def health_as(self, form: type[Form]) -> dict[str, Any]:
        """What somebody else than a daemon, who listens at this socket, is at."""
        return answer_of(form, self._ask(FrameKind.HEALTH))

    def handle(self, data: bytes) -> bytes:
        """The site's answer to one message. A daemon without time refuses like the site itself, by a Refusal.

        Raises:
            WireError: the message is longer than the daemon takes.
        """
        if len(data) > LARGEST_MESSAGE_BYTES:
            raise too_long(len(data))
        site = self.name  # Asked now: a daemon that is stopping answers no further question.
        try:
            with self._line() as line:
                _question(line, FrameKind.HANDLE, len(data))
                self._expect(line.within(self._patience_s), FrameKind.PROCEED)
                line.within(_TRANSFER_S).send_bytes(data)
                preamble = self._expect(line.within(self._patience_s), FrameKind.ANSWER)
                if preamble.size_bytes > LARGEST_MESSAGE_BYTES:
                    raise DaemonError(
                        f"the answer of the daemon at {self._path} is too long",
                        found=f"{preamble.size_bytes} bytes",
                        expected=f"at most {LARGEST_MESSAGE_BYTES}",
                    )
                return line.within(_TRANSFER_S).bytes_of(preamble.size_bytes)
        except Busy as error:
            run_id = str(wire.peek(data).get("run_id", ""))[:128]
            return wire.encode(wire.Refusal(run_id=run_id, site=site, reason=str(error)))

    def pid(self) -> int:
        """The daemon's process, by the kernel's word.

        Raises:
            DaemonError: also where the process lies in another PID namespace.
        """
        with self._line() as line:
            pid = peer_of(line.connection).pid
        if pid <= 0:
            raise DaemonError(
                f"the daemon at {self._path} is not a process that can be seen from here",
                remedy="ask where it was started, in its container or on its host",
            )
        return pid

    def _ask(self, kind: FrameKind) -> dict[str, Any]:
        with self._line() as line:
            _question(line, kind)
            return line.note(self._expect(line, FrameKind.ANSWER).size_bytes)

    def _expect(self, line: Line, kind: FrameKind) -> Preamble:
        """The preamble of an answer of this kind; a refusal is raised."""
        preamble = line.preamble()
        if preamble.version != SOCKET_VERSION:
            raise DaemonError(
                f"the daemon at {self._path} speaks another version",
                found=str(preamble.version),
                expected=str(SOCKET_VERSION),
                remedy="install the same Yoriai for the daemon and for Flower's side, and start both anew",
            )
        if preamble.kind == FrameKind.REFUSED:
            note = line.note(preamble.size_bytes)
            raise (Busy if note.get("busy") is True else DaemonError)(**error_texts(note))
        if preamble.kind != kind:
            raise DaemonError(f"the daemon at {self._path} answered out of order", remedy="start it anew")
        return preamble

    @contextmanager
    def _line(self) -> Iterator[Line]:
        """A connection, and every fault of it by name."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.settimeout(_SHORT_S)
                connection.connect(str(self._path))
                yield Line(connection)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                raise DaemonError(
                    f"no daemon listens at {self._path}", remedy="start it at the site with `yoriai site start`"
                ) from None
            except PermissionError:
                raise DaemonError(
                    f"this user may not reach the daemon at {self._path}",
                    remedy="put the user into the group of the socket's folder",
                ) from None
            except TimeoutError:
                raise DaemonError(
                    f"the daemon at {self._path} does not answer in time",
                    remedy="`yoriai site status` shows what it is at",
                ) from None
            except (OSError, WireError) as error:
                raise DaemonError(
                    f"the talk with the daemon at {self._path} broke off",
                    found=type(error).__name__,
                    remedy="its own log says why; start it anew if it has ended",
                ) from None


def _question(line: Line, kind: FrameKind, size_bytes: int = 0) -> None:
    # Whoever is turned away at once finds the other end closed, and the reason already here to be read.
    with suppress(BrokenPipeError, ConnectionResetError):
        line.within(_SHORT_S).announce(kind, size_bytes)


def daemon_client_of_node(node_config: Mapping[str, object]) -> DaemonClient:
    """The daemon that the site's own operator set for Flower's node.

    The configuration of a run is no place for it: the server's side writes that.

    Raises:
        DaemonError: it is not set.
    """
    path = node_config.get(NODE_CONFIG_KEY)
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise DaemonError(
            f"Flower's node does not know the daemon's socket: {NODE_CONFIG_KEY} is not an absolute path",
            remedy=f"start it with --node-config '{NODE_CONFIG_KEY}=\"/path/to/daemon.sock\"'",
        )
    return DaemonClient(Path(path))
