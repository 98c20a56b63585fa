"""What the federation is compared with: each site alone, no privacy, and all records at one place.

Every comparison runs the same sites, coordinator and number of steps; only who takes part and how much noise there is
differ, and with these the length of a head's steps, so that each training has the rate that suits it. The ledgers of
comparisons are their own: these trainings show what could have been, and nothing of them is released.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yoriai import wire
from yoriai.client.model.measure import Tally
from yoriai.client.records.records import SiteRecords
from yoriai.client.records.units import unit_count
from yoriai.client.session.model_session import ModelSession
from yoriai.client.session.task_defaults import head_rate
from yoriai.config import JobConfig, override
from yoriai.errors import BudgetError
from yoriai.simulations.run.measuring import Measurements, SiteTallies, TestBench
from yoriai.simulations.run.simulated_federation import Federation, run_federation

_POOL = "all"
_NOISE = {"federated_local_noise": "local", "federated_no_privacy": "none", "central_no_privacy": "none"}
_ALONE = {
    "federation.min_sites": 1,
    "federation.participation": 1.0,
    "secure_aggregation.enabled": False,
    "personal.rounds": 0,
}


@dataclass(frozen=True)
class Comparison:
    """One kind of training to measure.

    Its name in reports, and the federations that make it up, by what each is tested on.
    """

    name: str
    federations: tuple[tuple[Federation, tuple[str, ...]], ...]


def alone(job: JobConfig) -> JobConfig:
    """The job at one site, which has nobody to hide among or to share noise with. Nothing of it is released."""
    shares = job.privacy.noise == "distributed"
    return override(job, {**_ALONE, "privacy.noise": "local"} if shares else _ALONE)


def wanted(job: JobConfig, *, every: bool, alone: bool) -> tuple[str, ...]:
    """Names of the trainings that a job is compared with, in their order.

    Args:
        every: all there are.
        alone: otherwise each site alone, or none.
    """
    if not every:
        return ("local",) if alone else ()
    names = {
        "none": (),
        "local": ("federated_no_privacy", "central"),
        "distributed": ("federated_local_noise", "federated_no_privacy", "central"),
    }
    return ("local", *names[job.privacy.noise], "central_no_privacy")


def comparisons(federation: Federation, names: Sequence[str] | None = None) -> Iterator[Comparison]:
    """The trainings to compare a private federation with; without privacy only those that have none either.

    Args:
        names: of the wanted ones; None for every one.
    """
    names = wanted(federation.job, every=True, alone=True) if names is None else names
    folder = federation.folder / "compare"
    everyone = tuple(site.name for site in federation.sites)
    for name in names:
        built: tuple[tuple[Federation, tuple[str, ...]], ...]
        if name == "local":
            built = tuple((_alone(federation, site, folder), (site.name,)) for site in federation.sites)
        else:
            whole = _pooled(federation) if name.startswith("central") else federation
            built = ((_with_noise(whole, _NOISE.get(name), folder / name), everyone),)
        yield Comparison(name, tuple((_rated(made, federation), tested) for made, tested in built))


def measure(comparison: Comparison, bench: TestBench, session: ModelSession, kept: Measurements) -> SiteTallies:
    """Run what is not measured yet and return the counts by site."""
    if comparison.name in kept:
        return kept[comparison.name]
    return kept.put(comparison.name, tallies_of(comparison, bench, session))


def tallies_of(comparison: Comparison, bench: TestBench, session: ModelSession) -> SiteTallies:
    """Run the comparison's trainings and count by site."""
    tallies: dict[str, Tally] = {}
    for federation, tested in comparison.federations:
        checkpoint = run_federation(federation, session).checkpoint
        if checkpoint.ended_early:  # Its figure would stand beside a whole training's.
            remedy = f"remove {federation.folder}, then resume: nothing of it was released"
            raise BudgetError("a comparison ended early", found=checkpoint.ended_early, remedy=remedy)
        own = replace(bench, sites=tuple(site for site in bench.sites if site.name in tested))
        tallies |= own.measure(checkpoint.adapter)
    return tallies


def _alone(federation: Federation, site: SiteRecords, folder: Path) -> Federation:
    """One site with its own noise, its own records and as many steps as the federation took."""
    lone = _at_one_place(federation, site, federation.roster.weights[site.name])
    return replace(lone, folder=folder / f"local-{site.name}")


def _pooled(federation: Federation) -> Federation:
    """All training records at one place, which then adds noise once."""
    pool = SiteRecords(_POOL, tuple(record for site in federation.sites for record in site.train), ())
    return _at_one_place(federation, pool, sum(federation.roster.weights.values()))


def _at_one_place(federation: Federation, site: SiteRecords, weight: int) -> Federation:
    """One site only. A head's mean gradient is taken over the records there are, and not over the federation's."""
    job = alone(federation.job)
    if job.trains_head:
        weight = 1
        job = override(job, {"training.records_per_weight": unit_count(site.train, job.privacy)})
    roster = wire.Roster(serial=1, weights={site.name: weight})
    return replace(federation, job=job, sites=(site,), roster=roster, engine="inprocess", on_round=None)


def _with_noise(federation: Federation, noise: str | None, folder: Path) -> Federation:
    """The same federation with another noise, or its own, in a folder of its own."""
    job = override(federation.job, {"privacy.noise": noise}) if noise else federation.job
    return replace(federation, job=job, folder=folder, engine="inprocess", on_round=None)


def _rated(made: Federation, run: Federation) -> Federation:
    """With the head's rate for its own size and noise, unless the run's is another than its own: then it was named."""
    if not run.job.trains_head or run.job.federation.server_learning_rate != _rate(run):
        return made
    return replace(made, job=override(made.job, {"federation.server_learning_rate": _rate(made)}))


def _rate(federation: Federation) -> float:
    """As `experiment.resolve` settles it, by the roster."""
    job, weights = federation.job, federation.roster.weights.values()
    return head_rate(job, sites=len(weights), units=sum(weights) * job.training.records_per_weight)
