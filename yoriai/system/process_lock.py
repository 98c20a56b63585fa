"""A lock that a process holds for as long as it lives, in a file that says which process this is.

    PID STARTED    number of the process, and the moment of its start in clock ticks of this machine

The kernel frees the lock when the process ends, however it ends. A number by itself may be another process's by then,
or one of a container's own; with the moment of its start it means one process, until the machine starts anew.

The file is its owner's word. Whoever acts on it, which may be root, takes it from the user alone whose it is to be
(`holder_of`), and acts on a process of this user alone (`Holder.check`): so nobody has somebody else's process ended.
"""

import errno
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from yoriai.errors import DaemonError
from yoriai.system.files import opened_folder

_MODE = 0o600
_WORDS = re.compile(rb"([0-9]{1,10}) ([0-9]{1,20})")
_LONGEST = 40


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as the lock's file names it."""

    pid: int
    started: int

    def check(self, owner: int) -> None:
        """Refuse to act on another process than this one, or on another user's.

        Call it with a descriptor of the process in hand: then what is seen here is of that process, or it has ended.

        Args:
            owner: number of the user whose process it has to be, in every respect.

        Raises:
            DaemonError: it is not.
        """
        try:
            started, users = _started(self.pid), _users(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return
        if self.pid <= 1 or started != self.started or users != {owner}:
            raise DaemonError(
                f"process {self.pid} is not what its lock says",
                expected=f"a process of user {owner}, as old as the lock",
                remedy="end it where it was started, in its container or on its host; never by this number",
            )


def hold(path: Path) -> int:
    """Take the lock and write into its file who has it.

    Args:
        path: made when missing, for its owner alone; its folder is there.

    Returns:
        The descriptor by which this process holds it; `let_go` takes it.

    Raises:
        BlockingIOError: another process holds it.
        DaemonError: the file is there and not this user's own.
        OSError: the system refuses, or the disk is full.
    """
    with opened_folder(path.parent) as folder:
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path.name, flags, _MODE, dir_fd=folder)
    try:
        _check_file(path, descriptor, os.geteuid())
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {_started(os.getpid())}".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def let_go(descriptor: int) -> None:
    """Give back what `hold` gave. The file stays, empty."""
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder_of(path: Path, owner: int | None = None) -> Holder | None:
    """Who holds the lock; None if nobody does.

    Args:
        owner: number of the user whose file it has to be; None: whoever's it is.

    Raises:
        DaemonError: there is something else than such a file.
        PermissionError: this user may not see it.
    """
    try:
        with opened_folder(path.parent) as folder:
            # Whose process has let go can be seen by those, too, who may not open the file.
            if os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_size == 0:
                return None
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path.name, flags, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _no_lock(path) from None
        raise
    try:
        _check_file(path, descriptor, owner)
        return _reading(path, descriptor)
    finally:
        os.close(descriptor)


def _reading(path: Path, descriptor: int) -> Holder | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = _WORDS.fullmatch(os.pread(descriptor, _LONGEST, 0))
        if words is None:
            raise _no_lock(path) from None
        return Holder(int(words[1]), int(words[2]))
    return None


def _check_file(path: Path, descriptor: int, owner: int | None) -> None:
    """A plain file with one name: a link could stand for anybody's."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or owner not in (None, found.st_uid):
        raise _no_lock(path)


def _no_lock(path: Path) -> DaemonError:
    return DaemonError(
        f"{path} is not a lock that Yoriai's own user has made", remedy="see who put it there, and remove it"
    )


def _started(pid: int) -> int:
    """The 22nd field; the second, a name in brackets, may hold anything."""
    return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def _users(pid: int) -> set[int]:
    """Real, effective, saved and file system's user, as the kernel has them."""
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("Uid:"):
            return {int(word) for word in line.split()[1:]}
    return set()
