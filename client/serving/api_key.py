"""The key that clients of the endpoint show: a file of its owner's alone, compared in one time for any guess."""

import hmac
import secrets
from hashlib import sha256
from pathlib import Path

from yoriai.errors import ConfigError
from yoriai.system.key_file import read_private, write_private

_SHORTEST = 16


class ApiKey:
    """A key, of which only a hash is kept.

    Args:
        key: as clients show it.
    """

    def __init__(self, key: str) -> None:
        self._hash = sha256(key.encode()).digest()

    def __repr__(self) -> str:
        return "ApiKey()"

    def fits(self, authorization: str) -> bool:
        """Whether a header `Authorization` shows the key, as `Bearer KEY`."""
        kind, _, shown = authorization.partition(" ")
        found = sha256(shown.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(found, self._hash) and kind.lower() == "bearer"


def api_key(path: Path) -> tuple[ApiKey, bool]:
    """The key in a file, which is made with a new one if it is not there; and whether it was made.

    Raises:
        ConfigError: the file holds no key that is long enough.
        IdentityError: others may read the file.
        StorageError: it cannot be read or written.
    """
    is_new = not path.exists()
    if is_new:
        write_private(path, f"{secrets.token_urlsafe(32)}\n".encode())
    words = read_private(path).decode("ascii", "replace").split()
    if len(words) != 1 or len(words[0]) < _SHORTEST or not words[0].isascii():
        raise ConfigError(
            f"{path} holds no key",
            expected=f"one word of {_SHORTEST} or more ASCII characters",
            remedy="remove the file: the next start makes a new key",
        )
    return ApiKey(words[0]), is_new
