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

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from yoriai import config
from yoriai.client.base.base_model import absolute_name
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import CheckpointError
from yoriai.simulations.engines.choice import check_engine
from yoriai.simulations.engines.one_pass import check_one_pass
from yoriai.simulations.experiment.description import describe
from yoriai.simulations.experiment.experiment import DataSource, Experiment, noise_multiplier, resolve
from yoriai.simulations.experiment.fitted import fit
from yoriai.simulations.experiment.observers import Observer, Silent
from yoriai.simulations.report.file import REPORT_FILE, load_report
from yoriai.simulations.report.report import Report
from yoriai.simulations.run import run_folder
from yoriai.simulations.run.compare import wanted
from yoriai.simulations.run.kept_noise import begun_with
from yoriai.simulations.run.options import Options
from yoriai.simulations.run.run_folder import StoredRun
from yoriai.simulations.run.sitting import Sitting, run_to_report
from yoriai.simulations.run.timing import Stopwatch
from yoriai.system.trackers import check_tracker


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
        each_alone=options.each_alone(experiment.job),
        reason=experiment.reason,
        labels_from_records=experiment.labels_from_records,
        records_digest=experiment.records_digest(),
        samples=options.samples,
    )
    sitting = _open(experiment, folder, run.run_id, options, observer, session)
    with run_folder.locked(folder):
        run_folder.store(folder, experiment.job, run)
        observer.say(f"run      {folder}")
        return run_to_report(sitting)


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
        alone=run.each_alone,
        samples=run.samples,
    )
    check_engine(options.engine, options.ray_address)
    with run_folder.locked(folder):
        comparisons = wanted(job, every=options.compare, alone=options.each_alone(job))
        if (done := _finished(folder, comparisons)) is not None:
            return done
        observer.advance("reading the records", 0, 0)
        experiment = replace(resolve(job, run.data), reason=run.reason, labels_from_records=run.labels_from_records)
        if experiment.records_digest() != run.records_digest:
            raise CheckpointError(
                f"the records are not those that the run in {folder} began with",
                remedy="put them back, or start a new run",
            )
        return run_to_report(_open(experiment, folder, run.run_id, options, observer))


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
) -> Sitting:
    """Load the base and see that job and records fit it, before anything is written."""
    watch = Stopwatch(folder / "seconds.json", sorted(site.name for site in experiment.sites), observer)
    fitted = fit(experiment, watch, session)
    observer.advance("adding up the privacy", 0, 0)
    if begun_with(folder, run_id) is None:  # Calibrated here, it is not taken for the coordinator's overhead.
        noise_multiplier(experiment.job, fitted.n_params, len(experiment.sites))
    watch.lap("load")
    for line in describe(experiment, fitted.session.base.digest, sum(fitted.cut.values())):
        observer.say(line)
    return Sitting(experiment, folder, run_id, options, fitted, observer, watch)


def new_folder(name: str) -> Path:
    """A folder of its own for a run that starts now."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{now}"


def run_files(folder: Path) -> tuple[Path, ...]:
    """What a reader of a finished run wants to open."""
    return (folder / "report.html", folder / "report.json", folder / "adapter")
