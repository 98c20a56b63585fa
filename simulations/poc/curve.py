"""How many records are missing: a learning curve through a few sizes, on the same test records. Pure.

The share of wrong answers is taken for  e(n) = a + b / √n, by least squares over the sizes; b / √n is what more records
of the same kind would still take away. The records at which that falls to 3 points, (b / 0.03)², are compared with what
there is. The interval is a bootstrap over test records, each draw fitted anew; it knows nothing of another split, of
other noise, or of a law that is not this one, so it is a first answer and no promise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.model.paired import draws

NEAR: Final = 0.03


@dataclass(frozen=True)
class Curve:
    """What a learning curve says.

    Attributes:
        sizes, accuracy: training records, and the share right with so many.
        rises: whether the interval of b leaves out zero, so that more records are shown to help.
        limit: accuracy that the law ends at.
        needed: records at which 3 points are left to gain, with its 95 % interval; None unless it rises.
    """

    sizes: tuple[int, ...]
    accuracy: tuple[float, ...]
    rises: bool
    limit: float
    needed: tuple[float, float, float] | None

    def missing(self, have: int) -> int:
        """Records to add, none where there are enough or nothing is known."""
        return 0 if self.needed is None else max(0, round(self.needed[0]) - have)


def fit(hits: Mapping[int, NDArray[np.bool_]]) -> Curve:
    """A curve of which answers were right with each number of training records, two numbers or more.

    Args:
        hits: by training records, (test records,), the same ones in the same order.

    Raises:
        ValueError: fewer than two sizes.
    """
    sizes = tuple(sorted(hits))
    if len(sizes) < 2:
        raise ValueError("a curve needs two sizes")
    wrong = 1.0 - np.stack([hits[size] for size in sizes], axis=1)  # (test records, sizes)
    design = np.stack([np.ones(len(sizes)), 1 / np.sqrt(np.array(sizes, np.float64))], axis=1)
    solve = np.linalg.pinv(design)  # (2, sizes)
    a, b = solve @ wrong.mean(0)
    drawn = np.concatenate([block @ wrong / len(wrong) for block in draws([len(wrong)])]) @ solve.T
    low, high = np.percentile(drawn[:, 1], [2.5, 97.5])
    rises = bool(low > 0)
    needed = ((b / NEAR) ** 2, (low / NEAR) ** 2, (high / NEAR) ** 2) if rises else None
    return Curve(
        sizes=sizes,
        accuracy=tuple(float(1 - one) for one in wrong.mean(0)),
        rises=rises,
        limit=float(min(1.0, 1 - a)),
        needed=None if needed is None else (float(needed[0]), float(needed[1]), float(needed[2])),
    )
