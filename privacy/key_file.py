"""Files that hold a private key: made once, whole or not at all, and never for anybody else to read."""

import os
from pathlib import Path

from yoriai.errors import IdentityError, StorageError
from yoriai.files import PRIVATE, write_new


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
        IdentityError: if others may read or write it.
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read()
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise StorageError(f"{path} cannot be read", found=found, remedy="check the path") from None
    if mode & 0o077:
        raise IdentityError(f"{path} holds a secret and is open to others", found=oct(mode), remedy=f"chmod 600 {path}")
    return data
