"""The federated adapter against each other training on the same test records, for the report."""

from collections.abc import Sequence

from yoriai.client.model.paired import changes, paired_counts
from yoriai.simulations.report.report import TRAININGS, Change, Compared, Paired
from yoriai.simulations.run.measuring import Measurements, SiteTallies, TestBench


def against(bench: TestBench, kept: Measurements) -> dict[str, Compared]:
    """By training, those that were measured at the same sites; the commonest label is each site's own."""
    found = {name: kept[name] for name in TRAININGS if name in kept and name != "federated"}
    if bench.job.task.kind == "classify":
        found["majority"] = bench.majorities()
    compared = {name: compare(tallies, kept["federated"]) for name, tallies in found.items()}
    return {name: one for name, one in compared.items() if one is not None}


def compare(before: SiteTallies, after: SiteTallies) -> Compared | None:
    """One training against the federation; None where nothing of it is known record by record."""
    names = sorted(after)
    if not names or not set(names) <= set(before):
        return None
    counts = paired_counts([before[name] for name in names], [after[name] for name in names])
    found = Compared(
        paired=None if counts is None else Paired(gained=counts[0], lost=counts[1]),
        changes=changed(before, after, names),
    )
    return found if found.paired is not None or found.changes else None


def changed(before: SiteTallies, after: SiteTallies, names: Sequence[str]) -> dict[str, Change]:
    """Each measure's change over these sites, with its interval; of sites without test records there is none."""
    both = [name for name in names if name in before and name in after]
    found = changes([before[name] for name in both], [after[name] for name in both])
    return {key: Change(change=one.change, low=one.low, high=one.high) for key, one in found.items()}
