"""What took long and would come out the same, kept in the cache: found by all that has a part in it.

So no change of it is answered by what was made before. A cache that fails, or holds something else, costs time alone.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Generic, TypeVar

import yoriai
from yoriai.client.base import assets
from yoriai.system.files import replace_content

_MOST: Final = 64  # Files of a kind that stay: those used last.

Made = TypeVar("Made")


@dataclass(frozen=True)
class Kept(Generic[Made]):
    """One kind of it, in a folder of the cache.

    Attributes:
        folder: its name.
        read: from the bytes of a file; may raise anything where these are something else.
        write: to these bytes; None for what is not to be kept.
        worth_s: what is made in fewer seconds is made again.
        mode: permission bits of the files, of which the umask takes its share.
    """

    folder: str
    read: Callable[[bytes], Made]
    write: Callable[[Made], bytes | None]
    worth_s: float = 0.0
    mode: int = 0o666

    def made(self, asked: object, make: Callable[[], Made], *, anew: bool = False) -> Made:
        """What `make` makes, or made earlier.

        Args:
            asked: all that has a part in it, as JSON bears it.
            anew: what was made earlier is replaced.
        """
        name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
        path = assets.cache_dir() / self.folder / name
        if not anew:
            with suppress(Exception):
                found = self.read(path.read_bytes())
                with suppress(OSError):
                    os.utime(path)
                return found
        began = time.perf_counter()
        made = make()
        if time.perf_counter() - began >= self.worth_s and (data := self.write(made)) is not None:
            with suppress(OSError):
                replace_content(path, data, mode=self.mode)
                forget_older(path.parent.iterdir(), _MOST)
        return made


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What tells unread that files are as they were: path, size in bytes, last change of content and of entry in ns.

    Raises:
        OSError: one of them is not there.
    """
    found = [(str(file.absolute()), file.stat()) for file in files]
    return [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found]


@cache
def code_digest(*rooms: str) -> str:
    """SHA-256 (hex) over the modules of rooms, such as "client/base"."""
    root = Path(yoriai.__file__).parent
    files = [file for room in rooms for file in sorted((root / room).glob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def forget_older(files: Iterable[Path], most: int) -> None:
    """Remove all but so many of the files: those stay that were used last.

    Raises:
        OSError: one of them cannot be removed, or is gone already when it is looked at.
    """
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)[:-most]:
        file.unlink(missing_ok=True)
