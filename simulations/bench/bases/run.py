"""`bench bases`: each task trained on each base by `simulate`, then measured rounded, in time, and as a teacher."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from yoriai.client.base.base_model import BaseModel, choose_device, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.evaluation.by_language import tally_of
from yoriai.client.model.measure import Tally
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.routing.distilling import head_job, learn
from yoriai.client.routing.router import Routed
from yoriai.client.session.forgetting import general_texts, losses_of
from yoriai.client.session.loading import load, read_task
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.server.round.registry import Registry
from yoriai.simulations.bench.bases.advice import advice
from yoriai.simulations.bench.bases.rounding import KINDS, bits_a_weight, rounded
from yoriai.simulations.bench.bases.tasks import Task
from yoriai.simulations.experiment.experiment import DataSource
from yoriai.simulations.experiment.machine import machine, versions
from yoriai.simulations.experiment.observers import Silent
from yoriai.simulations.run import run_folder
from yoriai.simulations.run.api import simulate
from yoriai.simulations.run.measuring import Measurements, SiteTallies, TestBench, together
from yoriai.simulations.run.options import Options
from yoriai.strategies.adapter import AdapterState

_THOUSAND: Final = 1000
_HOUR_S: Final = 3600


@dataclass(frozen=True)
class BasesPlan:
    """What is compared.

    Attributes:
        bases: names as jobs have them, from the smallest to the largest.
        settings: of each job, by dotted key.
        answers: whose time is taken, a task and base.
        core_hour: price of a core for an hour, in any currency; 0 leaves costs out.
        say: told of each step.
    """

    bases: tuple[str, ...]
    tasks: tuple[Task, ...]
    settings: Mapping[str, object]
    answers: int
    core_hour: float
    say: Callable[[str], None]


@dataclass(frozen=True)
class _Trained:
    """A task on a base, trained."""

    job: JobConfig
    adapter: AdapterState
    folder: Path
    epsilon: float | None
    base: SiteTallies
    federated: SiteTallies


@dataclass(frozen=True)
class _Teacher:
    """A larger base's labels of the prompts that were kept back."""

    base: str
    labels: tuple[str, ...]
    right: int


def bench_bases(plan: BasesPlan) -> dict[str, Any]:
    """Train, measure, and give the document. Larger bases come first, for the smaller ones learn from them.

    Raises:
        ConfigError: there are fewer than two bases, or a job does not fit.
        BaseModelError: a base does not load.
    """
    if len(set(plan.bases)) < 2:
        raise ConfigError("one base compares with nothing", expected="two bases or more, from small to large")
    teachers: dict[str, _Teacher] = {}
    bases: list[dict[str, Any]] = []
    tallies: dict[str, list[SiteTallies]] = {task.name: [] for task in plan.tasks}
    for name in reversed(plan.bases):
        plan.say(f"loading {name}")
        with quiet_libraries():
            base = load_base(name, device=choose_device("auto"))
            found = _facts(base)
            for task in plan.tasks:
                plan.say(f"{name}: {task.name}")
                one, trained, teacher = _task(base, task, plan, teachers.get(task.name))
                found["tasks"][task.name] = one
                tallies[task.name].insert(0, trained)
                teachers[task.name] = teacher
        bases.insert(0, found)
    return {
        "schema": 1,
        "machine": machine(),
        "versions": versions(),
        "settings": dict(plan.settings),
        "core_hour": plan.core_hour,
        "bases": bases,
        "advice": {name: advice(name, bases, of_task) for name, of_task in tallies.items()},
    }


def _facts(base: BaseModel) -> dict[str, Any]:
    sizes = [one.numel() for one in base.model.parameters()]
    matrices = sum(one.numel() for one in base.model.parameters() if one.ndim == 2)
    bits = {}
    for language in dict.fromkeys(language for language, _ in general_texts()):
        texts = [text for of, text in general_texts() if of == language]
        bits[language] = tally_of(losses_of(base, base.model, texts)).bits_per_byte
    return {
        "name": base.name,
        "parameters": sum(sizes),
        "bytes": {"f32": 4 * sum(sizes)} | {kind: round(matrices * bits_a_weight(kind) / 8) for kind in KINDS},
        "bits_per_byte": bits,
        "tasks": {},
    }


def _task(
    base: BaseModel, task: Task, plan: BasesPlan, teacher: _Teacher | None
) -> tuple[dict[str, Any], SiteTallies, _Teacher]:
    session = ModelSession(base, JobConfig(name="bases").speed)
    with tempfile.TemporaryDirectory(prefix="yoriai-bases-") as place:
        trained, seconds = _train(task, plan, session, Path(place))
        bench = TestBench(trained.job, task.sites, session, Silent())
        answered = _labels(bench, trained, task.prompts)
        found = {
            "epsilon": trained.epsilon,
            "train_seconds": seconds,
            "base": _score(trained.base),
            "federated": _score(trained.federated),
            "sites": _by_site(trained),
        }
        if teacher is not None and trained.job.trains_head:
            found["distilled"] = _distilled(bench, trained, task.prompts, teacher)
        session.close()
        found["rounded"] = {kind: _rounded(base, trained, task, kind) for kind in KINDS}
        found["thousand_answers"] = _thousand(trained.folder, task.sites, plan)
    return found, trained.federated, _Teacher(base.name, *answered)


def _train(task: Task, plan: BasesPlan, session: ModelSession, place: Path) -> tuple[_Trained, float]:
    began, out = time.monotonic(), place / "run"
    report = simulate(
        task.job,
        data=DataSource(path=task.write(place / "data")),
        settings={**plan.settings, "base.model": session.base.name},
        out=out,
        options=Options(alone=False, samples=False, files=False),
        session=session,
    )
    seconds = time.monotonic() - began
    kept, checkpoint = Measurements(out / "measurements.json"), Registry(out).load()
    assert checkpoint is not None
    job, _ = run_folder.load(out)
    if job.task.kind != "classify":
        raise ConfigError("bases are compared by labels", found=f"a task of kind {job.task.kind}")
    spent = max((site.epsilon for site in report.sites if site.epsilon is not None), default=None)
    return _Trained(job, checkpoint.adapter, out / "adapter", spent, kept["base"], kept["federated"]), seconds


def _score(tallies: SiteTallies) -> dict[str, Any]:
    whole = together(tallies)
    return {"correct": int(whole.correct or 0), "records": whole.records}


def _by_site(trained: _Trained) -> dict[str, Any]:
    both = {"base": trained.base, "federated": trained.federated}
    return {site: {name: _score({site: one[site]}) for name, one in both.items()} for site in trained.base}


def _of(bench: TestBench, records: Sequence[Record], adapter: AdapterState) -> Tally:
    sites = (SiteRecords("all", (), tuple(records)),)
    return TestBench(bench.job, sites, bench.session, Silent()).measure(adapter)["all"]


def _labels(bench: TestBench, trained: _Trained, prompts: Sequence[Record]) -> tuple[tuple[str, ...], int]:
    """What the trained model answers to the prompts that were kept back, and how often that is right."""
    tally = _of(bench, prompts, trained.adapter)
    assert tally.per_record is not None
    return tuple(trained.job.task.labels[given] for given in tally.per_record.given), int(tally.correct or 0)


def _distilled(bench: TestBench, trained: _Trained, prompts: Sequence[Record], teacher: _Teacher) -> dict[str, Any]:
    """The base's own head goes on with the teacher's labels of prompts that neither has trained on."""
    job = head_job(read_task(trained.folder), bench.session.base.name)
    answers = [Routed(label, "large") for label in teacher.labels]
    texts = [record.prompt or "" for record in prompts]
    learnt = learn(bench.session, job, trained.adapter, texts, answers, source=SystemSource())
    after = bench.measure(learnt)
    return _score(after) | {"teacher": teacher.base, "prompts": len(prompts), "teacher_right": teacher.right}


def _rounded(base: BaseModel, trained: _Trained, task: Task, kind: str) -> dict[str, Any]:
    """The same adapter or head on the rounded base, and how many answers stay the same."""
    with rounded(base.model, kind):
        session = ModelSession(base, trained.job.speed)
        tallies = TestBench(trained.job, task.sites, session, Silent()).measure(trained.adapter)
        session.close()
    before, after = (together(one).per_record for one in (trained.federated, tallies))
    assert before is not None
    assert after is not None
    return _score(tallies) | {"same": int((before.given == after.given).sum())}


def _thousand(folder: Path, sites: Sequence[SiteRecords], plan: BasesPlan) -> dict[str, Any]:
    """Processor seconds, all cores added up, of a thousand answers one by one; and their price."""
    texts = [record.prompt or "" for site in sites for record in site.test][: plan.answers]
    model = load(folder)
    model.predict(texts[:1])
    wall, busy = time.perf_counter(), time.process_time()
    for text in texts:
        model.predict([text])
    busy, wall = time.process_time() - busy, time.perf_counter() - wall
    seconds = _THOUSAND * busy / len(texts)
    found: dict[str, Any] = {"answers": len(texts), "core_seconds": seconds, "seconds": _THOUSAND * wall / len(texts)}
    return found | ({"cost": seconds / _HOUR_S * plan.core_hour} if plan.core_hour else {})
