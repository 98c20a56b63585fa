"""What has left the site for a large model: a line before it leaves, one for what came of it; appended, never changed.

    route/left.jsonl    {"at", "id", "to", "version", "text"}, then {"at", "id", "outcome", ...}

The first line is durable before the first byte leaves, and it is what the daily cap counts: a crash may count a text
that did not leave, never the other way round. It holds the text just as it leaves, for the operator to see. Who owns
the folder could rewrite it: it is a record for honest hands, and belongs into the backup.
"""

import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from yoriai.errors import StorageError
from yoriai.system.files import PRIVATE, cannot_write, make_private_folder

NAME = "left.jsonl"


class LeavingLog:
    """The log of one site.

    Args:
        folder: made when missing.
        daily_cap: texts a day (UTC), at most.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, daily_cap: int, clock: Callable[[], float]) -> None:
        self._path, self._daily_cap, self._clock = folder / NAME, daily_cap, clock

    def may_leave(self) -> int:
        """How many more texts may leave today. Raises StorageError if the log cannot be read."""
        day = self._day(self._clock())
        return max(0, self._daily_cap - sum("to" in line and self._day(line["at"]) == day for line in self.lines()))

    def begin(self, *, to: str, version: str, text: str) -> str | None:
        """Write down that a text leaves; its id, or None if the day's cap is reached and it must not.

        Two processes at once count each other's.

        Raises:
            StorageError: it cannot be written, and so must not leave.
        """
        make_private_folder(self._path.parent)
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not self.may_leave():
                    return None
                number = uuid4().hex
                self._append(descriptor, {"id": number, "to": to, "version": version, "text": text})
                return number
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def end(self, number: str, outcome: str, **values: int | None) -> None:
        """Write down what came of it. Raises StorageError if that cannot be."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                known = {key: value for key, value in values.items() if value is not None}
                self._append(descriptor, {"id": number, "outcome": outcome} | known)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def lines(self) -> list[dict[str, Any]]:
        """All of them; one that was cut by a crash is left out. Raises StorageError if the log cannot be read."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read", found=error.strerror or type(error).__name__) from None
        found = []
        for line in text.splitlines():
            with suppress(ValueError, TypeError):
                found.append({"at": 0.0} | json.loads(line))
        return found

    def _append(self, descriptor: int, values: dict[str, Any]) -> None:
        line = json.dumps({"at": self._clock()} | values) + "\n"
        if os.fstat(descriptor).st_size and not self._ends_whole():
            line = f"\n{line}"  # After a line that a crash has cut.
        data = memoryview(line.encode())
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)

    def _ends_whole(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    @staticmethod
    def _day(at: float) -> str:
        return datetime.fromtimestamp(at, UTC).date().isoformat()
