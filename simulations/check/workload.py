"""How long a job takes and how much memory, from the tokens that it passes through the model and what one costs here.

Time is work times rates: the work is counted, the rates were measured (`step_timing.py`). Start-up, masks, ledgers and
noise are left out; they count where the model is tiny.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from yoriai.client.model.limits import EXACT_MATCH_RECORDS, STATES_IN_MEMORY_BYTES, VOCABULARY_AT_ONCE
from yoriai.config import JobConfig
from yoriai.simulations.check.lengths import SiteLengths

_FLOAT: Final = 4  # Bytes.


@dataclass(frozen=True)
class Work:
    """Tokens that a whole job passes through the model, all sites together.

    Attributes:
        prefix: through the frozen layers below the adapter, once each; 0 where that is part of every step.
        trained: forward and backward, in expectation over the batches that are drawn.
        evaluated: forward, over all measurements.
        answered: generated, at most, over all measurements.
    """

    prefix: float
    trained: float
    evaluated: float
    answered: float


@dataclass(frozen=True)
class Rates:
    """Seconds a token of each kind of `Work`, and `once` for what is found out about shapes at the first step."""

    prefix: float
    trained: float
    evaluated: float
    answered: float
    once: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """Of the base: entries of a hidden state and of the vocabulary."""

    hidden: int
    vocabulary: int


def work_of(job: JobConfig, sites: Sequence[SiteLengths], limit: int) -> Work:
    """Count it; records are cut to `limit` tokens."""
    federation, training = job.federation, job.training
    train = sum(int(np.minimum(site.train, limit).sum()) for site in sites)
    test = sum(int(np.minimum(site.test, limit).sum()) for site in sites)
    rounds = federation.rounds * federation.participation + job.personal.rounds
    measurements = _measurements(job)
    answers = sum(int(np.minimum(site.test_targets, limit)[:EXACT_MATCH_RECORDS].sum()) for site in sites)
    return Work(
        prefix=train + test if job.speed.prefix_cache or job.trains_head else 0,
        trained=rounds * training.local_steps * training.sampling_rate * train,
        evaluated=measurements * test,
        answered=measurements * answers if job.task.kind == "instruct" else 0,
    )


def seconds(work: Work, rates: Rates) -> float:
    """Wall time where one machine plays all sites, one after another."""
    return (
        rates.once
        + work.prefix * rates.prefix
        + work.trained * rates.trained
        + work.evaluated * rates.evaluated
        + work.answered * rates.answered
    )


def states_bytes(job: JobConfig, sites: Sequence[SiteLengths], limit: int, sizes: Sizes) -> int:
    """Hidden states that are kept in memory; those of a part too large for it lie in a file, and take none."""
    if job.trains_head:  # One row a record.
        records = sum(len(part) for site in sites for part in (site.train, site.test))
        return records * (len(job.head.states) * sizes.hidden + job.head.words) * _FLOAT
    if not job.speed.prefix_cache:
        return 0
    parts = (int(np.minimum(part, limit).sum()) for site in sites for part in (site.train, site.test))
    blocks = [tokens * sizes.hidden * _FLOAT for tokens in parts]
    return sum(block for block in blocks if block <= STATES_IN_MEMORY_BYTES)


def logits_bytes(job: JobConfig, sites: Sequence[SiteLengths], limit: int, sizes: Sizes) -> int:
    """What measuring the largest batch of test records takes: logits, a float a target and token of the vocabulary that
    is read at once. 0 for classify, whose labels are few."""
    if job.task.kind == "classify":
        return 0
    largest = 0
    for site in sites:
        rows = min(job.speed.physical_batch_size, len(site.test))
        largest = max(largest, rows * int(np.minimum(site.test_targets, limit).max(initial=0)))
    return largest * min(sizes.vocabulary, VOCABULARY_AT_ONCE) * _FLOAT


def _measurements(job: JobConfig) -> int:
    """Before, after, every few rounds between, and the personal adapters."""
    between = (job.federation.rounds - 1) // job.evaluation.every if job.evaluation.every else 0
    return 2 + between + (job.personal.rounds > 0)
