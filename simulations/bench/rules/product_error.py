"""How far a rule's next adapter is from the mean of what the sites trained, as products: the maps a model computes."""

from typing import cast

import numpy as np

from yoriai.strategies.adapter import AdapterState, add_scaled, weighted_mean
from yoriai.strategies.robust import Updates
from yoriai.strategies.rule import EachRule, SumRule


def product_error(
    rule: SumRule | EachRule, current: AdapterState, updates: Updates, round_index: int
) -> tuple[float, float]:
    """The distance of the combined product from the weighted mean of the sites' products, over all maps together.

    Server optimisers are left out: the error is that of the rule, with the plain mean of the updates.

    Args:
        current: the round's adapter, all factors.
        updates: weight and update by site.

    Returns:
        Frobenius norm of the difference, relative to the mean product, and relative to how far the mean product moved
        in the round. 0 where nothing moved.
    """
    if rule.sum_suffices:
        combined = cast(SumRule, rule).combine(current, weighted_mean(updates), round_index)
    else:
        combined = cast(EachRule, rule).combine_each(current, updates, round_index)
    trained = {site: current.merged_with(_moved(current, update)) for site, (_, update) in updates.items()}
    total = sum(weight for weight, _ in updates.values())
    off = size = moved = 0.0
    for path in current.module_paths():
        mean = sum(updates[site][0] / total * trained[site].product(path) for site in sorted(updates))
        off += float(np.square(combined.product(path) - mean).sum())
        size += float(np.square(mean).sum())
        moved += float(np.square(mean - current.product(path)).sum())
    return (float(np.sqrt(off / size)) if size else 0.0, float(np.sqrt(off / moved)) if moved else 0.0)


def _moved(current: AdapterState, update: AdapterState) -> AdapterState:
    return add_scaled(current.select(update.factors()), update, 1.0)
