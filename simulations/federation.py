"""One federated training in simulation: sites and coordinator built, run, and what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yoriai import wire
from yoriai.client.records import SiteRecords
from yoriai.client.site import SiteHooks
from yoriai.client.workbench import Workbench
from yoriai.config import JobConfig
from yoriai.server.coordinator import Coordinator, Transport
from yoriai.server.registry import Checkpoint, Registry
from yoriai.simulations.engines import InProcessTransport, SiteSpec
from yoriai.simulations.experiment import noise_multiplier
from yoriai.simulations.progress import Observer, Silent, refusal_lines
from yoriai.strategies.rule import get_rule


@dataclass(frozen=True)
class Federation:
    """A federated training that can be run, or resumed, in a folder.

    Attributes:
        engine: `inprocess` or `flower`.
        noise_seed: tests only; see SiteSpec.
        on_round: called after each stored round.
    """

    job: JobConfig
    sites: tuple[SiteRecords, ...]
    roster: wire.Roster
    folder: Path
    run_id: str
    engine: str = "inprocess"
    noise_seed: bytes | None = None
    observer: Observer = field(default_factory=Silent)
    on_round: Callable[[Checkpoint], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a federated training left behind.

    Attributes:
        epsilon: spent by site; empty without privacy.
        spending: by site, (rounds charged, epsilon after them), at most 20 points.
        seconds: time inside each site; empty with the flower engine, whose sites live elsewhere.
        refused: sites that refused the job, with the reason.
    """

    checkpoint: Checkpoint
    epsilon: dict[str, float]
    spending: dict[str, list[tuple[int, float]]]
    seconds: dict[str, float]
    refused: dict[str, str]


def run_federation(federation: Federation, workbench: Workbench) -> Outcome:
    """Run to the end of the job.

    Raises:
        RoundError, CheckpointError: as Coordinator.run.
    """
    job = federation.job
    specs = {
        site.name: SiteSpec(
            job, site, federation.folder / "ledgers" / f"{site.name}.sqlite", noise_seed=federation.noise_seed
        )
        for site in federation.sites
    }
    finished: list[Checkpoint] = []
    refused: dict[str, str] = {}

    def coordinate(transport: Transport) -> None:
        coordinator = Coordinator(
            job,
            federation.roster,
            base_digest=workbench.base.digest,
            noise_multiplier=noise_multiplier(job),
            rule=get_rule(job.federation.rule),
            transport=transport,
            registry=Registry(federation.folder),
            run_id=federation.run_id,
        )
        finished.append(
            coordinator.run(
                workbench.initial_adapter(job),
                on_round=lambda checkpoint: _after_round(federation, checkpoint),
                on_offer=lambda refusals: _after_offer(federation.observer, refusals, refused),
            )
        )

    if federation.engine == "flower":
        from yoriai.simulations.flower_engine import run_in_flower

        run_in_flower(specs, workbench.base.digest, coordinate)
        seconds: dict[str, float] = {}
    else:
        transport = _in_process(federation, specs, workbench)
        coordinate(transport)
        seconds = transport.seconds
    epsilon, spending = _spent(federation, specs)
    return Outcome(finished[0], epsilon, spending, seconds, refused)


def _in_process(federation: Federation, specs: Mapping[str, SiteSpec], workbench: Workbench) -> InProcessTransport:
    observer, steps = federation.observer, federation.job.training.local_steps

    def hooks(name: str, spec: SiteSpec) -> SiteHooks:
        return SiteHooks(
            randomness=spec.randomness,
            on_prefix=lambda done, total: observer.advance(f"prefix of site {name}", done, total),
            on_step=lambda done: observer.advance(f"steps at site {name}", done, steps),
        )

    sites = {name: spec.build(workbench, hooks(name, spec)) for name, spec in specs.items()}
    return InProcessTransport(
        {name: site.handle for name, site in sites.items()},
        on_site=lambda stage, done, total: observer.advance(f"sites ({stage})", done, total),
    )


def _after_offer(observer: Observer, refusals: Mapping[str, str], kept: dict[str, str]) -> None:
    kept.update(refusals)
    for line in refusal_lines(refusals):
        observer.say(line)


def _after_round(federation: Federation, checkpoint: Checkpoint) -> None:
    record = checkpoint.rounds[-1]
    for line in refusal_lines(dict(record.refused)):
        federation.observer.say(f"round {checkpoint.next_round}: {line}")
    federation.observer.advance("rounds", checkpoint.next_round, federation.job.federation.rounds)
    if federation.on_round is not None:
        federation.on_round(checkpoint)


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
            epsilon[name], spending[name] = ledger.spent(), ledger.spending(federation.run_id)
    return epsilon, spending
