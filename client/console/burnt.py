"""A ledger's charges by job: what each took of the budget, one after the other. Pure."""

from dataclasses import dataclass

from yoriai.client.cli.budget import BudgetView
from yoriai.client.offer.charge_names import ChargeKind, run_and_kind


@dataclass(frozen=True)
class Burnt:
    """What one job took.

    Attributes:
        job: as the ledger names it.
        run, kind: which run it is about, and what was charged.
        epsilon: by which the total rose over its charges; jobs at work at once share by who came first.
        rounds, released: charged, and of them those of which something may have left.
        first_at, last_at: of its charges, in seconds since the epoch.
        held: epsilon of its unused rounds.
    """

    job: str
    run: str
    kind: ChargeKind
    epsilon: float
    rounds: int
    released: int
    first_at: float
    last_at: float
    held: float


def burnt_by_job(view: BudgetView) -> list[Burnt]:
    """Every job that was charged, in the order of its first charge."""
    total, rises = 0.0, dict[str, float]()
    for charge in view.charges:
        rises[charge.job] = rises.get(charge.job, 0.0) + charge.epsilon - total
        total = charge.epsilon
    held = {plan.job: plan.epsilon for plan in view.plans}
    found = []
    for job, epsilon in rises.items():
        own = [charge for charge in view.charges if charge.job == job]
        released = sum(charge.released for charge in own)
        found.append(
            Burnt(job, *run_and_kind(job), epsilon, len(own), released, own[0].at, own[-1].at, held.get(job, 0.0))
        )
    return found
