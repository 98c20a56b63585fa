"""One round at one site where the noise is distributed: the integers that the site enters into the secure sum.

    draw the batch by Poisson sampling
    for each unit: clip its gradient, rotate, scale and round it by itself, add the integers
    add the site's share of the noise, reduce modulo 2^w

What comes out is not private by itself: it carries a share of the noise. It may leave the site masked only, in a round
that opens for no fewer survivors than the noise was shared out over (`privacy/distributed/distributed_noise.py`,
docs/privacy.md). No optimizer steps here: the coordinator takes the step, once, on the opened sum.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from yoriai.client.training.gradients import Canaries, RoundGradients
from yoriai.errors import TrainingError
from yoriai.privacy.distributed.distributed_noise import RoundedSum
from yoriai.privacy.distributed.rotation import Rotation
from yoriai.privacy.dp.accounting import SampledSkellam
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.dp.skellam import SkellamTable
from yoriai.privacy.job_terms.noise import DistributedNoise


@dataclass(frozen=True, repr=False)
class SharedSum:
    """What a site masks: `residues` (size,) uint32, modulo 2^w.

    `event` is what it costs in a sum that may open, by the noise and the rate that it was really made with.
    """

    residues: np.ndarray
    event: SampledSkellam

    @property
    def values(self) -> np.ndarray:
        """What is masked: the residues."""
        return self.residues


# A job has one table for all of its rounds; it takes a moment to make.
skellam_table = lru_cache(maxsize=2)(SkellamTable)


class _FilledUp:
    """Rows of a round that trains fewer entries than others of its job, with zeros behind."""

    def __init__(self, total: RoundedSum, n_params: int) -> None:
        self._total, self._n_params = total, n_params

    def add(self, rows: np.ndarray) -> None:
        """See `dpsgd.Rows`."""
        missing = self._n_params - rows.shape[1]
        self._total.add(np.pad(rows, ((0, 0), (0, missing))) if missing else rows)


def sum_round(
    gradients: RoundGradients, *, rotation_seed: bytes, source: RandomSource, canaries: Canaries | None = None
) -> SharedSum:
    """Sum one round's gradients and add this site's share of the noise.

    Args:
        gradients: under a plan whose noise is distributed.
        rotation_seed: 32 bytes, public, the same at all sites of the round.
        source: of sampling, rounding and noise.
        canaries: for an audit alone.

    Raises:
        TrainingError: the plan shares no noise.
    """
    plan = gradients.plan
    if not isinstance(plan.noise, DistributedNoise):
        raise TrainingError("a round whose noise is not distributed has no sum to share")
    shares, n_params = plan.noise.shares, plan.noise.n_params
    total = RoundedSum(shares, Rotation(rotation_seed, n_params), plan.clip_norm, source)
    gradients.batch(source, canaries=canaries, rows=_FilledUp(total, n_params))
    return SharedSum(total.release(skellam_table(shares.share_variance)), plan.noise.event(plan.sampling_rate))
