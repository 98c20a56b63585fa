"""Files of Yoriai's own: replaced whole or not at all, private from the first byte, durable when a call returns."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yoriai.errors import StorageError

PRIVATE = 0o600
_MIB = 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY})


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666, is_folders: bool = False) -> Path:
    """Replace a file's content so that a reader, or the next start after a crash, sees the old or the new whole.

    Args:
        path: its folder is made when missing.
        data: all of the content.
        mode: permission bits, of which the umask takes its share. The file never has more, not even while it is made.
        is_folders: whether a file of root's is the folder's owner's from the first, who may be reading it meanwhile.

    Returns:
        The path.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    try:
        return replace_content(path, data, mode=mode, is_folders=is_folders)
    except OSError as error:
        raise cannot_write(path, error) from error


def replace_content(path: Path, data: bytes, *, mode: int = 0o666, is_folders: bool = False) -> Path:
    """As `write_atomically`, for those with a message of their own.

    Raises:
        OSError: the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_part(temporary, data, mode, owner=path.parent.stat() if is_folders and os.geteuid() == 0 else None)
        temporary.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def write_new(path: Path, data: bytes, *, mode: int = 0o666) -> Path:
    """Write a file that must not be there yet, as `write_atomically`; of two writers at once, one gets the error.

    Raises:
        FileExistsError: it is there.
        StorageError: the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write_part(temporary, data, mode)
        os.link(temporary, path)  # Unlike a rename, a link never replaces what is there.
        sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def make_private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter; its parents are made when missing.

    Raises:
        StorageError: it cannot be made, or is there and open to others.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise cannot_write(path, error) from error
    if mode & 0o077:
        raise StorageError(f"folder {path} is open to others", found=oct(mode), remedy=f"chmod 700 {path}")
    return path


@contextlib.contextmanager
def folder_made_whole(folder: Path, *, alone: bool = False) -> Iterator[Path]:
    """A draft of a new folder, mode 0700, beside its place; it takes the place, durably, when the block is done.

    If the block fails, nothing is left; nor does a crash leave anything at the place itself.

    Args:
        folder: must not be there, or be empty.
        alone: no other process makes it at the same time. The draft then has one name, so that what a kill or a power
            cut left is cleared by whoever comes next.

    Raises:
        StorageError: the draft or the place cannot be written.
    """
    place = folder.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}.part")
        if alone:
            shutil.rmtree(draft, ignore_errors=True)
            make_private_folder(draft)
        else:
            draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield draft
        for path in draft.iterdir():
            sync(path)
        sync(draft)
        draft.rename(place)
        sync(place.parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_unused(folder: Path) -> bool:
    """Whether a new folder can be made here: nothing is, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take, as far as this user may look; no link is followed. 0 if there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def read_carried(path: Path, what: str, *, at_most_mib: int = 4) -> bytes:
    """Read a small file that somebody brought.

    Args:
        path: where it lies.
        what: its name in a message, such as "the roster".
        at_most_mib: what such a file never exceeds, in MiB.

    Raises:
        StorageError: it cannot be read, or is larger than any such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(at_most_mib * _MIB + 1)
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise StorageError(f"{what} {path} cannot be read", found=found, remedy="check the path") from error
    if len(data) > at_most_mib * _MIB:
        expected = f"at most {at_most_mib} MiB"
        raise StorageError(f"{what} {path} is too large to be one", expected=expected, remedy="check the path")
    return data


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Nobody else who locks this folder is at work in it meanwhile; waits until they are done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_beside(path: Path) -> Iterator[None]:
    """Nobody else who asks so reads and replaces a file of the same folder meanwhile; the folder is made when missing.

    Raises:
        StorageError: the folder cannot be made or opened.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked_folder(path.parent))
        except OSError as error:
            raise cannot_write(path, error) from error
        yield


@contextlib.contextmanager
def opened_folder(folder: str | Path, within: int | None = None) -> Iterator[int]:
    """A folder by a descriptor, which stays with it whatever is put in its place; a link is no folder.

    Args:
        folder: its path.
        within: descriptor of the folder that a relative path counts from; None: the working one.

    Raises:
        OSError: there is none, or it may not be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Make a file, or in a folder a link, a rename or a removal, durable: before, a power cut can undo it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_disk(folder: Path) -> None:
    """Make all that was written to this folder's disk durable: one wait, where `sync` would be one for each file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):  # Not Linux.
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


def cannot_write(path: Path | str, error: OSError) -> StorageError:
    """The error of a place that cannot be written; what was there is as it was."""
    return StorageError(
        f"{path} cannot be written",
        found=error.strerror or type(error).__name__,
        remedy=f"{room_for(error)}, or choose another folder; what was there before is intact",
    )


def room_for(error: OSError) -> str:
    """What makes a place writable that was not, by the system's reason."""
    if error.errno in _FULL:
        return "make room on that disk"
    if error.errno in _FORBIDDEN:
        return "make it writable for this user"
    if error.errno in _IN_THE_WAY:
        return "move away what is there in its place"
    return "check the path and its disk"


def is_unwritable(error: OSError) -> bool:
    """Whether a disk is full or a place forbidden: for the user to mend, and no fault of the code."""
    return error.errno in _FULL | _FORBIDDEN


def _write_part(temporary: Path, data: bytes, mode: int, *, owner: os.stat_result | None = None) -> None:
    temporary.unlink(missing_ok=True)  # Of an earlier process of this number, which was killed.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if owner is not None:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.fsync(file.fileno())
