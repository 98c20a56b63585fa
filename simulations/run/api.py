"""`simulate`: from a job and records to a report, in a run's folder that can be resumed.

RUN/
  job.toml  run.json  .lock   what runs, and on which data (run_folder.py)
  checkpoint.json  adapters/  state/   the coordinator's (server/round/registry.py)
  ledgers/  noise.json        one a site; the noise that the run began with (kept_noise.py)
  metrics.jsonl               a line of figures a round, for trackers (tracking.py)
  measurements.json  seconds.json      what the test records said so far, and how long it took
  compare/                    the comparisons' own checkpoints and ledgers
  adapter/                    the adapter, or head, task.json (client/session/export.py) and its model card, README.md
  personal/SITE/              the same of each site's own adapter, where the job asks for them (personal.py)
  report.json  report.html  figures/  privacy.html (the certificate's page, unsigned)
"""

import contextlib
import datetime
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yoriai import config
from yoriai.client.base.base_model import absolute_name
from yoriai.client.session.export import save_adapter
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import CheckpointError
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.simulations.engines.choice import check_engine
from yoriai.simulations.engines.one_pass import check_one_pass
from yoriai.simulations.report.file import REPORT_FILE, load_report, write_report
from yoriai.simulations.report.report import Report, Sample
from yoriai.simulations.run import compare, run_folder
from yoriai.simulations.run.adapter_pages import write_pages
from yoriai.simulations.run.description import describe
from yoriai.simulations.run.experiment import DataSource, Experiment, noise_multiplier, resolve
from yoriai.simulations.run.fitted import Fitted, fit
from yoriai.simulations.run.measuring import Measurements, TestBench
from yoriai.simulations.run.observers import Observer, Silent
from yoriai.simulations.run.personal_adapters import Personal, PersonalRun, personal_adapters
from yoriai.simulations.run.reporting import Measured, build_report
from yoriai.simulations.run.run_folder import StoredRun
from yoriai.simulations.run.simulated_federation import Federation, Outcome, run_federation
from yoriai.simulations.run.timing import Stopwatch
from yoriai.simulations.run.tracking import RunMetrics
from yoriai.strategies.adapter import AdapterState
from yoriai.system.files import room_for
from yoriai.system.run_files import run_file_fault
from yoriai.system.trackers import check_tracker


@dataclass(frozen=True)
class Options:
    """How a run is done, beside what it does.

    Attributes:
        engine: `inprocess`, `one-pass` or `flower`.
        ray_address: HOST:PORT of a Ray cluster whose nodes play the sites, with the flower engine; empty: this machine.
        compare: also train each site alone, without privacy, and at one place.
        alone: train each site alone even without `compare`, where a head trains; it costs seconds.
        samples: show some test records with the answers before and after in the report of an instruct task.
        files: write the report's files; a trial whose folder is thrown away needs none, and drawing takes seconds.
        tracker: `mlflow` or `trackio`, which the extra `track` brings; it is told of the figures in metrics.jsonl.
        noise_seed: tests only; repeatable noise voids every guarantee.
    """

    engine: str = "inprocess"
    ray_address: str = ""
    compare: bool = False
    alone: bool = True
    samples: bool = True
    files: bool = True
    tracker: str = ""
    noise_seed: bytes | None = None


@dataclass(frozen=True)
class _Running:
    """One sitting of a run: what it is, where, and the model and the clock it works with."""

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


def simulate(
    job: JobConfig | Path | str | None = None,
    *,
    data: DataSource | Path | str | None = None,
    settings: dict[str, object] | None = None,
    out: Path | str | None = None,
    options: Options | None = None,
    observer: Observer | None = None,
    session: ModelSession | None = None,
) -> Report:
    """Run a federated training on this machine and return its report.

    Args:
        job: a job, or the path of a job file; None takes the defaults for the data.
        data: a folder of sites, a file to split, or None for the excavator work orders.
        settings: overrides by dotted key, such as {"privacy.epsilon": 4.0}.
        out: the run's folder, new or empty; None makes one under `runs/`.
        options: engine and comparisons.
        observer: told of each advance.
        session: holds the job's base already, from another run; None loads it.

    Raises:
        YoriaiError: whatever is wrong with job, records or budget, with a remedy. What does not fit is found before
            the folder is made; later on the folder keeps what was finished.
    """
    options, observer = options or Options(), observer or Silent()
    check_engine(options.engine, options.ray_address)
    if options.tracker:
        check_tracker(options.tracker)
    source = data if isinstance(data, DataSource) else DataSource(path=Path(data) if data is not None else None)
    loaded = job if isinstance(job, JobConfig) or job is None else config.load_job(Path(job))
    folder = Path(out) if out is not None else None
    if folder is not None:
        run_folder.must_be_free(folder)
    observer.advance("reading the records", 0, 0)
    experiment = resolve(loaded, source, settings)
    found = absolute_name(experiment.job.base.model)  # The run may be resumed from another folder.
    experiment = replace(experiment, job=config.override(experiment.job, {"base.model": found}))
    if options.engine == "one-pass":
        check_one_pass(experiment.job)
    folder = folder or new_folder(experiment.job.name)
    run = StoredRun(
        run_id=f"{experiment.job.name}-{uuid.uuid4().hex[:12]}",
        data=source,
        engine=options.engine,
        compare=options.compare,
        alone=options.alone,
        reason=experiment.reason,
        labels_from_records=experiment.labels_from_records,
        records_digest=experiment.records_digest(),
        samples=options.samples,
    )
    running = _open(experiment, folder, run.run_id, options, observer, session)
    with run_folder.locked(folder):
        run_folder.store(folder, experiment.job, run)
        observer.say(f"run      {folder}")
        return _run(running)


def resume(
    folder: Path | str,
    *,
    compare: bool = False,
    ray_address: str = "",
    options: Options | None = None,
    observer: Observer | None = None,
) -> Report:
    """Carry on a run that was interrupted, from its last finished round; a finished one is only reported again.

    Args:
        compare: do the comparisons, even if the run was started without them.
        ray_address: as in Options. The run does not keep it: a cluster may be gone, or elsewhere, by now.
        options: None repeats those the run was started with.

    Raises:
        CheckpointError: the folder holds no run, another process works on it, or the records are others now.
    """
    folder, observer = Path(folder), observer or Silent()
    job, run = run_folder.load(folder)
    options = options or Options(
        engine=run.engine,
        ray_address=ray_address,
        compare=run.compare or compare,
        alone=run.alone,
        samples=run.samples,
    )
    check_engine(options.engine, options.ray_address)
    with run_folder.locked(folder):
        if (done := _finished(folder, _compared_with(job, options))) is not None:
            return done
        observer.advance("reading the records", 0, 0)
        experiment = replace(resolve(job, run.data), reason=run.reason, labels_from_records=run.labels_from_records)
        if experiment.records_digest() != run.records_digest:
            raise CheckpointError(
                f"the records are not those that the run in {folder} began with",
                remedy="put them back, or start a new run",
            )
        return _run(_open(experiment, folder, run.run_id, options, observer))


def _compared_with(job: JobConfig, options: Options) -> tuple[str, ...]:
    return compare.wanted(job, every=options.compare, alone=options.alone)


def _finished(folder: Path, comparisons: Sequence[str]) -> Report | None:
    """The report of a run that has nothing left to do, these comparisons neither."""
    if not (folder / REPORT_FILE).exists():
        return None
    report = load_report(folder)
    complete = report.status != "interrupted" and set(comparisons) <= set(report.overall)
    return report if complete and all(path.exists() for path in run_files(folder)) else None


def _open(
    experiment: Experiment,
    folder: Path,
    run_id: str,
    options: Options,
    observer: Observer,
    session: ModelSession | None = None,
) -> _Running:
    """Load the base and see that job and records fit it, before anything is written."""
    watch = Stopwatch(folder / "seconds.json", sorted(site.name for site in experiment.sites), observer)
    fitted = fit(experiment, watch, session)
    observer.advance("adding up the privacy", 0, 0)
    # Calibrated here, it is not taken for the coordinator's overhead.
    noise_multiplier(experiment.job, fitted.n_params, len(experiment.sites))
    watch.lap("load")
    for line in describe(experiment, fitted.session.base.digest, sum(fitted.cut.values())):
        observer.say(line)
    return _Running(experiment, folder, run_id, options, fitted, observer, watch)


def _run(running: _Running) -> Report:
    """Train, measure, compare and report whatever is not done yet."""
    watch = running.watch
    kept = Measurements(running.folder / "measurements.json")
    bench = TestBench(running.job, running.experiment.sites, running.session, watch)
    federation = Federation(
        job=running.job,
        sites=running.experiment.sites,
        roster=running.experiment.roster(),
        folder=running.folder,
        run_id=running.run_id,
        n_params=running.fitted.n_params,
        initial=running.fitted.initial,
        engine=running.options.engine,
        ray_address=running.options.ray_address,
        noise_seed=running.options.noise_seed,
        observer=watch,
        on_round=lambda checkpoint: _after_round(running, checkpoint, bench, kept, metrics),
    )
    metrics = RunMetrics(running.folder, running.job, running.run_id, watch.say, running.options.tracker)
    stored = Registry(running.folder).load()
    try:
        if "base" not in kept:
            kept.put("base", bench.measure_base(running.fitted.initial))
        for name, tallies in bench.counted().items():
            if name not in kept:
                kept.put(name, tallies)
        if stored is not None:  # The interruption may have come between a round and its measurement.
            _measure_between(running, stored, bench, kept)
        watch.lap("evaluate")
        outcome = _trained(federation, running)
        watch.lap("account")
        if "federated" not in kept:
            kept.put("federated", bench.measure(outcome.checkpoint.adapter))
        watch.lap("evaluate")
        running.observer.advance("exporting the adapter", 0, 0)
        with _after_training(running, "its adapter cannot be exported"):
            _save_adapter(running, outcome.checkpoint.adapter, running.folder / "adapter")
        measured = Measured(
            kept=kept,
            bench=bench,
            seconds={},
            site_seconds={},
            cut=running.fitted.cut,
            engine=running.options.engine,
            personal=_personal(running, federation, outcome, kept, bench),
            samples=_samples(running, outcome, bench),
        )
        if running.options.compare:  # They take several times as long as the run, which is reported before them.
            _report(running, outcome, measured, metrics)
        try:
            _compare(running, federation, kept, bench)
        finally:  # What stops the comparisons costs nothing but them.
            report = _report(running, outcome, measured, metrics)
    finally:
        metrics.close()
        with contextlib.suppress(CheckpointError):  # A full disk costs these seconds, and not the error's own words.
            watch.save()
    return report


def _trained(federation: Federation, running: _Running) -> Outcome:
    try:
        return run_federation(federation, running.session)
    except BaseException:
        running.watch.lap("train")
        raise


def _after_round(
    running: _Running, checkpoint: Checkpoint, bench: TestBench, kept: Measurements, metrics: RunMetrics
) -> None:
    running.watch.lap("train")
    _measure_between(running, checkpoint, bench, kept)
    metrics.round_done(checkpoint.rounds, kept)
    running.watch.lap("evaluate")
    running.watch.save()


def _measure_between(running: _Running, checkpoint: Checkpoint, bench: TestBench, kept: Measurements) -> None:
    """Measure every few rounds; the last one is measured at the end anyway."""
    every, done = running.job.evaluation.every, checkpoint.next_round
    due = every and done % every == 0 and done < running.job.federation.rounds
    if due and (name := f"round {done}") not in kept:
        kept.put(name, bench.measure(checkpoint.adapter))


def _personal(
    running: _Running, federation: Federation, outcome: Outcome, kept: Measurements, bench: TestBench
) -> Personal:
    """The sites' own adapters, where the job asks for them."""
    if not running.job.personal.rounds:
        return Personal()

    def save(adapter: AdapterState, folder: Path) -> None:
        _save_adapter(running, adapter, folder)

    personal = personal_adapters(PersonalRun(federation, outcome, running.session, bench, save), kept)
    for site, reason in sorted(personal.without.items()):
        running.observer.say(f"site {running.experiment.shown(site)} has no personal adapter: {reason}")
    running.watch.lap("personal")
    return personal


def _compare(running: _Running, federation: Federation, kept: Measurements, bench: TestBench) -> None:
    names = _compared_with(running.job, running.options)
    # The stopwatch times the federation's sites; those of comparisons are told to the observer alone.
    for comparison in compare.comparisons(replace(federation, observer=running.observer), names):
        running.observer.say(f"compare  {comparison.name.replace('_', ' ')}")
        compare.measure(comparison, replace(bench, observer=running.observer), running.session, kept)
        running.watch.lap("compare")


def _samples(running: _Running, outcome: Outcome, bench: TestBench) -> tuple[Sample, ...]:
    if not running.options.samples:
        return ()
    found = bench.samples(running.fitted.initial, outcome.checkpoint.adapter)
    running.watch.lap("evaluate")
    return found


def _report(running: _Running, outcome: Outcome, measured: Measured, metrics: RunMetrics) -> Report:
    """Build the report and write it, with the rounds' last figures."""
    measured = replace(measured, seconds=running.watch.parts(), site_seconds=running.watch.sites())
    now = datetime.datetime.now(datetime.UTC)
    running.observer.advance("writing the report", 0, 0)
    report = build_report(running.experiment, running.session, outcome, measured, created=now)
    if running.options.files:
        with _after_training(running, "its report cannot be written"):
            write_pages(report, running.job, running.run_id, running.folder)
            write_report(report, running.folder)
    metrics.over(outcome.checkpoint.rounds, report)
    return report


@contextlib.contextmanager
def _after_training(running: _Running, what: str) -> Iterator[None]:
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
            remedy=f"{room}, then have it written without training: yoriai simulate --resume {running.folder}",
        ) from error


def _save_adapter(running: _Running, adapter: AdapterState, folder: Path) -> None:
    try:
        save_adapter(running.session, running.job, adapter, folder)
    except OSError as error:
        raise run_file_fault(folder, error) from error


def new_folder(name: str) -> Path:
    """A folder of its own for a run that starts now."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{now}"


def run_files(folder: Path) -> tuple[Path, ...]:
    """What a reader of a finished run wants to open."""
    return (folder / "report.html", folder / "report.json", folder / "adapter")
