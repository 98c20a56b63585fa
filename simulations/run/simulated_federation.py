"""One federated training in simulation: sites and coordinator built, run, and what came of it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path

from yoriai import wire
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import started
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.config import JobConfig, job_digests
from yoriai.errors import BudgetError
from yoriai.privacy.secagg.work import SharedWork
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.messenger import Transport
from yoriai.server.round.registry import Checkpoint, Registry, last_checkpoint
from yoriai.simulations.engines.in_process import InProcessTransport
from yoriai.simulations.engines.one_pass import OnePass
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.simulations.experiment.experiment import event_of, noise_multiplier
from yoriai.simulations.experiment.observers import Observer, Silent, refusal_lines
from yoriai.simulations.run import kept_noise
from yoriai.simulations.scenarios.consortium import Consortium
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import rule_of
from yoriai.system.files import sync_disk
from yoriai.system.run_files import run_file_fault


@dataclass(frozen=True)
class Federation:
    """A federated training that can be run, or resumed, in a folder.

    Attributes:
        n_params: entries that a site sends in a round, at most; needed where noise is distributed.
        initial: the adapter before round 0, which all trainings on one base and task share; None makes it.
        engine: `inprocess`, `one-pass` or `flower`.
        ray_address: of the cluster whose nodes play the sites of the flower engine; empty: this machine does.
        noise_seed: tests only; see SiteSpec.
        on_round: called after each stored round.
        on_replies: called with each stage's replies by site; of the in-process engine only.
    """

    job: JobConfig
    sites: tuple[SiteRecords, ...]
    roster: wire.Roster
    folder: Path
    run_id: str
    n_params: int = 0
    initial: AdapterState | None = None
    engine: str = "inprocess"
    ray_address: str = ""
    noise_seed: bytes | None = None
    observer: Observer = field(default_factory=Silent)
    on_round: Callable[[Checkpoint], None] | None = None
    on_replies: Callable[[str, Mapping[str, bytes]], None] | None = None

    @cached_property
    def noise_multiplier(self) -> float | None:
        """With which it began or, if it has not begun, as calibrated; None without privacy."""
        begun = kept_noise.begun_with(self.folder, self.run_id) if self.job.privacy.noise != "none" else None
        return begun or noise_multiplier(self.job, self.n_params, len(self.roster.weights))

    def spec(self, site: SiteRecords, consortium: Consortium | None = None) -> SiteSpec:
        """What one of its sites is made from."""
        return SiteSpec(
            self.job,
            site,
            self.folder.absolute() / "ledgers" / f"{site.name}.sqlite",
            event=event_of(self.job, self.noise_multiplier, self.n_params, len(self.roster.weights)),
            consortium=consortium.folder.absolute() if consortium else None,
            noise_seed=self.noise_seed,
        )


@dataclass(frozen=True)
class Outcome:
    """What a federated training left behind.

    Attributes:
        epsilon: spent by site; empty without privacy.
        spending: by site, (rounds charged, epsilon after them), at most 20 points.
        seconds: time inside each site; empty with the flower engine, whose sites live elsewhere, with the one-pass
            engine, whose sites train together, and for a run that was finished already.
        refused: sites that took part in no round, with the reason.
        noise_multiplier: of every round; None without privacy.
    """

    checkpoint: Checkpoint
    epsilon: dict[str, float]
    spending: dict[str, list[tuple[int, float]]]
    seconds: dict[str, float]
    refused: dict[str, str]
    noise_multiplier: float | None = None


class _SyncingRegistry(Registry):
    """Stores a round once its charges are durable, for the sites' ledgers leave that to the end of a round."""

    def save(self, checkpoint: Checkpoint) -> None:
        """As `Registry.save`."""
        try:
            sync_disk(self._folder)
        except OSError as error:
            raise run_file_fault(self._folder, error) from error
        super().save(checkpoint)


def run_federation(federation: Federation, session: ModelSession) -> Outcome:
    """Run to the end of the job, from the last stored round; a run that is finished starts no engine.

    It ends early when too few sites have a round left, with the adapter of the last stored round.

    Raises:
        RoundError, CheckpointError: as Coordinator.run.
        BudgetError: it ended before a round was stored.
    """
    job, registry = federation.job, _SyncingRegistry(federation.folder)
    consortium = _consortium(federation)
    specs = {site.name: federation.spec(site, consortium) for site in federation.sites}
    base_digest = session.base.digest
    checkpoint = last_checkpoint(registry, job_digests(job, base_digest), federation.run_id)
    kept_noise.keep(federation.folder, federation.noise_multiplier)
    seconds: dict[str, float] = {}
    if checkpoint is None or not (checkpoint.ended_early or checkpoint.next_round == job.federation.rounds):
        first = checkpoint.adapter if checkpoint else federation.initial
        initial = session.initial_adapter(job) if first is None else first
        said: set[str] = set()

        def coordinate(transport: Transport) -> Checkpoint:
            coordinator = Coordinator(
                job,
                federation.roster,
                base_digest=base_digest,
                noise_multiplier=federation.noise_multiplier,
                rule=rule_of(job),
                transport=transport,
                registry=registry,
                run_id=federation.run_id,
                signed_roster=consortium.signed_roster() if consortium else None,
                signing=consortium.signing() if consortium else None,
                delivers=False,
            )
            return coordinator.run(
                initial,
                on_round=lambda checkpoint: _after_round(federation, checkpoint, said),
                on_offer=lambda absent: _say_once(federation.observer, absent, said),
                on_void=lambda error: federation.observer.say(f"void, begun afresh: {error}"),
            )

        if federation.engine == "flower":
            from yoriai.simulations.engines.cluster import Cluster
            from yoriai.simulations.engines.flower_engine import run_in_flower

            address, folder = federation.ray_address, federation.folder.absolute()
            cluster = Cluster(address, folder, federation.observer.say) if address else None
            federation.observer.advance("sites (in Flower's runtime)", 0, 0)
            checkpoint = run_in_flower(specs, base_digest, coordinate, cluster)
        else:
            one_pass = OnePass() if federation.engine == "one-pass" else None
            checkpoint, seconds = _run_in_process(federation, specs, session, coordinate, one_pass)
    epsilon, spending = _spent(federation, specs)
    if not checkpoint.next_round:
        raise BudgetError(
            "the run ended before a round was stored",
            found=checkpoint.ended_early,
            remedy=f"start a new run with more privacy.spare_rounds (now {job.privacy.spare_rounds}); "
            "on the same records it spends anew",
        )
    refused = _never_took_part(checkpoint)
    return Outcome(checkpoint, epsilon, spending, seconds, refused, federation.noise_multiplier)


def _consortium(federation: Federation) -> Consortium | None:
    """The identities of the run's sites; none without secure aggregation."""
    if not federation.job.secure_aggregation.enabled:
        return None
    roster, folder = federation.roster, federation.folder / "consortium"
    return Consortium.found(folder, roster.weights, federation=federation.job.name, ranks=roster.ranks)


def _run_in_process(
    federation: Federation,
    specs: Mapping[str, SiteSpec],
    session: ModelSession,
    coordinate: Callable[[Transport], Checkpoint],
    one_pass: OnePass | None,
) -> tuple[Checkpoint, dict[str, float]]:
    """Build the sites, coordinate them, close their ledgers."""
    observer, steps = federation.observer, federation.job.training.local_steps
    read = lru_cache(maxsize=4)(started)  # All sites are sent the same adapter, and hold it together.

    def hooks(name: str, spec: SiteSpec) -> SiteHooks:
        alone = SiteHooks(
            read=read,
            randomness=spec.randomness,
            on_prefix=lambda done, total: observer.advance(f"prefix of site {name}", done, total),
            on_step=lambda done: observer.advance(f"steps at site {name}", done, steps),
        )
        return one_pass.hooks(name, alone) if one_pass else alone

    work = SharedWork()
    with ExitStack() as open_ledgers:
        sites = {
            name: spec.build(session, open_ledgers.enter_context(spec.open_ledger()), hooks(name, spec), work)
            for name, spec in specs.items()
        }
        what = "all sites ({})" if one_pass else "sites ({})"  # What all take together is no one's own.
        transport = InProcessTransport(
            {name: site.handle for name, site in sites.items()},
            on_stage=partial(one_pass.begin, sites) if one_pass else None,
            on_site=lambda stage, done, total: observer.advance(what.format(stage), done, total),
            on_replies=federation.on_replies,
        )
        return coordinate(transport), {} if one_pass else transport.seconds


def _say_once(observer: Observer, absent: Mapping[str, str], said: set[str], prefix: str = "") -> None:
    """A site that stays away for one reason is named once, not in every round."""
    for line in refusal_lines(absent):
        if line not in said:
            said.add(line)
            observer.say(prefix + line)


def _after_round(federation: Federation, checkpoint: Checkpoint, said: set[str]) -> None:
    refused = dict(checkpoint.rounds[-1].refused)
    _say_once(federation.observer, refused, said, f"round {checkpoint.next_round}: ")
    federation.observer.advance("rounds", checkpoint.next_round, federation.job.federation.rounds)
    if federation.on_round is not None:
        federation.on_round(checkpoint)


def _never_took_part(checkpoint: Checkpoint) -> dict[str, str]:
    """Sites that were missing and answered in no round, with the last reason."""
    answered = {site for record in checkpoint.rounds for site in record.answered}
    refused = {site: reason for record in checkpoint.rounds for site, reason in record.refused}
    return {site: reason for site, reason in refused.items() if site not in answered}


def _spent(
    federation: Federation, specs: Mapping[str, SiteSpec]
) -> tuple[dict[str, float], dict[str, list[tuple[int, float]]]]:
    """What the ledgers say at the end; a finished job gives back the rounds it did not need."""
    if federation.job.privacy.noise == "none":
        return {}, {}
    epsilon, spending = {}, {}
    for name, spec in specs.items():
        with spec.open_ledger() as ledger:
            ledger.finish(federation.run_id)
            epsilon[name], spending[name] = ledger.spent_for(federation.run_id), ledger.spending(federation.run_id)
    return epsilon, spending
