"""What the federation is compared with: each site alone, no privacy, and all records at one place.

Every comparison runs the same sites, coordinator and number of steps; only who takes part and how much noise there is
differ. The ledgers of comparisons are their own: these trainings show what could have been, and nothing of them is
released.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from yoriai import wire
from yoriai.client.model.measure import Tally
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, override
from yoriai.errors import BudgetError
from yoriai.simulations.run.measuring import Measurements, SiteTallies, TestBench
from yoriai.simulations.run.simulated_federation import Federation, run_federation

# The comparison that is made last, with privacy or without.
LAST = "central_no_privacy"
_POOL = "all"
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


def comparisons(federation: Federation) -> Iterator[Comparison]:
    """The trainings to compare a private federation with; without privacy only those that have none either."""
    folder = federation.folder / "compare"
    everyone = tuple(site.name for site in federation.sites)
    private = federation.job.privacy.noise != "none"
    pooled = _pooled(federation, folder / "central")
    yield Comparison("local", tuple((_alone(federation, site, folder), (site.name,)) for site in federation.sites))
    if federation.job.privacy.noise == "distributed":
        yield Comparison("federated_local_noise", ((_with_noise(federation, "local", folder), everyone),))
    if private:
        yield Comparison("federated_no_privacy", ((_with_noise(federation, "none", folder), everyone),))
        yield Comparison("central", ((pooled, everyone),))
    yield Comparison(LAST, ((_with_noise(pooled, "none", folder, LAST), everyone),))


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
    return replace(
        federation,
        job=alone(federation.job),
        sites=(site,),
        roster=wire.Roster(serial=1, weights={site.name: federation.roster.weights[site.name]}),
        folder=folder / f"local-{site.name}",
        engine="inprocess",
        on_round=None,
    )


def _pooled(federation: Federation, folder: Path) -> Federation:
    """All training records at one place, which then adds noise once."""
    pool = SiteRecords(_POOL, tuple(record for site in federation.sites for record in site.train), ())
    return replace(
        federation,
        job=alone(federation.job),
        sites=(pool,),
        roster=wire.Roster(serial=1, weights={_POOL: sum(federation.roster.weights.values())}),
        folder=folder,
        engine="inprocess",
        on_round=None,
    )


def _with_noise(federation: Federation, noise: str, folder: Path, name: str = "") -> Federation:
    """The same federation with another noise; its name is that of its folder."""
    return replace(
        federation,
        job=override(federation.job, {"privacy.noise": noise}),
        folder=folder / (name or {"none": "federated_no_privacy", "local": "federated_local_noise"}[noise]),
        engine="inprocess",
        on_round=None,
    )
