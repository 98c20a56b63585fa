"""The phases of the benchmark: search, choice, final trainings, baselines. Training happens in worker processes."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from yoriai.client.evaluation.naive_bayes import baselines
from yoriai.client.model.measure import majority_tally
from yoriai.client.records.records import SiteRecords
from yoriai.simulations.bench.rules import plan
from yoriai.simulations.bench.rules.plan import Scale, Setting, Training
from yoriai.simulations.bench.rules.store import Measured, Store
from yoriai.simulations.bench.rules.training import base_accuracy, measure
from yoriai.simulations.run.measuring import together
from yoriai.simulations.scenarios import get_scenario

# What stands beside the rules, with the settings that were found for this one.
REFERENCE: Final = "core"
_THREADS: Final = 1


@dataclass(frozen=True)
class RulesPlan:
    """What is to be measured.

    Attributes:
        epsilons: None stands for no privacy.
        seeds: how many splits the final trainings are done on.
        jobs: worker processes; each computes with one thread.
        setting: of every training, where there is to be no search.
        say: told of each advance.
    """

    data: str
    rules: tuple[str, ...]
    epsilons: tuple[float | None, ...]
    seeds: int
    scale: Scale
    jobs: int
    say: Callable[[str], None] = field(default=print)
    setting: Setting | None = None


@dataclass(frozen=True)
class Result:
    """One rule (or kind of training) at one epsilon.

    Attributes:
        setting: what the search chose.
        finals: by seed.
    """

    kind: str
    rule: str
    epsilon: float | None
    setting: Setting
    finals: tuple[Measured, ...]


@dataclass(frozen=True)
class Found:
    """All that was measured. `trained_nothing` has accuracies by seed: base, majority, naive Bayes."""

    asked: RulesPlan
    results: tuple[Result, ...]
    trained_nothing: dict[str, tuple[float, ...]]


def run(asked: RulesPlan, store: Store, executor: Executor | None = None) -> Found:
    """Measure what the store does not hold yet, and put it together.

    Args:
        executor: where trainings happen; None starts `asked.jobs` processes.
    """
    with _pool(asked.jobs) if executor is None else nullcontext(executor) as pool:
        bench = _Bench(asked, store, pool)
        results: list[Result] = []
        for epsilon in asked.epsilons:
            chosen = bench.search(epsilon)
            finals = [bench.final("federated", rule, epsilon, chosen[rule]) for rule in asked.rules]
            if REFERENCE in chosen:
                beside = _beside(asked.scale, epsilon)
                finals += [bench.final(kind, REFERENCE, epsilon, chosen[REFERENCE]) for kind in beside]
            bench.measure(one for final in finals for one in final)
            results += [bench.result(final) for final in finals]
        return Found(asked, tuple(results), bench.trained_nothing())


def _beside(scale: plan.Scale, epsilon: float | None) -> tuple[str, ...]:
    """The comparisons' own names: `central` is private, and there is none without privacy but the last."""
    if epsilon is None:
        return ("local", "central_no_privacy")
    if scale.noise == "distributed":
        return (plan.FEDERATED_LOCAL, "central", "central_rdp")
    return ("local", "central")


class _Bench:
    def __init__(self, asked: RulesPlan, store: Store, pool: Executor) -> None:
        self._asked, self._store, self._pool = asked, store, pool

    def search(self, epsilon: float | None) -> dict[str, Setting]:
        """The best setting of each rule on validation records, all found with the same number of trainings."""
        asked = self._asked
        if asked.setting is not None:
            return dict.fromkeys(asked.rules, asked.setting)
        tried = {rule: list(plan.first_settings(rule)) for rule in asked.rules}
        self._try(tried, epsilon)
        for rule in asked.rules:
            best = self._best(rule, epsilon, tried[rule])
            tried[rule] += plan.last_settings(best, private=epsilon is not None)
        self._try(tried, epsilon)
        return {rule: self._best(rule, epsilon, settings) for rule, settings in tried.items()}

    def _try(self, tried: dict[str, list[Setting]], epsilon: float | None) -> None:
        asked = self._asked
        self.measure([t for rule, s in tried.items() for t in plan.search(asked.data, rule, epsilon, s, asked.scale)])

    def _best(self, rule: str, epsilon: float | None, settings: Sequence[Setting]) -> Setting:
        """The most accurate; of equals the first, which is the one nearer to the grid's start."""
        trainings = plan.search(self._asked.data, rule, epsilon, settings, self._asked.scale)
        return max(trainings, key=lambda t: self._known(t).accuracy).setting

    def final(self, kind: str, rule: str, epsilon: float | None, setting: Setting) -> list[Training]:
        """The trainings on test records, one a split."""
        asked = self._asked
        return [
            Training(asked.data, kind, rule, epsilon, setting, seed, False, asked.scale) for seed in range(asked.seeds)
        ]

    def result(self, trainings: Sequence[Training]) -> Result:
        """What became of one rule's final trainings."""
        first = trainings[0]
        return Result(first.kind, first.rule, first.epsilon, first.setting, tuple(map(self._known, trainings)))

    def measure(self, trainings: Iterable[Training]) -> None:
        """Train what is not known yet."""
        missing = [one for one in trainings if self._store.get(one) is None]
        waiting: dict[Future[Measured], Training] = {self._pool.submit(measure, one, _THREADS): one for one in missing}
        for done, future in enumerate(as_completed(waiting), 1):
            one, measured = waiting[future], future.result()
            self._store.put(one, measured)
            self._asked.say(
                f"{done}/{len(waiting)} {one.kind} {one.rule} epsilon {one.epsilon or 'none'} {one.setting} "
                f"{'validation' if one.validation else f'seed {one.seed}'}: {measured.accuracy:.3f}"
            )

    def trained_nothing(self) -> dict[str, tuple[float, ...]]:
        """Accuracies by seed of what no federation trains."""
        asked = self._asked
        found: dict[str, list[float]] = {}
        bases = [self._pool.submit(base_accuracy, asked.data, seed, _THREADS) for seed in range(asked.seeds)]
        for seed, base in enumerate(bases):
            ready = get_scenario(asked.data)
            sites, labels = ready.sites(seed), ready.job().task.labels
            tallies = {"base": base.result(), **baselines(sites, labels)}
            for name, by_site in tallies.items():
                found.setdefault(name, []).append(together(by_site).accuracy or 0.0)
            found.setdefault("majority", []).append(_majority(sites, labels))
        return {name: tuple(accuracies) for name, accuracies in found.items()}

    def _known(self, one: Training) -> Measured:
        measured = self._store.get(one)
        if measured is None:
            raise KeyError(one.key())
        return measured


def _majority(sites: Sequence[SiteRecords], labels: Sequence[str]) -> float:
    """Accuracy of the commonest label of everybody's training records."""
    index = {label: i for i, label in enumerate(labels)}
    train = [index[record.response or ""] for site in sites for record in site.train]
    test = [index[record.response or ""] for site in sites for record in site.test]
    return majority_tally(train, test, len(labels)).accuracy or 0.0


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, because a forked one would share locks of libraries; what waits is dropped on an interrupt."""
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
