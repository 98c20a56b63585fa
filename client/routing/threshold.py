"""The margin from which a local answer is kept, so that a stated share of the kept answers is right. numpy and scipy.

Guarantee: with confidence 1 − delta over the draw of n calibrating records, of the answers whose margin is above the
threshold at least `share` are right, on records drawn as those were.

Method (learn then test, Angelopoulos et al. 2021, with exact tests; selective classification as Geifman and El-Yaniv
2017): J ranks are fixed before anything is looked at. Given the margin t of the record with the k-th largest one, the
records above it are draws from P(· | margin > t), so the wrong ones among c are Binomial(c, risk(t)). A rank passes if
so few wrong ones would come with probability at most delta / J from a risk of 1 − share. The largest part that passes
is kept; the union bound over J ranks makes no assumption about how risk depends on margin.

Assumes: records drawn independently, and questions drawn as they are. Not covered: questions of another kind, several
records of one owner, margins that a version of before had. Edge cases: too few records for any rank to pass, or answers
that are never right often enough: nothing is kept. Ties of margins leave a rank with fewer records, and stay valid.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from yoriai.errors import ConfigError

RANKS: Final = 20
NOTHING: Final = math.inf  # No margin is above it.
EVERYTHING: Final = -1.0  # Every margin is.

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """What calibration found.

    Attributes:
        margin: answers with a larger one are kept.
        share: of the kept answers that is right, at least.
        delta: with which probability over calibrations it is not.
        records: that it was found on.
        kept: of these, how many it keeps.
        right: of these, how many are right.
    """

    margin: float
    share: float
    delta: float
    records: int
    kept: int
    right: int


def margins_of(probabilities: Floats) -> Floats:
    """By how much the likeliest label leads: (records, labels) -> (records,), from 0 to 1."""
    ordered = np.sort(probabilities, axis=1)
    return ordered[:, -1] - (ordered[:, -2] if ordered.shape[1] > 1 else 0.0)


def calibrate(margins: Floats, right: Truths, *, share: float, delta: float) -> Threshold:
    """The smallest margin that keeps the promise.

    Args:
        margins: (n,) of held-out records, which nothing was trained on.
        right: (n,) whether the local answer is the record's.
        share: that is to be right of the kept answers, above 0 and below 1.
        delta: above 0 and below 1.

    Raises:
        ConfigError: there is no record.
    """
    total = len(margins)
    if not total:
        raise ConfigError("there is no held-out record to calibrate with", remedy="add records to the test file")
    falling = np.sort(margins)[::-1]
    best = Threshold(NOTHING, share, delta, total, 0, 0)
    for rank in _ranks(total):
        cut = falling[rank] if rank < total else EVERYTHING
        above = margins > cut
        kept, good = int(above.sum()), int((right & above).sum())
        passes = kept and binom.cdf(kept - good, kept, 1 - share) <= delta / RANKS
        if passes and kept > best.kept:
            best = Threshold(float(cut), share, delta, total, kept, good)
    return best


def fewest_records(share: float, delta: float) -> int:
    """Below so many kept records nothing passes, even if all of them are right."""
    return math.ceil(math.log(delta / RANKS) / math.log(share))


def _ranks(total: int) -> list[int]:
    """How many records each tried part has; by their number alone, not by what they are."""
    return sorted({math.ceil(total * step / RANKS) for step in range(1, RANKS + 1)})
