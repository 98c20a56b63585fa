"""Whether a classifier's confidence is what it gets right: the expected calibration error. Pure.

Answers are put into ten bins of equal width by their confidence, the probability of the label that was given; the error
is the mean over answers of the distance between their bin's accuracy and its mean confidence (Naeini, Cooper and
Hauskrecht 2015). It is never negative and, with few answers a bin, above zero for a perfect model too.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from yoriai.client.model.per_record import PerRecord

BINS: Final = 10


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is above `low` and at most `high`; the first bin has 0 as well."""

    low: float
    high: float
    records: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, between 0 and 1, with all bins."""

    error: float
    bins: tuple[Bin, ...]


def calibration(record: PerRecord) -> Calibration | None:
    """Of a classifier's answers; None where there are none."""
    if not record.has_labels:
        return None
    place = np.clip(np.ceil(record.confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        chosen = place == number
        count = int(chosen.sum())
        sure = float(record.confidence[chosen].mean()) if count else None
        right = float(record.right[chosen].mean()) if count else None
        if sure is not None and right is not None:
            error += count / len(record) * abs(right - sure)
        bins.append(Bin(number / BINS, (number + 1) / BINS, count, sure, right))
    return Calibration(error, tuple(bins))
