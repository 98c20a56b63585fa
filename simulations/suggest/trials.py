"""Trials behind a suggestion: whole small runs on public records, each against the best so far on the same records.

The sites' test records are put away. A fifth of their training records stands in for them, the rest trains, both drawn
once and cut to a bound. A trial is `simulate` with its noise and ledgers, in a folder that is thrown away. Settings are
tried one after the other, from the task's defaults on; one is left only where another is better beyond chance (paired
bootstrap, 95 %), so that noise alone does not move a default.

Nothing is charged to anybody, for the search trains on the same records again and again: it is for public records.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.model.paired import FEWEST_RECORDS, MORE_IS_BETTER
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.simulations.experiment.experiment import DataSource, Experiment, resolve
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.report.report import PERSONAL, Change, Report
from yoriai.simulations.run.api import simulate
from yoriai.simulations.run.measuring import Measurements, SiteTallies
from yoriai.simulations.run.options import Options
from yoriai.simulations.run.pairing import changed
from yoriai.simulations.scenarios.partition import split

MOST_TRAIN: Final = 800
MOST_VALIDATION: Final = 250
_VALIDATION: Final = 0.2
_SEED: Final = 0
_RATE: Final = "federation.server_learning_rate"
_OPEN_RATE: Final = "federation.server_learning_rate_without_noise"
# What is tried beside the task's default, in this order; a rate is given as a factor of what the task takes.
_HEAD: Final[Mapping[str, tuple[Any, ...]]] = {
    "federation.rounds": (8, 20),
    "head.directions": (64, 256),
    "head.words": (0, 1536),
    _RATE: (0.5, 2.0),
}
_ADAPTER: Final[Mapping[str, tuple[Any, ...]]] = {
    "lora.layers": ("last:4",),
    "lora.rank": (16,),
    _RATE: (0.5, 2.0),
    "federation.rounds": (8, 24),
}
OWN_SHARE: Final = 0.25  # Of epsilon, for an adapter of each site's own.
OWN_ROUNDS: Final = 4


@dataclass(frozen=True)
class Tried:
    """One other value of a setting: what it changed against the best so far; None where nothing could be told."""

    value: Any
    change: Change | None


@dataclass(frozen=True)
class Proposal:
    """A setting and why.

    Attributes:
        key: dotted.
        value: that is proposed.
        is_default: whether it is what the task takes by itself.
        tried: other values that were tried.
        left_out: other values for which there was no time.
    """

    key: str
    value: Any
    is_default: bool
    tried: tuple[Tried, ...] = ()
    left_out: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Suggestion:
    """What came of the trials.

    Attributes:
        job: whole, with the proposals in it.
        named: the settings that the job was to have at any rate.
        measure: by which trials were compared.
        train, validation: records that the trials used, over all sites.
        best: the report of the run with all proposals.
        split: the proposal on an adapter of each site's own, and the epsilon of both; None where it was not tried.
    """

    job: JobConfig
    named: Mapping[str, object]
    measure: str
    sites: int
    train: int
    validation: int
    best: Report
    proposals: tuple[Proposal, ...]
    split: "Split | None" = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Split:
    """Epsilon for the shared training alone, or a quarter of it for each site's own adapter.

    Attributes:
        shared, own: the epsilons of the proposal; own is 0 where there is to be no adapter of a site's own.
        change: of a site's own adapter, after three quarters for the shared one, against the whole for that.
    """

    shared: float
    own: float
    change: Change | None


def check_public(source: DataSource, *, declared: bool) -> None:
    """Refuse records that nobody has called public.

    Raises:
        ConfigError: they are the caller's own, and not declared.
    """
    if source.path is not None and not declared:
        raise ConfigError(
            "a search trains on these records again and again, and what it finds depends on them",
            found=f"{source.path}, which was not declared public",
            expected="records that anybody may see: no ledger is charged here, and no epsilon covers what is suggested",
            remedy="--declared-public if they are; else --scenario, or synthetic records, and tune by those",
        )


def suggest(
    source: DataSource,
    observer: Observer,
    *,
    declared_public: bool = False,
    job: JobConfig | None = None,
    settings: Mapping[str, object] | None = None,
    minutes: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> Suggestion:
    """Try settings on public records.

    Args:
        source: a scenario, or records that are declared public.
        job: whose named settings stay; None leaves all to the task.
        settings: overrides by dotted key, which stay as well.
        minutes: after which no further trial begins. They count from the end of the first one, which is made at any
            rate, and in which the base reads all records.

    Raises:
        ConfigError: the records are not declared public, or too few to tell anything.
        YoriaiError: as `simulate`.
    """
    check_public(source, declared=declared_public)
    began = clock()
    experiment = resolve(job, source, settings)
    with tempfile.TemporaryDirectory(prefix="yoriai-suggest-") as name:
        trials = _Trials(Path(name), experiment, job, dict(settings or {}), observer)
        return replace(_search(trials, minutes, clock), seconds=clock() - began)


def _search(trials: "_Trials", minutes: float, clock: Callable[[], float]) -> Suggestion:
    chosen: dict[str, object] = {}
    best, proposals = trials.run(chosen), []
    until = clock() + 60 * minutes
    for key, others in trials.plan().items():
        started_from, tried, left_out = trials.value_of(key, best), list[Tried](), list[Any]()
        runs: list[tuple[Change, Any, _Run]] = []
        for other in (trials.made(key, one, started_from) for one in others):
            if other == started_from:
                continue
            if clock() >= until:
                left_out.append(other)
                continue
            run = trials.run({**chosen, key: other})
            change = trials.change(best, run)
            tried.append(Tried(other, change))
            if change is not None and trials.is_better(change):
                runs.append((change, other, run))
        if runs:
            _, value, best = max(runs, key=lambda found: abs(found[0].change))
            chosen[key] = value
        value = chosen.get(key, started_from)
        proposals.append(Proposal(key, value, key not in chosen, tuple(tried), tuple(left_out)))
    found = trials.suggestion(chosen, best, tuple(proposals))
    return replace(found, split=trials.split(chosen, best) if clock() < until else None)


@dataclass(frozen=True)
class _Run:
    """A run's report, and its counts by site: of the shared adapter, and of each site's own where there are any."""

    report: Report
    shared: SiteTallies
    own: SiteTallies = field(default_factory=dict)


class _Quiet:
    """Passes on how far a trial is, and not what it says of itself: its folder is thrown away."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def advance(self, what: str, done: int, total: int) -> None:
        """Pass it on."""
        self._observer.advance(what, done, total)

    def say(self, text: str) -> None:
        """Ignored."""


class _Trials:
    """Runs in one folder, on one base, over one split of the records."""

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        job: JobConfig | None,
        settings: dict[str, object],
        observer: Observer,
    ) -> None:
        self._folder, self._experiment, self._observer = folder, experiment, observer
        self._job = job if job is not None else override(JobConfig(name=experiment.job.name), _task_of(experiment.job))
        self._named = settings
        sites = tuple(_held_out(experiment.sites))
        self._train, self._validation = (sum(len(part) for part in parts) for parts in _parts(sites))
        if self._validation < FEWEST_RECORDS:
            raise ConfigError(
                "too few records to tell one setting from another",
                found=f"{self._validation} held out of the sites' training records",
                expected=f"{FEWEST_RECORDS} or more",
                remedy="bring more public records, or keep the task's defaults: yoriai job init",
            )
        for site in sites:
            for part, records in (("train", site.train), ("test", site.test)):
                _write(folder / "records" / site.name / f"{part}.jsonl", records)
        self._count, self._session = 0, self._loaded()

    @property
    def measure(self) -> str:
        """What trials are compared by."""
        return "accuracy" if self._experiment.job.task.kind == "classify" else "bits_per_byte"

    def plan(self) -> dict[str, tuple[Any, ...]]:
        """What is tried, without what the job or the caller names."""
        plan = dict(_HEAD if self._experiment.job.trains_head else _ADAPTER)
        if self._experiment.job.privacy.noise == "none" and not self._experiment.job.trains_head:
            plan = {_OPEN_RATE if key == _RATE else key: values for key, values in plan.items()}
        return {key: values for key, values in plan.items() if not self._is_named(key)}

    def value_of(self, key: str, run: _Run) -> Any:
        """A setting as the run had it."""
        table, setting = key.split(".")
        section: Any = run.report.job[table]
        return section[setting]

    def made(self, key: str, candidate: Any, now: Any) -> Any:
        """The value that stands for a candidate: of rates it is a factor."""
        return float(f"{candidate * now:.2g}") if key in (_RATE, _OPEN_RATE) else candidate

    def run(self, settings: Mapping[str, object]) -> _Run:
        """One training with these settings beside those that stay."""
        self._count += 1
        place = self._folder / f"run-{self._count}"
        self._observer.say(f"trial    {self._count}: {_shown(settings) or 'all as the task has it'}")
        report = simulate(
            self._job,
            data=DataSource(path=self._folder / "records"),
            settings={"evaluation.every": 0, **self._named, **settings},
            out=place,
            options=Options(alone=False, samples=False),
            observer=_Quiet(self._observer),
            session=self._session,
        )
        kept = Measurements(place / "measurements.json")
        own = [kept[name] for name in (PERSONAL,) if name in kept]
        return _Run(report, kept["federated"], *own)

    def change(self, before: _Run, after: _Run) -> Change | None:
        """What the second run changes against the first, over all held-out records."""
        return changed(before.shared, after.shared, sorted(after.shared)).get(self.measure)

    def is_better(self, change: Change) -> bool:
        """Whether that is a gain beyond chance."""
        return change.low > 0 if MORE_IS_BETTER[self.measure] else change.high < 0

    def split(self, chosen: Mapping[str, object], best: _Run) -> Split | None:
        """Whether each site is better off with a quarter of epsilon for an adapter of its own."""
        privacy = self._experiment.job.privacy
        named = any(self._is_named(key) for key in ("personal.rounds", "personal.epsilon"))
        if privacy.noise == "none" or named:
            return None
        own = round(privacy.epsilon * OWN_SHARE, 6)
        settings = {"privacy.epsilon": privacy.epsilon - own, "personal.epsilon": own, "personal.rounds": OWN_ROUNDS}
        run = self.run({**chosen, **settings})
        after = {**run.shared, **run.own}
        change = changed(best.shared, after, sorted(after)).get(self.measure)
        if change is not None and self.is_better(change):
            return Split(privacy.epsilon - own, own, change)
        return Split(privacy.epsilon, 0.0, change)

    def suggestion(self, chosen: Mapping[str, object], best: _Run, proposals: tuple[Proposal, ...]) -> Suggestion:
        """All of it, but for the split of epsilon."""
        return Suggestion(
            job=override(self._job, {**self._named, **chosen}),
            named=self._named,
            measure=self.measure,
            sites=len(self._experiment.sites),
            train=self._train,
            validation=self._validation,
            best=best.report,
            proposals=proposals,
        )

    def _is_named(self, key: str) -> bool:
        table, setting = key.split(".")
        section: Any = getattr(self._job, table)
        return key in self._named or (table in self._job.model_fields_set and setting in section.model_fields_set)

    def _loaded(self) -> ModelSession:
        job = self._experiment.job
        self._observer.advance("loading the base model", 0, 0)
        base = load_base(job.base.model, device=choose_device(job.speed.device), expected_digest=job.base.digest)
        return ModelSession(base, job.speed)


def _task_of(job: JobConfig) -> dict[str, object]:
    """What the records, or their scenario, settle: base, task and protection, and no setting that is to be found."""
    found: dict[str, object] = {"base.model": job.base.model, "task.kind": job.task.kind}
    found |= {"task.template": job.task.template, "task.max_tokens": job.task.max_tokens}
    if job.task.kind == "classify":
        found["task.labels"] = job.task.labels
    for key in ("noise", "epsilon", "delta", "unit"):
        found[f"privacy.{key}"] = getattr(job.privacy, key)
    found["training.records_per_weight"] = job.training.records_per_weight
    return found


def _held_out(sites: Sequence[SiteRecords]) -> Iterator[SiteRecords]:
    """A fifth of each site's training records in place of its test records, which are put away; each cut to its share
    of the bounds."""
    whole = sum(len(site.train) for site in sites)
    for site in sites:
        train, validation = split(site.train, _VALIDATION, _SEED) if len(site.train) > 1 else (site.train, ())
        share = len(site.train) / whole
        some = (_some(train, MOST_TRAIN * share), _some(validation, MOST_VALIDATION * share))
        yield SiteRecords(site.name, *some)


def _some(records: Sequence[Record], most: float) -> tuple[Record, ...]:
    kept = min(len(records), max(1, round(most)))
    chosen = np.random.default_rng(_SEED).permutation(len(records))[:kept]
    return tuple(records[index] for index in sorted(chosen))


def _parts(sites: Sequence[SiteRecords]) -> tuple[list[Sequence[Record]], list[Sequence[Record]]]:
    return [site.train for site in sites], [site.test for site in sites]


def _write(path: Path, records: Sequence[Record]) -> None:
    """Records as a file that this user alone may read; it is thrown away with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_row(record)) + "\n" for record in records), encoding="utf-8")


def _row(record: Record) -> dict[str, object]:
    row: dict[str, object] = {
        "prompt": record.prompt,
        "response": record.response,
        "text": record.text,
        "owner": record.owner,
    }
    if record.messages is not None:
        row["messages"] = [{"role": role, "content": content} for role, content in record.messages]
    return {key: value for key, value in row.items() if value is not None}


def _shown(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())
