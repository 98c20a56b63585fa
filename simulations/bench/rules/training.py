"""One training of the benchmark, in a worker process that keeps base model and frozen states for the next one."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from yoriai import wire
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.server.round.registry import Checkpoint
from yoriai.simulations.bench.rules.plan import FEDERATED_LOCAL, Training, job_of
from yoriai.simulations.bench.rules.product_error import product_error
from yoriai.simulations.bench.rules.store import Measured
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.observers import Silent
from yoriai.simulations.report.report import Data
from yoriai.simulations.run import compare
from yoriai.simulations.run.measuring import SiteTallies, TestBench
from yoriai.simulations.run.simulated_federation import Federation, run_federation
from yoriai.simulations.scenarios import get_scenario
from yoriai.simulations.scenarios.partition import partition
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule, largest_update, rule_of

_DIRICHLET = 0.5  # Hsu et al. 2019; the smaller, the less alike the sites.


def measure(training: Training, threads: int) -> Measured:
    """Train and measure; runs in a worker process."""
    sites = _sites(training.data, training.seed, training.validation, training.scale.sites)
    job = job_of(training, sites)
    session = _session(job.base.model, threads)
    experiment = Experiment(job, sites, Data(title="", licence="", source=""), "", False)
    bench = TestBench(job, sites, session, Silent())
    with tempfile.TemporaryDirectory(prefix="yoriai-bench-") as folder, quiet_libraries():
        federation = Federation(
            job=job,
            sites=sites,
            roster=experiment.roster(),
            folder=Path(folder),
            run_id=f"bench-{training.rule}",
            n_params=largest_update(get_rule(training.rule), session.initial_adapter(job)),
        )
        # Frozen states are kept from one training to the next; whoever comes first must not pay for them.
        for site in sites:
            session.prepare(site.train, job)
        if training.kind in ("federated", FEDERATED_LOCAL):
            return _federated(training, federation, bench)
        wanted = training.kind.removesuffix("_rdp")
        comparison = next(c for c in compare.comparisons(federation) if c.name == wanted)
        return _scores(compare.tallies_of(comparison, bench, session), seconds=0.0, up=0, down=0)


def base_accuracy(data: str, seed: int, threads: int) -> SiteTallies:
    """The untouched base on a split's test records, by site; runs in a worker process."""
    job = get_scenario(data).job()
    session, sites = _session(job.base.model, threads), _sites(data, seed, False, None)
    return TestBench(job, sites, session, Silent()).measure(session.initial_adapter(job))


def _federated(training: Training, federation: Federation, bench: TestBench) -> Measured:
    watch = _RoundWatch(federation)
    started = time.monotonic()
    watched = replace(federation, on_round=watch.after_round, on_replies=watch.replies)
    checkpoint = run_federation(watched, bench.session).checkpoint
    seconds = (time.monotonic() - started - watch.seconds) / len(checkpoint.rounds)
    # The first round's bytes hold the offer, which is sent once.
    later = checkpoint.rounds[1:] or checkpoint.rounds
    up = sum(sum(record.bytes_up.values()) for record in later)
    down = sum(sum(record.bytes_down.values()) for record in later)
    messages = sum(len(record.bytes_down) for record in later)
    tallies = bench.measure(checkpoint.adapter)
    return _scores(tallies, seconds=seconds, up=up // messages, down=down // messages, error=watch.largest)


class _RoundWatch:
    """Looks over the coordinator's shoulder: the sites' updates, and what the rule makes of them.

    Attributes:
        largest: product error of the round that was furthest off.
        seconds: what the looking took.
    """

    def __init__(self, federation: Federation) -> None:
        self._rule = rule_of(federation.job)
        self._weights = federation.roster.weights
        self._updates: dict[str, tuple[float, AdapterState]] = {}
        self._before: AdapterState | None = None
        self._masked = federation.job.secure_aggregation.enabled
        self.largest: tuple[float, float] | None = None
        self.seconds = 0.0

    def replies(self, stage: str, replies: Mapping[str, bytes]) -> None:
        """Keep a round's updates."""
        messages = {site: wire.decode(data) for site, data in replies.items()}
        self._updates = {
            site: (self._weights[site], AdapterState.from_bytes(message.payload))
            for site, message in messages.items()
            if isinstance(message, wire.PlainUpdate)
        }

    def after_round(self, checkpoint: Checkpoint) -> None:
        """Compare updates in the clear, from the second round on: before the first, the adapter's product is zero."""
        started = time.monotonic()
        if self._before is not None and not self._masked:
            error = product_error(self._rule, self._before, self._updates, checkpoint.next_round - 1)
            self.largest = max(self.largest or error, error)
        self._before = checkpoint.adapter
        self.seconds += time.monotonic() - started


def _scores(
    tallies: SiteTallies, *, seconds: float, up: int, down: int, error: tuple[float, float] | None = None
) -> Measured:
    return Measured(
        correct={name: int(tally.correct or 0) for name, tally in sorted(tallies.items())},
        records={name: tally.records for name, tally in sorted(tallies.items())},
        seconds=seconds,
        bytes_up=up,
        bytes_down=down,
        product_error=error,
    )


@lru_cache(maxsize=1)
def _session(model: str, threads: int) -> ModelSession:
    with quiet_libraries():
        base = load_base(model, device=choose_device("auto"))
    return ModelSession(base, JobConfig(name="bench").speed.model_copy(update={"threads": threads}))


@lru_cache(maxsize=8)
def _sites(data: str, seed: int, validation: bool, dealt: int | None) -> tuple[SiteRecords, ...]:
    """The data's own sites or, in a number of one's own, sites that are dealt all training records anew.

    All test records are then the first one's: the adapter that is measured is everybody's.
    """
    own = get_scenario(data).sites(seed, validation=validation)
    if dealt is None:
        return own
    records = [record for site in own for record in site.train]
    tests = tuple(record for site in own for record in site.test)
    parts = partition(records, dealt, f"dirichlet:{_DIRICHLET}", seed)
    return tuple(SiteRecords(name, train, () if place else tests) for place, (name, train) in enumerate(parts.items()))
