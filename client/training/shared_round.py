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
from yoriai.client.training.plan import TrainingPlan
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
    summing = Summing(gradients.plan, rotation_seed=rotation_seed, source=source)
    gradients.batch(source, canaries=canaries, rows=summing)
    return summing.released()


class Summing:
    """What takes the clipped gradients of one round at one site, and gives the integers that the site masks.

    Args:
        plan: whose noise is distributed.
        rotation_seed, source: as `sum_round`.

    Raises:
        TrainingError: the plan shares no noise.
    """

    def __init__(self, plan: TrainingPlan, *, rotation_seed: bytes, source: RandomSource) -> None:
        if not isinstance(plan.noise, DistributedNoise):
            raise TrainingError("a round whose noise is not distributed has no sum to share")
        self._noise, self._rate, self._n_params = plan.noise, plan.sampling_rate, plan.noise.n_params
        rotation = Rotation(rotation_seed, self._n_params)
        self._total = RoundedSum(self._noise.shares, rotation, plan.clip_norm, source)

    def add(self, rows: np.ndarray) -> None:
        """See `dpsgd.Rows`. A round that trains fewer entries than others of its job has zeros behind."""
        missing = self._n_params - rows.shape[1]
        self._total.add(np.pad(rows, ((0, 0), (0, missing))) if missing else rows)

    def released(self) -> SharedSum:
        """The sum with this site's share of the noise; once."""
        table = skellam_table(self._noise.shares.share_variance)
        return SharedSum(self._total.release(table), self._noise.event(self._rate))
