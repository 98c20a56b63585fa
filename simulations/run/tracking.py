"""A run's figures by round: `metrics.jsonl` in its folder, always, and a tracker where one was asked for."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yoriai.config import JobConfig
from yoriai.privacy.documents.adapter_facts import accountant_of
from yoriai.privacy.dp.wording import terms
from yoriai.server.round.manifest import RoundRecord
from yoriai.server.round.metric_lines import METRICS_FILE, encoded, lines_of
from yoriai.simulations.report.report import Report
from yoriai.simulations.run.measuring import Measurements, together
from yoriai.system.run_files import write_run_file
from yoriai.system.trackers import Tracker, opened, send


class RunMetrics:
    """Writes a run's lines after each round, and tells a tracker of those that it has not seen.

    Args:
        folder: of the run.
        job: with nothing left open.
        say: is told when a tracker fails, which ends no training.
        tracker: a name of `trackers.TRACKERS`, or nothing. A run that is resumed is another one to it.
    """

    def __init__(
        self, folder: Path, job: JobConfig, run_id: str, say: Callable[[str], None], tracker: str = ""
    ) -> None:
        self._path, self._run_id, self._say = folder / METRICS_FILE, run_id, say
        self._tracker: Tracker | None = None
        if tracker:
            self._tracker = opened(tracker, project=job.name, run=run_id, settings=public_settings(job))
        self._sent = 0

    def round_done(self, records: tuple[RoundRecord, ...], kept: Measurements) -> None:
        """Write the rounds so far, with what was measured of them.

        Raises:
            CheckpointError: the file cannot be written.
        """
        lines = [{**line, **_measured(kept, line["round"])} for line in lines_of(self._run_id, records)]
        self._write(lines)
        self._send(lines[self._sent : -1])  # The last one is still measured, at the end of the run for one.

    def over(self, records: tuple[RoundRecord, ...], report: Report) -> None:
        """Write all rounds with the privacy that each had cost by then, and end the tracker's run.

        Raises:
            CheckpointError: the file cannot be written.
        """
        lines = lines_of(self._run_id, records)
        for line, told in zip(lines, report.rounds, strict=True):
            line |= {"loss": told.loss, "accuracy": told.accuracy, "epsilon": told.epsilon}
            if told.epsilon is not None:
                line["epsilon_is"] = terms(report.privacy.unit, report.privacy.accountant)
        self._write(lines)
        self._send(lines[self._sent :])

    def close(self) -> None:
        """Nothing more comes, whether the run is over or was interrupted."""
        if self._tracker is not None:
            with self._forgiven():
                self._tracker.end()
            self._tracker = None

    def _write(self, lines: list[dict[str, Any]]) -> None:
        write_run_file(self._path, encoded(lines))

    def _send(self, lines: list[dict[str, Any]]) -> None:
        if self._tracker is not None and lines:
            with self._forgiven():
                self._sent = send(lines, self._tracker)

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        """A tracker that fails, for want of its server say, is left out from then on."""
        try:
            yield
        except Exception as error:  # Whatever a library of others raises.
            self._tracker = None
            self._say(
                f"the tracker failed ({type(error).__name__}) and is told nothing more; {METRICS_FILE} has it all"
            )


def public_settings(job: JobConfig) -> dict[str, str]:
    """What a tracker is told of a job: shape and price, and neither labels nor templates nor places on this machine."""
    told: dict[str, object] = {
        "task": job.task.kind,
        "trained_by": job.trained_by,
        "rounds": job.federation.rounds,
        "noise": job.privacy.noise,
        "unit": job.privacy.unit,
        "secure_sum": job.secure_aggregation.enabled,
    }
    if job.privacy.noise != "none":
        told |= {"epsilon": job.privacy.epsilon, "epsilon_is": terms(job.privacy.unit, accountant_of(job))}
        told["delta"] = job.privacy.delta
    if not job.trains_head:
        told |= {"rank": job.lora.rank, "layers": job.lora.layers}
    return {key: str(value) for key, value in told.items()}


def _measured(kept: Measurements, number: int) -> Mapping[str, float]:
    tallies = kept.by_round().get(number)
    if not tallies:
        return {}
    total = together(tallies)
    found = {"loss": total.loss, "accuracy": total.accuracy}
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}
