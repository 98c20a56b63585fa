"""The log of a long-lived process: one line an event, as text or as JSON.

An event is a name and a few short values. Whoever logs gives numbers, names and reasons that hold no data; records,
tensors and secrets have no way in, and messages of other libraries, which could quote anything, are not taken over.
"""

import contextlib
import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from yoriai.system.files import PRIVATE
from yoriai.system.heartbeat import Heartbeat

_LONGEST_VALUE = 500
_AGAIN_S = 60.0  # A process that lives for months may wait for days.


class Stream(Protocol):
    """What takes the lines of a log."""

    def write(self, text: str, /) -> object:
        """Take a text."""
        ...

    def flush(self) -> None:
        """Have it where it is to be."""
        ...


class LogFile:
    """A file that takes whole lines, and begins again at a size limit; one older file is kept next to it.

    Args:
        path: for its owner alone; `path`.1 is the older file.
        limit_bytes: largest size of either, but for a line that is longer.
    """

    def __init__(self, path: Path, limit_bytes: int = 16 * 1024 * 1024) -> None:
        self._path, self._limit_bytes = path, limit_bytes

    def write(self, text: str, /) -> None:
        """Append a text; raises OSError where that cannot be."""
        data = text.encode()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size + len(data) > self._limit_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def flush(self) -> None:
        """Nothing is held back."""


class EventLog:
    """Writes events to a stream, whole lines only, from any thread. A log that cannot be written stops nothing.

    Args:
        stream: text; flushed after each line.
        as_json: JSON lines with `at`, `event` and the values, in place of `TIME event key="value"`.
    """

    def __init__(self, stream: Stream, *, as_json: bool = False) -> None:
        self._stream, self._as_json = stream, as_json
        self._lock = threading.Lock()

    def event(self, name: str, **values: str | int | float | bool | None) -> None:
        """Write one event; None values are left out, and long texts are cut.

        Texts are escaped as JSON, so that no value, wherever it came from, begins a line of its own.
        """
        short = {
            key: value[:_LONGEST_VALUE] if isinstance(value, str) else value
            for key, value in values.items()
            if value is not None
        }
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._as_json:
            line = json.dumps({"at": at, "event": name, **short})
        else:
            line = " ".join([at, name, *(f"{key}={json.dumps(value)}" for key, value in short.items())])
        # A full disk, or a reader that went away.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    def heartbeat(self, name: str) -> Heartbeat:
        """A heartbeat in this log: events of that name with `what` is being done and for how many `seconds`."""
        return Heartbeat(lambda what, seconds: self.event(name, what=what, seconds=round(seconds)), again_s=_AGAIN_S)


class LibraryHandler(logging.Handler):
    """Logs that another library had something to say, and where; what it said might quote a record."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log the place."""
        self._log.event("library", level=record.levelname, place=f"{record.name}:{record.lineno}")


def take_over_libraries(log: EventLog) -> None:
    """Send what libraries log or warn of to the event log, as places without texts."""
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [LibraryHandler(log)]
    for name in list(logging.root.manager.loggerDict):
        # Some write to standard error by a handler of their own.
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
