"""What the federation is compared with: each site alone, no privacy, and all records at one place.

Every comparison runs the same sites, coordinator and number of steps; only who takes part and how much noise there is
differ. The ledgers of comparisons are their own: these trainings show what could have been, and nothing of them is
released.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from yoriai import wire
from yoriai.client.measure import Tally
from yoriai.client.records import SiteRecords
from yoriai.client.workbench import Workbench
from yoriai.config import override
from yoriai.simulations.federation import Federation, run_federation
from yoriai.simulations.measuring import Measurements, SiteTallies, TestBench

# The comparison that is made last, with privacy or without.
LAST = "central_no_privacy"
_POOL = "all"
# One site alone has nobody to hide among, and nothing of these trainings leaves the simulation.
ALONE = {
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


def comparisons(federation: Federation) -> Iterator[Comparison]:
    """The trainings to compare a private federation with; without privacy only those that have none either."""
    folder = federation.folder / "compare"
    everyone = tuple(site.name for site in federation.sites)
    private = federation.job.privacy.noise != "none"
    pooled = _pooled(federation, folder / "central")
    yield Comparison("local", tuple((_alone(federation, site, folder), (site.name,)) for site in federation.sites))
    if private:
        yield Comparison(
            "federated_no_privacy", ((_without_privacy(federation, folder / "federated_no_privacy"), everyone),)
        )
        yield Comparison("central", ((pooled, everyone),))
    yield Comparison(LAST, ((_without_privacy(pooled, folder / "central_no_privacy"), everyone),))


def measure(comparison: Comparison, bench: TestBench, workbench: Workbench, kept: Measurements) -> SiteTallies:
    """Run what is not measured yet and return the counts by site."""
    if comparison.name in kept:
        return kept[comparison.name]
    return kept.put(comparison.name, tallies_of(comparison, bench, workbench))


def tallies_of(comparison: Comparison, bench: TestBench, workbench: Workbench) -> SiteTallies:
    """Run the comparison's trainings and count by site."""
    tallies: dict[str, Tally] = {}
    for federation, tested in comparison.federations:
        adapter = run_federation(federation, workbench).checkpoint.adapter
        own = replace(bench, sites=tuple(site for site in bench.sites if site.name in tested))
        tallies |= own.measure(adapter)
    return tallies


def _alone(federation: Federation, site: SiteRecords, folder: Path) -> Federation:
    """One site with its own noise, its own records and as many steps as the federation took."""
    return replace(
        federation,
        job=override(federation.job, ALONE),
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
        job=override(federation.job, ALONE),
        sites=(pool,),
        roster=wire.Roster(serial=1, weights={_POOL: sum(federation.roster.weights.values())}),
        folder=folder,
        engine="inprocess",
        on_round=None,
    )


def _without_privacy(federation: Federation, folder: Path) -> Federation:
    return replace(
        federation,
        job=override(federation.job, {"privacy.noise": "none"}),
        folder=folder,
        engine="inprocess",
        on_round=None,
    )
