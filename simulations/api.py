"""`simulate`: from a job and records to a report, in a run's folder that can be resumed.

RUN/
  job.toml  run.json          what runs, and on which data
  checkpoint.json  adapters/  state/   the coordinator's (server/registry.py)
  ledgers/                    one a site
  measurements.json           what the test records said so far
  adapter/                    PEFT's format, with task.json (labels, prior, template)
  report.json  report.html  figures/
"""

import datetime
import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoriai import config
from yoriai.client.base_model import choose_device, load_base
from yoriai.client.lora import save_peft
from yoriai.client.tasks import LabelHead
from yoriai.client.workbench import Workbench
from yoriai.config import JobConfig, job_to_toml
from yoriai.errors import CheckpointError, ConfigError
from yoriai.server.registry import Checkpoint, write_atomically
from yoriai.simulations import compare
from yoriai.simulations.experiment import DataSource, Experiment, resolve
from yoriai.simulations.federation import Federation, Outcome, run_federation
from yoriai.simulations.measuring import Measurements, TestBench
from yoriai.simulations.progress import Observer, Silent
from yoriai.simulations.report import Report, write_report
from yoriai.simulations.reporting import Measured, build_report
from yoriai.strategies.rule import get_rule

ENGINES = ("inprocess", "flower")


@dataclass(frozen=True)
class Options:
    """How a run is done, beside what it does.

    Attributes:
        engine: `inprocess` or `flower`.
        compare: also train each site alone, without privacy, and at one place.
        noise_seed: tests only; repeatable noise voids every guarantee.
    """

    engine: str = "inprocess"
    compare: bool = False
    noise_seed: bytes | None = None


def simulate(
    job: JobConfig | Path | str | None = None,
    *,
    data: DataSource | Path | str | None = None,
    settings: dict[str, object] | None = None,
    out: Path | str | None = None,
    options: Options | None = None,
    observer: Observer | None = None,
) -> Report:
    """Run a federated training on this machine and return its report.

    Args:
        job: a job, or the path of a job file; None takes the defaults for the data.
        data: a folder of sites, a file to split, or None for the excavator work orders.
        settings: overrides by dotted key, such as {"privacy.epsilon": 4.0}.
        out: the run's folder, which must not hold another run; None makes one under `runs/`.
        options: engine and comparisons.
        observer: told of each advance.

    Raises:
        YoriaiError: whatever is wrong with job, records or budget, with a remedy; the folder keeps what was finished.
    """
    options = options or Options()
    if options.engine not in ENGINES:
        raise ConfigError("no such engine", found=options.engine, expected=" or ".join(ENGINES))
    source = data if isinstance(data, DataSource) else DataSource(path=Path(data) if data is not None else None)
    loaded = job if isinstance(job, JobConfig) or job is None else config.load_job(Path(job))
    experiment = resolve(loaded, source, settings)
    folder = Path(out) if out is not None else new_folder(experiment.job.name)
    if (folder / "run.json").exists():
        raise ConfigError(f"{folder} holds a run already", remedy="resume it with --resume, or choose another --out")
    run_id = f"{experiment.job.name}-{uuid.uuid4().hex[:12]}"
    _store(folder, experiment, source, options, run_id)
    return _run(experiment, folder, options, run_id, observer or Silent())


def resume(folder: Path | str, *, options: Options | None = None, observer: Observer | None = None) -> Report:
    """Carry on a run that was interrupted, from its last finished round; a finished one is only reported again.

    Args:
        options: None repeats those the run was started with.

    Raises:
        CheckpointError: the folder holds no run.
    """
    folder = Path(folder)
    try:
        stored: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
        source = DataSource(**{**stored["data"], "path": Path(p) if (p := stored["data"]["path"]) else None})
        options = options or Options(engine=stored["engine"], compare=stored["compare"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no run", remedy="name the folder of a run") from error
    experiment = resolve(config.load_job(folder / "job.toml"), source)
    return _run(experiment, folder, options, stored["run_id"], observer or Silent())


def _store(folder: Path, experiment: Experiment, source: DataSource, options: Options, run_id: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be made", found=error.strerror or "", remedy="choose another --out"
        ) from error
    write_atomically(folder / "job.toml", job_to_toml(experiment.job).encode())
    data = {**source.__dict__, "path": str(source.path.resolve()) if source.path else None}
    stored = {"run_id": run_id, "data": data, "engine": options.engine, "compare": options.compare}
    write_atomically(folder / "run.json", json.dumps(stored, indent=1).encode())


def _run(experiment: Experiment, folder: Path, options: Options, run_id: str, observer: Observer) -> Report:
    clock = _Clock()
    job = experiment.job
    base = load_base(
        job.base.model,
        device=choose_device(job.speed.device),
        expected_digest=job.base.digest,
        progress=lambda what, done, total: observer.advance(f"base model: {what}", done, total),
    )
    workbench = Workbench(base, job.speed)
    clock.lap("load")
    kept = Measurements(folder / "measurements.json")
    bench = TestBench(job, experiment.sites, workbench, observer)
    federation = Federation(
        job=job,
        sites=experiment.sites,
        roster=experiment.roster(),
        folder=folder,
        run_id=run_id,
        engine=options.engine,
        noise_seed=options.noise_seed,
        observer=observer,
        on_round=lambda checkpoint: _measure_between(job, checkpoint, bench, kept, clock),
    )
    if "base" not in kept:
        kept.put("base", bench.measure(workbench.initial_adapter(job)))
    clock.lap("evaluate")
    outcome = run_federation(federation, workbench)
    clock.lap("train")
    if "federated" not in kept:
        kept.put("federated", bench.measure(outcome.checkpoint.adapter))
    clock.lap("evaluate")
    _save_adapter(experiment, workbench, outcome, folder / "adapter")
    if options.compare:
        for comparison in compare.comparisons(federation):
            observer.say(f"comparison: {comparison.name.replace('_', ' ')}")
            compare.measure(comparison, bench, workbench, kept)
        clock.lap("compare")
    report = build_report(
        experiment,
        workbench,
        outcome,
        Measured(kept=kept, bench=bench, seconds=clock.seconds(), engine=options.engine),
        created=datetime.datetime.now(datetime.UTC),
    )
    write_report(report, folder)
    return report


def _measure_between(
    job: JobConfig, checkpoint: Checkpoint, bench: TestBench, kept: Measurements, clock: "_Clock"
) -> None:
    """Measure every few rounds; the last one is measured at the end anyway."""
    every, done = job.evaluation.every, checkpoint.next_round
    if every and done % every == 0 and done < job.federation.rounds:
        clock.lap("train")
        kept.put(f"round {done}", bench.measure(checkpoint.adapter))
        clock.lap("evaluate")


def _save_adapter(experiment: Experiment, workbench: Workbench, outcome: Outcome, folder: Path) -> None:
    """The adapter as PEFT reads it, and beside it what a classifier needs to answer."""
    job = experiment.job
    adapter = get_rule(job.federation.rule).to_peft(outcome.checkpoint.adapter)
    save_peft(workbench.model(job), adapter, folder)
    head = workbench.head(job)
    task: dict[str, object] = {"kind": job.task.kind, "template": job.task.template}
    if isinstance(head, LabelHead):
        task |= {"labels": list(job.task.labels), "prior": head.prior.tolist()}
    write_atomically(folder / "task.json", json.dumps(task, indent=1).encode())


def new_folder(name: str) -> Path:
    """A folder of its own for a run that starts now."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{now}"


def run_files(folder: Path) -> tuple[Path, ...]:
    """What a reader of a finished run wants to open."""
    return (folder / "report.html", folder / "report.json", folder / "adapter")


class _Clock:
    """Wall time by part of the run; `lap` gives the time since the last call to a part."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return {**self._parts, "total": time.monotonic() - self._started}
