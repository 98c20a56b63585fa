"""The place where a site's daemon listens: a Unix socket that only named users of this machine can reach.

    folder   0750, the daemon's own
    lock     locked for as long as a daemon lives, and says which process this is; see `yoriai/system/process_lock.py`
    socket   0660; whoever gets through is then asked of the kernel, and turned away unless their user is named

Permissions alone would do, were no file's mode ever changed by hand; the kernel's word holds whatever the modes say.
"""

import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from yoriai.errors import DaemonError
from yoriai.system.process_lock import hold, let_go

_BACKLOG = 16
_LONGEST_PATH_BYTES = 107  # sun_path of Linux, without the closing zero.
_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, as the kernel recorded it when the two were connected."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """The other end's process, effective user and effective group."""
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


class Listener:
    """A listening socket at a path, which no other daemon has. It blocks nothing: whoever accepts waits for it first.

    Raises:
        DaemonError: a live daemon has the path, the path is too long or taken by something else, the folder is
            open to others, or the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
            raise DaemonError(
                f"socket path {path} is too long for this system",
                expected=f"at most {_LONGEST_PATH_BYTES} bytes",
                remedy="name a shorter path, such as one below /run",
            )
        try:
            _prepare_folder(path.parent)
            self._lock = _lock(path)
            try:
                self.socket = self._bind()
            except BaseException:
                let_go(self._lock)
                raise
        except OSError as error:
            raise DaemonError(
                f"cannot listen at {path}",
                found=error.strerror or type(error).__name__,
                remedy="check the rights of its folder, and the room on its disk",
            ) from None

    def _bind(self) -> socket.socket:
        """Bind, in place of the socket that a killed daemon left. The mode is right from the first moment."""
        if os.path.lexists(self.path):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise DaemonError(f"{self.path} is there and is no socket", remedy="move it away, or name another path")
            self.path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o117)
            try:
                listening.bind(str(self.path))
            finally:
                os.umask(before)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
        return listening

    def stop(self) -> None:
        """Take no more connections and remove the socket. The lock stays, so that no other daemon starts yet."""
        if self.socket.fileno() >= 0:
            self.path.unlink(missing_ok=True)
            self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        let_go(self._lock)


def _prepare_folder(folder: Path) -> None:
    before = os.umask(0o027)
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    finally:
        os.umask(before)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o027:
        raise DaemonError(
            f"the socket's folder {folder} is open to others",
            found=f"mode {stat.S_IMODE(found.st_mode):04o}, user {found.st_uid}",
            expected=f"mode 0750 or less, user {os.geteuid()}",
            remedy=f"chmod 750 {folder}, or name a folder of the daemon's own",
        )


def lock_of(socket_path: Path) -> Path:
    """The lock of whoever listens at a socket; see `yoriai/system/process_lock.py`."""
    return socket_path.with_name(f"{socket_path.name}.lock")


def _lock(path: Path) -> int:
    try:
        return hold(lock_of(path))
    except BlockingIOError:
        raise DaemonError(
            f"a daemon is listening at {path} already, or is just stopping",
            remedy="`yoriai site status` shows what it is at; `yoriai site stop` stops it",
        ) from None
