"""What a job's coordinator is at, for `server status`, `job status` and the metrics: a small file, and a log.

Counters go on from run to run of Flower's; a coordinator that is begun again reads what the last one left.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from yoriai.errors import StorageError
from yoriai.server.round.messenger import TellsFailures, Transport
from yoriai.system.files import PRIVATE, write_atomically
from yoriai.system.log import EventLog
from yoriai.terminal import count_of_sites, one_line


class StageCount(BaseModel):
    """What one stage's exchanges have taken so far; bytes are those of Yoriai's messages, without Flower's."""

    model_config = ConfigDict(strict=True, extra="forbid")

    exchanges: int = 0
    seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    missing: int = 0


class Progress(BaseModel):
    """A coordinator's state as of its last exchange.

    Attributes:
        round: the one in work, counted from 1; 0 before the first offer was answered.
        rounds: in the job.
        stage: the exchange in work, or the last one.
        connected: sites whose nodes were connected when that was last looked at.
        absent: sites that take no part now, and why.
        stages: by name.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    schema_: Literal[1] = Field(default=1, alias="schema")
    round: int = 0
    rounds: int = 0
    stage: str = ""
    updated: float = 0.0
    connected: list[str] = Field(default_factory=list)
    absent: dict[str, str] = Field(default_factory=dict)
    refusals: int = 0
    stages: dict[str, StageCount] = Field(default_factory=dict)


def read_progress(path: Path) -> Progress:
    """What a coordinator has left; a new one if that is nothing, or cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return Progress.model_validate_json(path.read_bytes())
    return Progress()


class WatchedTransport:
    """A transport whose every exchange is logged and counted.

    Args:
        transport: that does the work.
        log: of the job.
        place: of the progress file. That it cannot be written stops no job.
        rounds: in the job.
    """

    def __init__(self, transport: Transport, log: EventLog, place: Path, *, rounds: int) -> None:
        self._transport, self._log, self._place = transport, log, place
        self._progress = read_progress(place)
        self._progress.rounds = rounds

    def sites(self) -> Sequence[str]:
        """As the transport."""
        found = self._transport.sites()
        before, now = set(self._progress.connected), set(found)
        for event, sites in (("connected", now - before), ("disconnected", before - now)):
            for site in sorted(sites):
                self._log.event(event, site=site)
        self._progress.connected = sorted(now)
        return found

    def failures(self) -> Mapping[str, str]:
        """As the transport, if it knows."""
        return self._transport.failures() if isinstance(self._transport, TellsFailures) else {}

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """As the transport."""
        self._progress.stage = stage
        self._save()
        started = time.monotonic()
        with self._log.heartbeat("waiting") as heartbeat:
            heartbeat.doing(f"{count_of_sites(len(payloads))} in stage {stage}")
            replies = self._transport.exchange(stage, payloads, timeout_s)
        count = self._progress.stages.setdefault(stage, StageCount())
        seconds = time.monotonic() - started
        down, up = sum(map(len, payloads.values())), sum(map(len, replies.values()))
        missing = sorted(payloads.keys() - replies.keys())
        count.exchanges += 1
        count.seconds += seconds
        count.bytes_down += down
        count.bytes_up += up
        count.missing += len(missing)
        self._log.event(
            "stage",
            stage=stage,
            round=self._progress.round,
            asked=len(payloads),
            answered=len(replies),
            missing=",".join(missing) or None,
            seconds=round(seconds, 3),
            bytes_down=down,
            bytes_up=up,
        )
        self._save()
        return replies

    def begin_round(self, number: int) -> None:
        """Note which round is in work, counted from 1."""
        self._progress.round = min(number, self._progress.rounds)
        self._save()

    def note_absent(self, absent: Mapping[str, str]) -> None:
        """Note which sites take no part now; one is logged when its reason is new."""
        for site, reason in sorted(absent.items()):
            if self._progress.absent.get(site) != reason:
                self._log.event("absent", site=site, reason=one_line(reason))
                self._progress.refusals += 1
        for site in sorted(self._progress.absent.keys() - absent.keys()):
            self._log.event("back", site=site)
        self._progress.absent = {site: one_line(reason) for site, reason in absent.items()}
        self._save()

    def _save(self) -> None:
        self._progress.updated = time.time()
        with contextlib.suppress(StorageError):
            write_atomically(
                self._place, self._progress.model_dump_json(by_alias=True, indent=1).encode(), mode=PRIVATE
            )
