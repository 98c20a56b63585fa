"""Errands of the server: short runs of Flower's without a job, in which it tells and asks sites what channels hold.

The keeper starts one as soon as a channel has come to hold another version, if no job is live; then again after a
minute, and after twice as long each time, as long as a site has not received it, not taken it, or not said what its
test records say of it. While a job is live its
coordinator brings the news between two rounds: two processes that sign messages at once could overtake each other, and
a site takes no message that is older than its last. For the same reason no job is started while an errand is at work.

    run/errand         is there from the moment at which an errand is asked for until it is done
    run/errand.lock    names the process that is at it
"""

import threading
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

from yoriai.server.channels.channel_post import ChannelPost, is_owed, standing_rows
from yoriai.server.channels.schedule import begin_if_due, note_drift
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.recording import records_of
from yoriai.server.service.job_run import Connect
from yoriai.system.files import PRIVATE, write_atomically
from yoriai.system.log import EventLog, LogFile
from yoriai.system.process_lock import Holder, hold, holder_of, let_go

# In place of a job's name; no job's run begins so.
ERRAND = "+errand"
# An errand that has not begun by then is given up, by both sides.
_BEGINS_S = 90.0
_FIRST_S, _LONGEST_S = 60.0, 3600.0
_LOOK_S = 5.0


class Errands:
    """When the keeper is to start an errand, and whether one is at work.

    Args:
        folder: of the server.
        clock: seconds, of any beginning.
    """

    def __init__(self, folder: ServerFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._told: tuple[int, ...] = ()
        self._times, self._next, self._next_look = 0, 0.0, 0.0

    def is_due(self, members: Callable[[], Collection[str]]) -> bool:
        """Whether sites are owed news, or an answer is, and it is time to go.

        Args:
            members: the sites that may connect now.

        Raises:
            StorageError: the records cannot be read.
        """
        now = self._clock()
        if now < self._next_look or not self._folder.versions.is_file():
            return False
        self._next_look = now + _LOOK_S
        with records_of(self._folder) as records:
            has_begun = begin_if_due(records, days=self._folder.config().check_days, now=datetime.now(UTC))
            numbers = tuple(row.number for row in standing_rows(records))
            if has_begun or numbers != self._told:
                self._told, self._times, self._next = numbers, 0, now
            return bool(numbers) and now >= self._next and is_owed(records, members())

    def begin(self) -> None:
        """An errand is asked for now; the next one is due after a while that doubles."""
        write_atomically(_mark(self._folder), b"", mode=PRIVATE)
        self._next = self._clock() + min(_FIRST_S * 2**self._times, _LONGEST_S)
        self._times += 1

    def is_at_work(self) -> bool:
        """Whether one is on its way, or about to go."""
        return self.runner() is not None or _is_fresh(self._folder)

    def runner(self) -> Holder | None:
        """The process that is at an errand now."""
        return holder_of(_lock(self._folder))


def run_errand(folder: ServerFolder, connect: Connect) -> None:
    """Tell the sites that can be reached what the channels hold, and ask which of it they use.

    Nothing is done if it comes too late: the keeper has given it up, and may have started a job.
    """
    try:
        lock = hold(_lock(folder))
    except BlockingIOError:
        return
    try:
        if not _is_fresh(folder):  # Looked at under the lock: the keeper starts no job while somebody holds it.
            return
        log = EventLog(LogFile(folder.log / "channels.jsonl"), as_json=True)
        ChannelPost(folder, log).bring(connect(threading.Event(), lambda *_: None), asks=True)
        with records_of(folder) as records:
            if (found := note_drift(records)) is not None:
                log.event("drifted", run=found[0], fall=round(found[1], 4))
    finally:
        _mark(folder).unlink(missing_ok=True)
        let_go(lock)


def _mark(folder: ServerFolder) -> Path:
    return folder.run / "errand"


def _lock(folder: ServerFolder) -> Path:
    return folder.run / "errand.lock"


def _is_fresh(folder: ServerFolder) -> bool:
    try:
        return time.time() - _mark(folder).stat().st_mtime < _BEGINS_S
    except FileNotFoundError:
        return False
