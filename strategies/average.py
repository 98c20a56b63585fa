"""Averages over adapter versions: the noise of single rounds averages out, at no cost to the privacy budget.

Post-processing of released adapters, so free under differential privacy. Factors that stand still come out bit for bit.
Averaging is of factors: exact where one factor of the product trains (ffa, core), an approximation for fedavg.
Reference: Polyak and Juditsky 1992; under DP, De et al. 2022 (arXiv 2204.13650), section 3.
"""

import numpy as np

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState, elementwise


def update(average: AdapterState | None, count: int, state: AdapterState) -> AdapterState:
    """The mean of `count` + 1 states, from the mean of the first `count` and the next state.

    Start it at round `rounds` − k, with None and 0, and it ends as the mean of the last k versions.

    Raises:
        AdapterError: names or shapes differ, or `count` is not the number of states that `average` stands for.
    """
    if count < 0 or (average is None) != (count == 0):
        raise AdapterError("a running average and its count disagree", found=f"count {count}")
    return state if average is None else update_exponential(average, state, decay=count / (count + 1))


def update_exponential(average: AdapterState, state: AdapterState, *, decay: float) -> AdapterState:
    """decay · average + (1 − decay) · state.

    Raises:
        AdapterError: names or shapes differ, or the decay is outside [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise AdapterError("the decay of an average", found=str(decay), expected="from 0 to below 1")
    # Written as a step from the average, so that equal values stay equal to the bit.
    return elementwise(lambda a, s: np.add(a, (1.0 - decay) * (s - a)), average, state)
