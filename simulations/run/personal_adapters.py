"""After the federation, each site's own adapter: trained, stored in RUN/personal/SITE, and measured at its site.

A real site does the same on its own machine (`yoriai.client.site.personal`). Here one process plays all of them, one
after another, and nothing goes by way of the coordinator.

Beside PEFT's format, a site's folder holds `factors.safetensors`, all factors as the rule has them: what a resumed run
measures, without a new charge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.personal import PersonalTraining, personal_run_id, train_personal
from yoriai.errors import RefusedError, TrainingError
from yoriai.privacy.dp.accounting import Accountant
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.simulations.report.report import PERSONAL
from yoriai.simulations.run.measuring import Measurements, TestBench
from yoriai.simulations.run.simulated_federation import Federation, Outcome
from yoriai.strategies.adapter import AdapterState
from yoriai.system.run_files import write_run_file

_FACTORS = "factors.safetensors"


@dataclass(frozen=True)
class SpentTwice:
    """Epsilon of one site's units: of the job, of the personal adapter, and of both as the ledger adds them up.

    Attributes:
        accountant: what added up `together`.
    """

    job: float
    personal: float
    together: float
    accountant: Accountant


@dataclass(frozen=True)
class Personal:
    """What personal training came to; empty where the job asks for none.

    Attributes:
        epsilon: of the sites that were charged; empty without privacy.
        without: sites that have none, with the reason.
    """

    epsilon: Mapping[str, SpentTwice] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PersonalRun:
    """Whose adapters are trained on, and where they go.

    Attributes:
        federation: finished.
        save: writes an adapter in PEFT's format into a folder.
    """

    federation: Federation
    outcome: Outcome
    session: ModelSession
    bench: TestBench
    save: Callable[[AdapterState, Path], None]


def personal_adapters(run: PersonalRun, kept: Measurements) -> Personal:
    """Train, store and measure what is not there yet. A site that fails or may not goes on with the shared adapter."""
    job = run.federation.job
    if not job.personal.rounds:
        return Personal()
    epsilon, without = {}, {}
    for site in run.federation.sites:
        if site.name in run.outcome.refused:
            without[site.name] = "it took no part in the job"
            continue
        spec = run.federation.spec(site)
        try:
            own = _stored_or_trained(run, spec)
        except (RefusedError, TrainingError) as error:
            without[site.name] = str(error)
        else:
            _measure(run, site, own, kept)
        if (spent := _spent(run.federation, spec)) is not None:
            epsilon[site.name] = spent
    return Personal(epsilon, without)


def _stored_or_trained(run: PersonalRun, spec: SiteSpec) -> AdapterState:
    """The site's own adapter, from its folder if an earlier session got so far."""
    name, observer = spec.records.name, run.federation.observer
    folder = run.federation.folder / PERSONAL / name
    if (folder / _FACTORS).exists():
        return AdapterState.from_bytes((folder / _FACTORS).read_bytes())
    job, rounds, weights = spec.job, spec.job.personal.rounds, run.federation.roster.weights
    rank = run.federation.roster.ranks.get(name, job.lora.rank)
    training = PersonalTraining(
        run_id=run.federation.run_id,
        job=job,
        shared=run.outcome.checkpoint.adapter,
        records=run.session.prepare(spec.records.train, job),
        weight=weights[name],
        rank=rank if rank < job.lora.rank else None,
    )
    with spec.open_ledger() as ledger:
        own = train_personal(
            training,
            run.session,
            ledger,
            # Seeded noise is of a site and a round: this is a round that the job does not have.
            source=spec.randomness(personal_run_id(training.run_id), job.federation.rounds),
            progress=lambda done: observer.advance(f"personal rounds at {name}", done, rounds),
        )
    run.save(own, folder)
    write_run_file(folder / _FACTORS, own.to_bytes())
    return own


def _measure(run: PersonalRun, site: SiteRecords, own: AdapterState, kept: Measurements) -> None:
    """Count on the site's own test records, once."""
    if PERSONAL not in kept:
        kept.put(PERSONAL, {})
    if site.name not in kept[PERSONAL]:
        kept.put(PERSONAL, kept[PERSONAL] | replace(run.bench, sites=(site,)).measure(own))


def _spent(federation: Federation, spec: SiteSpec) -> SpentTwice | None:
    """What the ledger says; None for a site that was not charged for an adapter of its own."""
    if spec.job.privacy.noise == "none":
        return None
    with spec.open_ledger() as ledger:
        own = ledger.spent_for(personal_run_id(federation.run_id))
        if not own:
            return None
        return SpentTwice(ledger.spent_for(federation.run_id), own, ledger.spent(), ledger.accountant_in_use())
