"""How long the coordinator takes to fold an opened sum into the adapter, by rule, on an adapter of a given size."""

import time
from typing import Final, cast

import numpy as np

from yoriai.strategies.adapter import AdapterState, scaled
from yoriai.strategies.rule import SumRule, built_in_rules

PARAMETERS: Final = 10_000_000
SITES: Final = 100
RANK: Final = 16
FEATURES: Final = 2048


def combine_seconds(parameters: int = PARAMETERS, *, repeats: int = 3) -> dict[str, float]:
    """Seconds from the sum of 100 sites' updates to the next adapter; the best of `repeats`, for rules of sums.

    Args:
        parameters: that train in a round, at least; on maps of 2048 by 2048 at rank 16 (core: 128).
    """
    return {
        rule.name: _seconds(cast(SumRule, rule), parameters, repeats) for rule in built_in_rules() if rule.sum_suffices
    }


def _seconds(rule: SumRule, parameters: int, repeats: int) -> float:
    # A core has r² entries a map, so that a rank of 16 would need forty thousand maps.
    rank = 8 * RANK if "R" in rule.factors else RANK
    one = _start(rule, 1, rank).select(rule.trainable(0)).n_params
    current = _start(rule, -(-parameters // one), rank)
    trained = current.select(rule.trainable(0))
    draw = np.random.default_rng(0)
    total = trained.unflatten(SITES * 0.01 * draw.standard_normal(trained.n_params, np.float32))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        rule.combine(current, scaled(total, 1 / SITES), 0)
        times.append(time.perf_counter() - started)
    return min(times)


def _start(rule: SumRule, count: int, rank: int) -> AdapterState:
    maps = {f"layers.{i}": (FEATURES, FEATURES) for i in range(count)}
    if "U" not in rule.factors:
        return rule.initial(maps, rank, 0)
    left, right = np.ones((FEATURES, rank), np.float32), np.ones((rank, FEATURES), np.float32)
    return rule.initial(maps, rank, 0, dict.fromkeys(maps, (left, right)))
