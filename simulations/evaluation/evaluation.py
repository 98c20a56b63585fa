"""`evaluate`: everything that a finished run's folder knows about what its models are worth, side by side.

It reads `report.json`, and `measurements.json` for what was measured record by record; nothing trains again. Only the
latency is measured now, on the machine that asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yoriai.client.evaluation.by_label import LabelChange, label_changes
from yoriai.client.evaluation.by_language import LanguageChange, SiteAnswers, by_language
from yoriai.client.evaluation.calibration import Calibration, calibration
from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.forgetting import Forgetting, forgetting
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations.evaluation.latency import Latency, measure
from yoriai.simulations.experiment.experiment import resolve
from yoriai.simulations.report.file import load_report
from yoriai.simulations.report.report import TRAININGS, Report
from yoriai.simulations.run import run_folder
from yoriai.simulations.run.measuring import Measurements, SiteTallies, together

MEASUREMENTS = "measurements.json"


@dataclass(frozen=True)
class Evaluation:
    """A run's models side by side.

    Attributes:
        report: scores, intervals of changes and tests.
        calibration: by training; classifiers only.
        labels: base against federated, largest gain first; empty where there are no labels.
        languages: base against federated in each language; empty unless asked for.
        latency: of the federated model; None where it was left out or nothing is answered.
        forgetting: of general texts; None unless asked for.
        adapter_bytes: of all files in the run's `adapter` folder.
    """

    report: Report
    calibration: Mapping[str, Calibration]
    labels: tuple[LabelChange, ...]
    languages: tuple[LanguageChange, ...]
    latency: Latency | None
    forgetting: Forgetting | None
    adapter_bytes: int


def evaluate_run(
    folder: Path, *, with_latency: bool = True, with_languages: bool = False, with_forgetting: bool = False
) -> Evaluation:
    """Evaluate a finished run.

    Args:
        with_latency: load the base and answer some test records one by one.
        with_languages: read the records again, for their languages.
        with_forgetting: load the base, and measure general texts before and after.

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
        languages=_languages(folder, kept) if with_languages else (),
        latency=_latency(folder, report) if with_latency else None,
        forgetting=forgetting(folder / report.adapter.path) if with_forgetting else None,
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


def _languages(folder: Path, kept: Measurements) -> tuple[LanguageChange, ...]:
    tested = [site for site in _sites(folder) if site.test]
    base, after = kept["base"], kept["federated"]
    return by_language([SiteAnswers(site.test, base[site.name], after[site.name]) for site in tested])


def _latency(folder: Path, report: Report) -> Latency | None:
    prompts = (record.prompt for site in _sites(folder) for record in site.test)
    return measure(folder / report.adapter.path, report.task.kind, [prompt for prompt in prompts if prompt])


def _sites(folder: Path) -> tuple[SiteRecords, ...]:
    """The records that the run was measured on.

    Raises:
        CheckpointError: they are others now.
    """
    job, stored = run_folder.load(folder)
    experiment = resolve(job, stored.data)
    if experiment.records_digest() != stored.records_digest:
        raise CheckpointError(
            f"the records are not those that the run in {folder} was measured on",
            remedy="put them back, or leave out what reads them: --no-latency, without --languages",
        )
    return experiment.sites
