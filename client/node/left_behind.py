"""What a SuperNode leaves in `node/` while it is connected, so that the next one can sign it off if it was killed.

Only a SuperNode of this very folder, on this machine since it was started, that runs no longer, is signed off. A copy
of a site's folder finds another's number there, and must not put that one out.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from yoriai.errors import StorageError
from yoriai.system.files import PRIVATE, write_atomically

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Left(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    node_id: int
    pid: int
    place: str


@dataclass(frozen=True)
class LeftBehind:
    """A file in a folder of the SuperNode's own."""

    path: Path

    def number(self) -> int | None:
        """Of a SuperNode of this place that has ended without a word; None if there was none."""
        try:
            left = _Left.model_validate_json(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        is_ours = left.place == self._place() and left.pid != os.getpid() and not Path(f"/proc/{left.pid}").exists()
        return left.node_id if is_ours else None

    def is_connected(self, node_id: int) -> None:
        """The server has let this process in."""
        left = _Left(node_id=node_id, pid=os.getpid(), place=self._place())
        with suppress(StorageError):  # A full disk costs the next one its minute.
            write_atomically(self.path, left.model_dump_json().encode(), mode=PRIVATE)

    def has_left(self) -> None:
        """This process has told the server that it leaves."""
        self.path.unlink(missing_ok=True)

    def _place(self) -> str:
        found = self.path.parent.stat()
        return f"{_BOOT.read_text().strip()} {found.st_dev} {found.st_ino}"
