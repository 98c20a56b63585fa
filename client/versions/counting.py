"""Two counts over a site's own test records that may leave it: clipped a unit, noised, charged, and drawn once.

    vote    per record (gained, lost): the candidate is right where the version in use is not, and the reverse
    check   per record (right, wrong)

A record counts in one of the two at most, so a record's vector has length 1 at most; an owner's records are added up
and scaled down to 1. Each record is evaluated by itself, at shapes that depend on it alone: no other can move it. One
that does not fit the task counts in neither. So adding or removing a unit moves the pair by 1 at most, whatever else is
there, and one unsampled Gaussian is the whole cost. Test records are charged on the same ledger as those that train.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yoriai.client.model.per_record import PerRecord
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.records.fitting import fitting
from yoriai.client.records.records import Record
from yoriai.client.records.units import Units
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training.evaluate import evaluate
from yoriai.config import JobConfig, PrivacySection
from yoriai.privacy.dp.accounting import SampledGaussian, calibrate
from yoriai.privacy.dp.mechanisms import gaussian_mechanism
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.strategies.adapter import AdapterState


@dataclass(frozen=True)
class Judged:
    """A version that can be measured: its job, and its adapter, complete."""

    job: JobConfig
    adapter: AdapterState


@dataclass(frozen=True)
class Measured:
    """What a version does on the records that fit its task, record by record, and whose records these are."""

    per_record: PerRecord | None
    units: Units


def measure(
    version: Judged,
    records: Sequence[Record],
    session: ModelSession,
    *,
    unit: str,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Evaluate a version, each record by itself; whoever calls it holds the session's lock.

    Args:
        unit: of privacy, by the site's policy: record or owner.
        progress: as in `evaluate`.
    """
    job, base, model = version.job, session.base, session.model(version.job)
    privacy = PrivacySection.model_validate({"unit": unit})
    fits = fitting(records, job.task, privacy, base.tokenizer, context_tokens=base.context_tokens)
    prepared = PreparedRecords(model, fits.examples, known=None)
    tally = evaluate(model, version.adapter, prepared, session.head(job), physical_batch_size=1, progress=progress)
    units = fits.units if fits.units is not None else tuple((index,) for index in range(len(fits.examples)))
    return Measured(tally.per_record, tuple(map(tuple, units)))


def vote_counts(new: Measured, old: Measured) -> NDArray[np.float64]:
    """(2,) what the new version gains, and loses, against the old one on the same records, clipped a unit."""
    if new.per_record is None or old.per_record is None:
        return np.zeros(2)
    if new.per_record.has_labels:
        gained, lost = new.per_record.right & ~old.per_record.right, old.per_record.right & ~new.per_record.right
    else:
        gained, lost = new.per_record.losses < old.per_record.losses, new.per_record.losses > old.per_record.losses
    return clipped_sum(np.stack([gained, lost], 1), new.units)


def check_counts(found: Measured) -> NDArray[np.float64]:
    """(2,) records answered right, and wrong, clipped a unit; zero where the task has no right answers."""
    if found.per_record is None or not found.per_record.has_labels:
        return np.zeros(2)
    right = found.per_record.right
    return clipped_sum(np.stack([right, ~right], 1), found.units)


def clipped_sum(rows: NDArray[np.bool_], units: Units) -> NDArray[np.float64]:
    """The sum over units of their records' vectors, each unit's scaled down to length 1.

    Args:
        rows: (records, 2), at most one True in each.
        units: each unit's records.
    """
    total = np.zeros(2)
    for unit in units:
        one = rows[list(unit)].sum(0).astype(np.float64)
        total += one / max(1.0, float(np.linalg.norm(one)))
    return total


def counts_event(epsilon: float, delta: float) -> SampledGaussian:
    """What one pair of counts costs: the least noise that keeps it within epsilon at delta."""
    multiplier = calibrate(epsilon=epsilon, delta=delta, sampling_rate=1.0, steps=1)
    return SampledGaussian(1.0, multiplier)


def noised(counts: NDArray[np.float64], event: SampledGaussian, source: RandomSource) -> tuple[int, int]:
    """The pair as it may leave, in whole numbers.

    Guarantee: that of `event` for one unit of the site's test records.
    Neighbouring relation: add or remove one unit of the test records.
    Sensitivity: 1 in L2, see the module.
    Assumes: `event` was charged before a record was looked at; the pair is drawn once and kept.
    Does not cover: what a vote tells beyond the pair, such as when it came; one owner at several sites; a line in the
        site's files that is no record at all, or a machine that has too little memory for one, which make all of
        them count as none.
    Event it costs: `event`, one unsampled Gaussian.
    Edge cases: no record, none that fits, or a version that cannot be measured: zero plus noise, and charged.
    """
    released, _ = gaussian_mechanism(
        counts, clip_norm=1.0, noise_multiplier=event.noise_multiplier, sampling_rate=1.0, source=source
    )
    first, second = (int(value) for value in np.rint(released))
    return first, second
