"""Which base to take for a task: the smallest that no larger one is shown to beat, with its evidence. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from yoriai.client.evaluation.side_by_side import against
from yoriai.client.model.measure import Tally
from yoriai.comparison import sign_test


def advice(task: str, bases: Sequence[Mapping[str, Any]], tallies: Sequence[Mapping[str, Tally]]) -> dict[str, Any]:
    """For one task.

    Args:
        bases: as the document has them, from the smallest to the largest.
        tallies: of the trained models, by site; one a base, of the same test records.

    Returns:
        The base's name, and a line of evidence for each base that was held against another one.
    """
    best, evidence = 0, []
    for larger in range(1, len(bases)):
        names = sorted(tallies[best])
        found = against([tallies[best][name] for name in names], [tallies[larger][name] for name in names])
        gained, lost = found.gained or 0, found.lost or 0
        verdict = sign_test(gained, lost)
        evidence.append(_line(task, bases[best], bases[larger], (gained, lost), verdict, found.p or 1.0))
        if verdict == "gain":
            best = larger
    return {"base": bases[best]["name"], "evidence": evidence}


def _line(
    task: str,
    smaller: Mapping[str, Any],
    larger: Mapping[str, Any],
    changed: tuple[int, int],
    verdict: str,
    p: float,
) -> str:
    told = {"gain": "a gain is shown", "loss": "a loss is shown", "open": "no difference is shown"}[verdict]
    one, other = smaller["tasks"][task], larger["tasks"][task]
    times = other["thousand_answers"]["core_seconds"] / one["thousand_answers"]["core_seconds"]
    names = f"{larger['name']} against {smaller['name']}"
    scores = f"{_share(one)} to {_share(other)} of {one['federated']['records']} right"
    counts = f"{changed[0]} became right and {changed[1]} wrong, p = {p:.2g}: {told}"
    return f"{names}: {scores}, {counts}; an answer takes {times:.1f} times the processor's time"


def _share(one: Mapping[str, Any]) -> str:
    return f"{one['federated']['correct'] / one['federated']['records']:.2f}"
