"""Which version answers: the one that a channel's link leads to; a request ends on the version that it began on.

    link leads elsewhere  →  the new version is opened beside the old one
    it answers            →  requests that come from now on go to it
    the old one's last request has ended  →  the old one is closed

For that time both are in memory. A version that does not open leaves the old one where it is, and is tried again after
some minutes: what it lacked may have been memory or room on a disk.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from yoriai.client.serving.version import Version
from yoriai.errors import ServerError, YoriaiError
from yoriai.system.log import EventLog

_LOOK_EVERY_S = 1.0
# From the end of one try to the next: where nobody answers, and where an earlier version does.
_TRY_AGAIN_S = 10.0
_TRY_FAILED_AGAIN_S = 300.0


@dataclass
class _InUse:
    """A version and the requests that are on it."""

    version: Version
    requests: int = 0
    is_retired: bool = False


class Versions:
    """The version in use, and those that still answer what they began.

    Args:
        place: a link that leads to the version in use, or one version's folder.
        open_version: brings a version into memory; called in a thread of its own.
        log: gets each change.
        look_every_s: how soon a change is seen.
    """

    def __init__(
        self,
        place: Path,
        open_version: Callable[[Path], Version],
        log: EventLog,
        *,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._place, self._open, self._log, self._look_every_s = place, open_version, log, look_every_s
        self._current: _InUse | None = None
        self._folder: Path | None = None  # Where the link led at the last look.
        self._tried_at = -math.inf
        self._all: list[_InUse] = []

    @property
    def current(self) -> Version:
        """The version that a request would get now. Raises ServerError before there is one."""
        if self._current is None:
            raise ServerError("no version is in use", remedy="try again in some seconds")
        return self._current.version

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Version]:
        """The version in use, which stays in memory for as long as the context lasts, whatever comes into use."""
        if self._current is None:
            raise ServerError("no version is in use", remedy="try again in some seconds")
        mine = self._current
        mine.requests += 1
        try:
            yield mine.version
        finally:
            mine.requests -= 1
            await asyncio.shield(self._close_if_done(mine))  # A client that has gone leaves nothing running.

    async def begin(self) -> None:
        """Open the version that is in use. Raises what opening it raises."""
        await self._bring(self._place.resolve())

    async def watch(self) -> None:
        """Follow the link from the first version on, and open again what has died, until cancelled.

        No failure to open a version ends it.
        """
        while True:
            await asyncio.sleep(self._look_every_s)
            await self._look()

    async def close(self) -> None:
        """Close every version."""
        everything, self._all, self._current = self._all, [], None
        for one in everything:
            await one.version.close()

    async def _look(self) -> None:
        folder, current = self._place.resolve(), self.current
        has_died = not current.is_alive
        is_new, self._folder = folder != self._folder, folder
        if folder == current.folder and not has_died:
            return
        if not is_new and time.monotonic() - self._tried_at < (_TRY_AGAIN_S if has_died else _TRY_FAILED_AGAIN_S):
            return
        if has_died:
            self._log.event("engine_ended", version=current.name)
        try:
            await self._bring(folder)
        except YoriaiError as error:
            self._log.event("version_not_taken", version=folder.name, reason=str(error))
        except Exception as error:  # By type: a library's words may quote what is in a file.
            self._log.event("version_not_taken", version=folder.name, reason=type(error).__name__)
        self._tried_at = time.monotonic()

    async def _bring(self, folder: Path) -> None:
        began = time.monotonic()
        fresh = _InUse(await asyncio.to_thread(self._open, folder))
        self._all.append(fresh)
        before, self._current = self._current, fresh
        self._log.event("version_in_use", version=folder.name, seconds=round(time.monotonic() - began, 1))
        if before is not None:
            before.is_retired = True
            await self._close_if_done(before)

    async def _close_if_done(self, one: _InUse) -> None:
        if one.is_retired and one.requests == 0 and one in self._all:
            self._all.remove(one)
            await one.version.close()
            self._log.event("version_closed", version=one.version.name)
