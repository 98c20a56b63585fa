"""How distributed noise is shared out, from the job and public sizes alone; the mechanism is in `distributed_noise.py`.

What counts is the least that honest sites bring into a sum that can open at all: federation.min_sites survivors, which
sites themselves insist on before they unmask, less privacy.colluding.
"""

import math

from yoriai.config import JobConfig
from yoriai.privacy.distributed.distributed_noise import DistributedNoise, distributed_noise

# Units in a batch beyond which the words of a sum may wrap around: twice what the roster stands for, and a few.
BATCH_FACTOR, _BATCH_SPARE = 2, 16


def honest_shares(job: JobConfig) -> int:
    """Shares of distributed noise that count: of the fewest survivors, those of the sites that do not collude."""
    return job.federation.min_sites - job.privacy.colluding


def all_rounds(job: JobConfig) -> int:
    """Rounds that noise is calibrated for: the job's, and the spare ones."""
    return job.federation.rounds + job.privacy.spare_rounds


def expected_batch(job: JobConfig, sites: int) -> float:
    """Units in a round's batch over `sites` sites of weight 1, in expectation and by the roster alone."""
    return sites * job.training.sampling_rate * job.training.records_per_weight


def distributed_noise_of(job: JobConfig, noise_multiplier: float, *, n_params: int, sites: int) -> DistributedNoise:
    """The public parameters of a job with distributed noise.

    Args:
        noise_multiplier: deviation of the honest shares together over the sensitivity.
        n_params: entries that a site sends in a round, at most.
        sites: in the roster.

    Raises:
        ConfigError: no noise, modulus or scale fits these sizes.
    """
    return distributed_noise(
        n_params=n_params,
        noise_multiplier=noise_multiplier,
        honest=honest_shares(job),
        sites=sites,
        units=math.ceil(BATCH_FACTOR * expected_batch(job, sites)) + _BATCH_SPARE,
        rounds=all_rounds(job),
    )
