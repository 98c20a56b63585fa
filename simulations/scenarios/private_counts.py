"""Naive Bayes under differential privacy: what counting gives at the same epsilon, in one release and without a model.

A training record is the presence of its words, hashed into 2,048 buckets, in its label's row, scaled to a norm of 0.9,
and √(1 − 0.81) in its label's count: a vector of norm 1 together, whatever the record. One Gaussian release of the sum
of all records' vectors:

    words ~ Σ + noise, and 0 where that is below 2 standard deviations;   counts · 2 / 0.9, plus one, as in naive Bayes
    prior ~ the noised label counts, at least 1

A threshold and the constants are post-processing and public. In a federation the sum is over all sites, with each
site's own noise (local), or with noise shared between them (distributed), as in the job it is compared with.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.model.measure import Tally
from yoriai.client.records.records import Record
from yoriai.client.records.words import word_hashes
from yoriai.simulations.scenarios.naive_bayes import label_numbers, tally_of

BUCKETS: Final = 2048
_WORD_NORM: Final = 0.9
_KEPT_ABOVE: Final = 2.0  # Standard deviations of the noise.


def private_tally(
    train: Sequence[Record],
    test: Sequence[Record],
    labels: Sequence[str],
    *,
    deviation: float,
    generator: np.random.Generator,
) -> Tally:
    """Release the counts once, answer `test` with them and count.

    Args:
        deviation: of the noise in each entry of the released sum, for records of norm 1; 0 for none.
        generator: of the noise. A simulation's, which protects nobody: what it gives is a figure, and no release.

    Raises:
        RecordError: a response is none of the labels.
    """
    known, truth = label_numbers(train, labels), label_numbers(test, labels)
    sums = np.zeros((len(labels), BUCKETS + 1))
    np.add.at(sums, known, _vectors(train))
    released = sums + deviation * generator.standard_normal(sums.shape)
    words = np.where(released[:, :BUCKETS] < _KEPT_ABOVE * deviation, 0.0, released[:, :BUCKETS]) * 2 / _WORD_NORM + 1
    counts = np.maximum(released[:, BUCKETS] / _count_entry(), 1.0)
    log_words = np.log(words / words.sum(1, keepdims=True))
    scores = _presence(test) @ log_words.T + np.log(counts / counts.sum())
    return tally_of(scores, truth, max(1.0, float(counts.sum())))


def _count_entry() -> float:
    return math.sqrt(1 - _WORD_NORM**2)


def _vectors(records: Sequence[Record]) -> NDArray[np.float64]:
    """Each record's vector, of norm 1 at most: (N, BUCKETS + 1)."""
    presence = _presence(records)
    norms = np.maximum(np.linalg.norm(presence, axis=1, keepdims=True), 1.0)
    return np.concatenate([_WORD_NORM * presence / norms, np.full((len(records), 1), _count_entry())], 1)


def _presence(records: Sequence[Record]) -> NDArray[np.float64]:
    found = np.zeros((len(records), BUCKETS))
    for row, record in enumerate(records):
        found[row, word_hashes(record.prompt or "") % BUCKETS] = 1.0
    return found
