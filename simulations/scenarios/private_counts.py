"""Naive Bayes under differential privacy: what counting gives at the same epsilon, in one release and without a model.

A training record is the presence of its words, hashed into 2,048 buckets, in its label's row, scaled to a norm of 0.9,
and √(1 − 0.81) in its label's count: a vector of norm 1 at most. Where owners are protected, an owner's records are
added up at each site and scaled down to norm 1. One Gaussian release of the sum over all units and sites:

    words ~ Σ + noise, and 0 where that is below 2 standard deviations;   counts · 2 / 0.9, plus one, as in naive Bayes
    prior ~ the noised label counts, at least 1

The threshold and the constants are post-processing and public. Adding or removing one unit moves the sum by 1 at most
(L2 norm), so one unsampled Gaussian of the job's epsilon and delta is the whole cost. Each site adds all of that noise
(local), or its share of it (distributed), as in the job that this is compared with.

It is a figure and no release: the noise comes from the seed and the records themselves and protects nobody, and
distributed noise is taken for Gaussian, without the rounding of the secure sum.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.evaluation.naive_bayes import label_numbers, tally_of
from yoriai.client.model.measure import Tally
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.records.units import owner_units
from yoriai.client.records.words import word_hashes
from yoriai.config import JobConfig, PrivacySection
from yoriai.privacy.dp.accounting import calibrate
from yoriai.privacy.job_terms.noise import honest_shares

BUCKETS: Final = 2048
_WORD_NORM: Final = 0.9
_COUNT_ENTRY: Final = math.sqrt(1 - _WORD_NORM**2)
_KEPT_ABOVE: Final = 2.0  # Standard deviations of the noise.


def private_baseline(sites: Sequence[SiteRecords], job: JobConfig) -> dict[str, Tally] | None:
    """One release of all sites' training records, and what its answers count on each site's test records.

    None for a job without privacy. The noise follows from training.seed and the training records: several splits of the
    same records have a draw each, which an interval over them then covers.

    Raises:
        RecordError: a response is none of the job's labels, or a record lacks the owner that privacy.unit asks for.
        ConfigError: no noise reaches the job's epsilon.
    """
    deviation = noise_deviation(job, len(sites))
    if deviation is None:
        return None
    labels = job.task.labels
    sums = np.sum([unit_sum(site.train, labels, job.privacy) for site in sites], axis=0)
    generator = np.random.default_rng([job.training.seed, _number_of(sites)])
    released = sums + deviation * generator.standard_normal(sums.shape)
    return {site.name: released_tally(released, site.test, labels, deviation=deviation) for site in sites}


def _number_of(sites: Sequence[SiteRecords]) -> int:
    """One for each set of training records, the same on every machine."""
    held = repr([(site.name, [(record.prompt, record.response) for record in site.train]) for site in sites])
    return int.from_bytes(hashlib.sha256(held.encode("utf-8", "backslashreplace")).digest()[:8], "little")


def noise_deviation(job: JobConfig, sites: int) -> float | None:
    """Standard deviation of the noise in each entry of the sum over so many sites; None without privacy.

    Raises:
        ConfigError: no noise reaches the job's epsilon.
    """
    privacy = job.privacy
    if privacy.noise == "none":
        return None
    one = calibrate(
        epsilon=privacy.epsilon, delta=privacy.delta, sampling_rate=1.0, steps=1, accountant=privacy.accountant
    )
    shares = honest_shares(job) if privacy.noise == "distributed" else 1
    return one * math.sqrt(sites / shares)


def unit_sum(records: Sequence[Record], labels: Sequence[str], privacy: PrivacySection) -> NDArray[np.float64]:
    """The sum of the vectors of a site's units, each of norm 1 at most: (L, BUCKETS + 1), label counts last.

    Raises:
        RecordError: a response is none of the labels, or a record lacks the owner that privacy.unit asks for.
    """
    known = label_numbers(records, labels)
    units = owner_units(records, privacy) or [(index,) for index in range(len(records))]
    total = np.zeros((len(labels), BUCKETS + 1))
    for unit in units:
        for place, value in _unit_vector([(int(known[index]), records[index]) for index in unit]).items():
            total[place] += value
    return total


def _unit_vector(records: Sequence[tuple[int, Record]]) -> dict[tuple[int, int], float]:
    """One unit's vector by row and column, scaled down to norm 1 where it is longer."""
    vector: defaultdict[tuple[int, int], float] = defaultdict(float)
    for label, record in records:
        buckets = _buckets(record)
        for bucket in buckets.tolist():
            vector[label, bucket] += _WORD_NORM / math.sqrt(len(buckets))
        vector[label, BUCKETS] += _COUNT_ENTRY
    scale = 1 / max(1.0, math.hypot(*vector.values()))
    return {place: scale * value for place, value in vector.items()}


def released_tally(
    released: NDArray[np.float64], test: Sequence[Record], labels: Sequence[str], *, deviation: float
) -> Tally:
    """Answer `test` with a released sum and count.

    Args:
        released: (L, BUCKETS + 1), as `unit_sum` with its noise.
        deviation: of that noise in each entry; 0 for none.

    Raises:
        RecordError: a response is none of the labels.
    """
    truth = label_numbers(test, labels)
    sums = released[:, :BUCKETS]
    words = np.where(sums < _KEPT_ABOVE * deviation, 0.0, sums) * 2 / _WORD_NORM + 1
    counts = np.maximum(released[:, BUCKETS] / _COUNT_ENTRY, 1.0)
    log_words = np.log(words / words.sum(1, keepdims=True))
    log_prior = np.log(counts / counts.sum())
    scores = np.array([log_prior + log_words[:, _buckets(record)].sum(1) for record in test])
    return tally_of(scores.reshape(len(test), len(labels)), truth, float(counts.sum()))


def _buckets(record: Record) -> NDArray[np.uint32]:
    """The distinct buckets of a record's words."""
    return np.unique(word_hashes(record.prompt or "") % BUCKETS)
