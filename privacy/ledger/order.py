"""The one Rényi order at which a ledger adds up what several jobs cost. Pure.

Choice. A Rényi filter is proved for one order that is fixed before any output is seen (Feldman and Zrnic 2021). Known
by the first charge are the policy and the plans. The order taken is the one at which the event of the oldest open plan
can be repeated most often before the budget is full: what comes later tends to be of that kind. Any other order would
do as well for the proof; a worse one makes the filter stop sooner. The number of rounds has no part in it, so that a
first job of a few rounds does not fix an order which suits only a few.

Conversion from a divergence to (epsilon, delta): Canonne, Kamath and Steinke 2020, proposition 12, by dp_accounting.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from yoriai.privacy.dp.accounting import Event, epsilon
from yoriai.privacy.dp.renyi import ORDERS, epsilon_at_order, renyi_divergence

_LEAST_DIVERGENCE = 1e-300


@lru_cache(maxsize=1024)
def best_order(epsilon_budget: float, delta: float, event: Event) -> int:
    """Return the order at which `event` fits most often into a budget; the smallest of several.

    Args:
        epsilon_budget: > 0.
        delta: at which the budget holds, in (0, 1).

    Returns:
        A whole number from 2 to 1024. Where the budget is too small for all of them, the one that lacks least.
    """

    def repetitions(order: int) -> float:
        room = epsilon_budget - (math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
        return room / max(renyi_divergence([event], order), _LEAST_DIVERGENCE) if room > 0.0 else room

    best: int = max(ORDERS, key=repetitions)
    return best


def budget_for(plans: Sequence[tuple[Event, int]], delta: float, *, at_least: float) -> float:
    """Return a budget into which all of these plans fit at the order that it and the first of them fix.

    The order hangs on the budget and the cost on the order, so the budget grows until both agree. A few per cent above
    the best order for these plans is usual.

    Args:
        plans: events and how often each is charged; the first of them is approved first.
        at_least: the budget is no smaller.
    """
    budget = max(at_least, epsilon(plans, delta, "rdp"))
    while True:
        needed = epsilon_at_order(plans, delta, best_order(budget, delta, plans[0][0]))
        if needed <= budget:
            return budget
        budget = needed
