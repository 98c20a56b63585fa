"""One sitting of a run: from its last finished round to the report."""

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from yoriai.client.session.export import save_adapter
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import CheckpointError
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.fitted import Fitted
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.report.file import write_report
from yoriai.simulations.report.report import Report, Sample
from yoriai.simulations.run import compare
from yoriai.simulations.run.adapter_pages import write_pages
from yoriai.simulations.run.measuring import Measurements, TestBench
from yoriai.simulations.run.options import Options
from yoriai.simulations.run.personal_adapters import Personal, PersonalRun, personal_adapters
from yoriai.simulations.run.reporting import Measured, build_report
from yoriai.simulations.run.simulated_federation import Federation, Outcome, run_federation
from yoriai.simulations.run.timing import Stopwatch
from yoriai.simulations.run.tracking import RunMetrics
from yoriai.strategies.adapter import AdapterState
from yoriai.system.files import room_for
from yoriai.system.run_files import run_file_fault


@dataclass(frozen=True)
class Sitting:
    """What runs, where, and the model and the clock it works with."""

    experiment: Experiment
    folder: Path
    run_id: str
    options: Options
    fitted: Fitted
    observer: Observer
    watch: Stopwatch

    @property
    def job(self) -> JobConfig:
        return self.experiment.job

    @property
    def session(self) -> ModelSession:
        return self.fitted.session


def run_to_report(sitting: Sitting) -> Report:
    """Train, measure, compare and report whatever is not done yet."""
    watch = sitting.watch
    kept = Measurements(sitting.folder / "measurements.json")
    bench = TestBench(sitting.job, sitting.experiment.sites, sitting.session, watch)
    federation = Federation(
        job=sitting.job,
        sites=sitting.experiment.sites,
        roster=sitting.experiment.roster(),
        folder=sitting.folder,
        run_id=sitting.run_id,
        n_params=sitting.fitted.n_params,
        initial=sitting.fitted.initial,
        engine=sitting.options.engine,
        ray_address=sitting.options.ray_address,
        noise_seed=sitting.options.noise_seed,
        observer=watch,
        on_round=lambda checkpoint: _after_round(sitting, checkpoint, bench, kept, metrics),
    )
    metrics = RunMetrics(sitting.folder, sitting.job, sitting.run_id, watch.say, sitting.options.tracker)
    stored = Registry(sitting.folder).load()
    try:
        if "base" not in kept:
            kept.put("base", bench.measure_base(sitting.fitted.initial))
        for name, tallies in bench.counted().items():
            if name not in kept:
                kept.put(name, tallies)
        if stored is not None:  # The interruption may have come between a round and its measurement.
            _measure_between(sitting, stored, bench, kept)
        watch.lap("evaluate")
        outcome = _trained(federation, sitting)
        watch.lap("account")
        if "federated" not in kept:
            kept.put("federated", bench.measure(outcome.checkpoint.adapter))
        watch.lap("evaluate")
        sitting.observer.advance("exporting the adapter", 0, 0)
        with _after_training(sitting, "its adapter cannot be exported"):
            _save_adapter(sitting, outcome.checkpoint.adapter, sitting.folder / "adapter")
        measured = Measured(
            kept=kept,
            bench=bench,
            seconds={},
            site_seconds={},
            cut=sitting.fitted.cut,
            engine=sitting.options.engine,
            personal=_personal(sitting, federation, outcome, kept, bench),
            samples=_samples(sitting, outcome, bench),
        )
        if sitting.options.compare:  # They take several times as long as the run, which is reported before them.
            _report(sitting, outcome, measured, metrics)
        try:
            _compare(sitting, federation, kept, bench)
        finally:  # What stops the comparisons costs nothing but them.
            report = _report(sitting, outcome, measured, metrics)
    finally:
        metrics.close()
        with contextlib.suppress(CheckpointError):  # A full disk costs these seconds, and not the error's own words.
            watch.save()
    return report


def _trained(federation: Federation, sitting: Sitting) -> Outcome:
    try:
        return run_federation(federation, sitting.session)
    except BaseException:
        sitting.watch.lap("train")
        raise


def _after_round(
    sitting: Sitting, checkpoint: Checkpoint, bench: TestBench, kept: Measurements, metrics: RunMetrics
) -> None:
    sitting.watch.lap("train")
    _measure_between(sitting, checkpoint, bench, kept)
    metrics.round_done(checkpoint.rounds, kept)
    sitting.watch.lap("evaluate")
    sitting.watch.save()


def _measure_between(sitting: Sitting, checkpoint: Checkpoint, bench: TestBench, kept: Measurements) -> None:
    """Measure every few rounds; the last one is measured at the end anyway."""
    every, done = sitting.job.evaluation.every, checkpoint.next_round
    due = every and done % every == 0 and done < sitting.job.federation.rounds
    if due and (name := f"round {done}") not in kept:
        kept.put(name, bench.measure(checkpoint.adapter))


def _personal(
    sitting: Sitting, federation: Federation, outcome: Outcome, kept: Measurements, bench: TestBench
) -> Personal:
    """The sites' own adapters, where the job asks for them."""
    if not sitting.job.personal.rounds:
        return Personal()

    def save(adapter: AdapterState, folder: Path) -> None:
        _save_adapter(sitting, adapter, folder)

    personal = personal_adapters(PersonalRun(federation, outcome, sitting.session, bench, save), kept)
    for site, reason in sorted(personal.without.items()):
        sitting.observer.say(f"site {sitting.experiment.shown(site)} has no personal adapter: {reason}")
    sitting.watch.lap("personal")
    return personal


def _compare(sitting: Sitting, federation: Federation, kept: Measurements, bench: TestBench) -> None:
    options, job = sitting.options, sitting.job
    names = compare.wanted(job, every=options.compare, alone=options.each_alone(job))
    # The stopwatch times the federation's sites; those of comparisons are told to the observer alone.
    for comparison in compare.comparisons(replace(federation, observer=sitting.observer), names):
        sitting.observer.say(f"compare  {comparison.name.replace('_', ' ')}")
        compare.measure(comparison, replace(bench, observer=sitting.observer), sitting.session, kept)
        sitting.watch.lap("compare")


def _samples(sitting: Sitting, outcome: Outcome, bench: TestBench) -> tuple[Sample, ...]:
    if not sitting.options.samples:
        return ()
    found = bench.samples(sitting.fitted.initial, outcome.checkpoint.adapter)
    sitting.watch.lap("evaluate")
    return found


def _report(sitting: Sitting, outcome: Outcome, measured: Measured, metrics: RunMetrics) -> Report:
    """Build the report and write it, with the rounds' last figures."""
    measured = replace(measured, seconds=sitting.watch.parts(), site_seconds=sitting.watch.sites())
    now = datetime.datetime.now(datetime.UTC)
    sitting.observer.advance("writing the report", 0, 0)
    report = build_report(sitting.experiment, sitting.session, outcome, measured, created=now)
    if sitting.options.files:
        with _after_training(sitting, "its report cannot be written"):
            write_pages(report, sitting.job, sitting.run_id, sitting.folder)
            write_report(report, sitting.folder)
    metrics.over(outcome.checkpoint.rounds, report)
    return report


@contextlib.contextmanager
def _after_training(sitting: Sitting, what: str) -> Iterator[None]:
    """A disk that fills up now has cost no round: say so, and by which command the rest is written.

    Raises:
        CheckpointError: a file could not be written.
    """
    try:
        yield
    except CheckpointError as error:
        room = room_for(error.__cause__) if isinstance(error.__cause__, OSError) else "make room"
        raise CheckpointError(
            f"the training is finished and stored, but {what}: {error.what}",
            found=error.found,
            remedy=f"{room}, then have it written without training: yoriai simulate --resume {sitting.folder}",
        ) from error


def _save_adapter(sitting: Sitting, adapter: AdapterState, folder: Path) -> None:
    try:
        save_adapter(sitting.session, sitting.job, adapter, folder)
    except OSError as error:
        raise run_file_fault(folder, error) from error
