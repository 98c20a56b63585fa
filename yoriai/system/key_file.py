"""Files that hold a private key: made once, whole or not at all, and never for anybody else to read."""

import os
import stat
from pathlib import Path

from yoriai.errors import IdentityError, StorageError
from yoriai.system.files import PRIVATE, write_new

# A key in PEM or OpenSSH's format has about a hundredth of it.
_LARGEST_BYTES = 64 * 1024


def write_private(path: Path, data: bytes) -> None:
    """Write the bytes of a private key, whole or not at all, to a new file that only its owner may read.

    Raises:
        IdentityError: if the file exists; a key is never overwritten.
        StorageError: it cannot be written.
    """
    try:
        write_new(path, data, mode=PRIVATE)
    except FileExistsError:
        raise IdentityError(f"key file {path} exists already", remedy="move it away, or choose another path") from None


def read_private(path: Path) -> bytes:
    """Read a file that holds a secret.

    Raises:
        IdentityError: if others may read or write it, or it is no plain file, or far too large for one that holds a
            key. Nothing of it is read then.
        StorageError: it cannot be read.
    """
    try:
        # Without waiting: somebody may have put a pipe there, to which nobody ever writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_file(path, os.fstat(descriptor))
            return os.read(descriptor, _LARGEST_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise StorageError(f"{path} cannot be read", found=found, remedy="check the path") from None


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_BYTES:
        raise IdentityError(
            f"{path} is no key file",
            expected=f"a plain file of at most {_LARGEST_BYTES} bytes",
            remedy="check the path",
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise IdentityError(f"{path} holds a secret and is open to others", found=oct(mode), remedy=f"chmod 600 {path}")
