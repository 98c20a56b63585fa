"""Whether counts on test records tell two models apart: what a report, and a site's own evaluation, may claim. Pure.

Two ways, the sharper one first:
- paired: on the records whose answer changed, the exact sign test (McNemar 1947, exact form) at 5 %;
- unpaired: the two 95 % Wilson intervals do not overlap. This asks for more than a 5 % test would, on purpose.
"""

import math
from typing import Literal

Verdict = Literal["gain", "loss", "open", "unmeasured"]
"""Shown to be better or worse, shown neither way, or without a measure that has an interval."""

Interval = tuple[float, float]


def wilson_interval(successes: int, n: int, z: float = 1.959963984540054) -> Interval:
    """The score interval of a share (Wilson 1927); `z` of 1.96 gives 95 %. `n` of 0 gives (0, 1): nothing is known."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    if n == 0:
        return (0.0, 1.0)
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At p = 0 and p = 1 the exact bound is 0 and 1; rounding may fall just beside it.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def sign_test(gained: int, lost: int) -> Verdict:
    """Of answers that became right, and wrong: whether the difference is shown."""
    changed, most = gained + lost, max(gained, lost)
    tail = sum(math.comb(changed, k) for k in range(most, changed + 1))
    # Two-sided p = 2 * tail / 2**changed, compared in integers so that no count is too large.
    if 2 * tail * 20 >= 2**changed:
        return "open"
    return "gain" if gained > lost else "loss"


def apart(before: Interval, after: Interval) -> Verdict:
    """Whether two intervals of a share do not overlap."""
    if after[0] > before[1]:
        return "gain"
    return "loss" if after[1] < before[0] else "open"
