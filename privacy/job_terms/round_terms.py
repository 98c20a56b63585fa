"""What coordinator and sites agree on before they sum in secret, each working it out for itself.

Everything comes from the accepted job and the signed roster. Only the noise multiplier comes with the offer, and a
window's number and slots, a round's index, adapter and public range with requests; sites that were sent different ones
do not sum.
"""

import hashlib
import struct

import numpy as np

from yoriai.config import JobConfig, job_digest
from yoriai.privacy.secagg import FixedPoint, WindowTerms
from yoriai.privacy.secagg.fixedpoint import LARGEST_RANGE, SMALLEST_RANGE
from yoriai.privacy.secagg.keyset import RUN_BYTES

# Of a Gaussian beyond six standard deviations: 2e-9, so that a round of ordinary size clips no noise.
_NOISE_WIDTHS = 6.0


def window_terms(
    job: JobConfig,
    *,
    base_digest: str,
    noise_multiplier: float | None,
    run_id: str,
    number: int,
    slots: int,
    roster_digest: bytes,
) -> WindowTerms:
    """The terms of one window of one run: what holds for all of its slots.

    Args:
        noise_multiplier: as offered. Where noise is distributed a site charges for the shares of others as well, which
            it can only count on if they were told the same.
    """
    return WindowTerms(
        run=hashlib.sha256(b"yoriai/run/1\0" + run_id.encode()).digest()[:RUN_BYTES],
        number=number,
        slots=slots,
        job_digest=_with_noise(bytes.fromhex(job_digest(job, base_digest)), noise_multiplier),
        roster_digest=roster_digest,
        least_survivors=job.federation.min_sites,
        full_rank=job.lora.rank,
    )


def _with_noise(job: bytes, noise_multiplier: float | None) -> bytes:
    """SHA-256 over the job's digest and its noise multiplier, to the last bit; 32 bytes."""
    noise = b"" if noise_multiplier is None else struct.pack(">d", noise_multiplier)
    return hashlib.sha256(b"yoriai/job with noise/1\0" + job + noise).digest()


def rotation_seed(run_id: str, round_index: int, adapter_digest: str) -> bytes:
    """The public seed of a round's rotation, 32 bytes: fixed before any gradient of the round is.

    Args:
        adapter_digest: hex, of the whole adapter that the round starts from.
    """
    named = b"%b\0%d\0%b" % (run_id.encode(), round_index, adapter_digest.encode())
    return hashlib.sha256(b"yoriai/rotation/1\0" + named).digest()


def public_grid(job: JobConfig, value_range: float) -> FixedPoint:
    """The grid of a round with that public range."""
    return FixedPoint(job.secure_aggregation.bits, value_range)


def first_range(job: JobConfig, noise_multiplier: float | None, least_weight: int) -> float:
    """The public range of the first round, within what a grid can have."""
    return min(max(_wanted_range(job, noise_multiplier, least_weight), SMALLEST_RANGE), LARGEST_RANGE)


def _wanted_range(job: JobConfig, noise_multiplier: float | None, least_weight: int) -> float:
    """The job's own range, or six standard deviations of the widest noise.

    With a plain local optimizer a site's update carries noise of clip_norm · noise_multiplier · learning_rate over its
    divisor in each step; Adam's steps are about as long as the learning rate. Without noise there is nothing to go by,
    and the learning rate serves; the range then follows the count of clipped coordinates.
    """
    training = job.training
    if job.secure_aggregation.value_range is not None:
        return job.secure_aggregation.value_range
    if training.optimizer == "adam":
        return 4.0 * training.learning_rate * training.local_steps
    if noise_multiplier is None:
        return training.learning_rate * float(np.sqrt(training.local_steps))
    divisor = training.sampling_rate * least_weight * training.records_per_weight
    width = (
        job.privacy.clip_norm
        * noise_multiplier
        * training.learning_rate
        * float(np.sqrt(training.local_steps))
        / divisor
    )
    return _NOISE_WIDTHS * width
