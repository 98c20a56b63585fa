"""`evaluate`: everything that a finished run's folder knows about what its models are worth, side by side.

It reads `report.json`, and `measurements.json` for what was measured record by record; nothing trains again. Only the
latency is measured now, on the machine that asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations.evaluation.by_label import LabelChange, label_changes
from yoriai.simulations.evaluation.calibration import Calibration, calibration
from yoriai.simulations.evaluation.latency import Latency, measure
from yoriai.simulations.report.file import load_report
from yoriai.simulations.report.report import TRAININGS, Report
from yoriai.simulations.run import run_folder
from yoriai.simulations.run.experiment import resolve
from yoriai.simulations.run.measuring import Measurements, SiteTallies, together

MEASUREMENTS = "measurements.json"


@dataclass(frozen=True)
class Evaluation:
    """A run's models side by side.

    Attributes:
        report: scores, intervals of changes and tests.
        calibration: by training; classifiers only.
        labels: base against federated, largest gain first; empty where there are no labels.
        latency: of the federated model; None where it was left out or nothing is answered.
        adapter_bytes: of all files in the run's `adapter` folder.
    """

    report: Report
    calibration: Mapping[str, Calibration]
    labels: tuple[LabelChange, ...]
    latency: Latency | None
    adapter_bytes: int


def evaluate_run(folder: Path, *, with_latency: bool = True) -> Evaluation:
    """Evaluate a finished run.

    Args:
        with_latency: load the base and answer some test records one by one.

    Raises:
        ConfigError: the folder holds no report, or its run was not measured to its end.
        CheckpointError: the run's own files are damaged or missing.
        YoriaiError: the base does not load, or the records are gone.
    """
    report = load_report(folder)
    kept = _measurements(folder)
    if "federated" not in report.overall or "federated" not in kept:
        raise ConfigError(
            f"the run in {folder} was not measured to its end", remedy=f"finish it: yoriai simulate --resume {folder}"
        )
    records = {name: record for name in TRAININGS if name in kept and (record := _records(kept[name])) is not None}
    return Evaluation(
        report=report,
        calibration={name: found for name, record in records.items() if (found := calibration(record)) is not None},
        labels=_labels(report, records),
        latency=_latency(folder, report) if with_latency else None,
        adapter_bytes=sum(path.stat().st_size for path in (folder / "adapter").rglob("*") if path.is_file()),
    )


def _measurements(folder: Path) -> Measurements:
    path = folder / MEASUREMENTS
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no {MEASUREMENTS}, so nothing is known record by record",
            remedy="name the run's own folder, as yoriai simulate wrote it",
        )
    return Measurements(path)


def _records(tallies: SiteTallies) -> PerRecord | None:
    """All sites' records, in the order of names."""
    whole: Tally = together(tallies)
    return whole.per_record


def _labels(report: Report, records: Mapping[str, PerRecord]) -> tuple[LabelChange, ...]:
    before, after = records.get("base"), records.get("federated")
    if before is None or after is None or not before.has_labels or len(before) != len(after):
        return ()
    return label_changes(before, after, report.task.labels)


def _latency(folder: Path, report: Report) -> Latency | None:
    job, stored = run_folder.load(folder)
    prompts = (record.prompt for site in resolve(job, stored.data).sites for record in site.test)
    return measure(folder / report.adapter.path, report.task.kind, [prompt for prompt in prompts if prompt])
