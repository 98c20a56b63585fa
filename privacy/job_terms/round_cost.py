"""What noise the rounds of a job carry, and what a round costs: from the job and public sizes alone.

Coordinator and sites work it out each for themselves. A coordinator calibrates with `calibrated` and states the
multiplier in its offer; a site takes nothing from the offer but that number, and finds with `round_event` what it
really costs.

Two modes. `local`: every site's sum carries Gaussian noise for the whole guarantee. `distributed`: every site's
integers carry a share of Skellam noise, and only the sum that the secure aggregation opens carries the whole
(`distributed_noise_parameters.py`).
"""

import math

from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.distributed.distributed_noise import DistributedNoise
from yoriai.privacy.dp.accounting import Event, SampledGaussian, SampledSkellam, calibrate, calibrate_skellam
from yoriai.privacy.job_terms.distributed_noise_parameters import all_rounds, distributed_noise_of


def shares_event(noise: DistributedNoise, sampling_rate: float) -> SampledSkellam:
    """What one round with these shares costs, its units drawn at this rate."""
    return SampledSkellam(
        sampling_rate=sampling_rate,
        variance=noise.variance,
        squared_l2=noise.squared_l2,
        l1=noise.l1,
        coordinates=noise.size,
        draws=noise.honest,
    )


def round_event(job: JobConfig, noise_multiplier: float | None, *, n_params: int, sites: int) -> Event | None:
    """What one round costs one unit of a site; None without privacy.

    Args: as `distributed_noise_of.distributed_noise_of`; sizes are not looked at where noise is local.

    Raises:
        ConfigError: the multiplier is none where the job has noise, or not a finite number above 0.
    """
    rate = job.training.sampling_rate
    if job.privacy.noise == "none":
        return None
    if noise_multiplier is None or not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ConfigError("noise_multiplier", found=str(noise_multiplier), expected="a finite number above 0")
    if job.privacy.noise == "distributed":
        return shares_event(distributed_noise_of(job, noise_multiplier, n_params=n_params, sites=sites), rate)
    return SampledGaussian(rate, noise_multiplier, job.training.local_steps)


def calibrated(job: JobConfig, *, n_params: int, sites: int) -> float | None:
    """The least noise multiplier with which all rounds, the spare ones too, stay within the job's epsilon.

    None without privacy. Sizes are not looked at where noise is local.

    Raises:
        ConfigError: no noise reaches it.
    """
    privacy, rate = job.privacy, job.training.sampling_rate
    if privacy.noise == "none":
        return None
    if privacy.noise == "distributed":
        return calibrate_skellam(
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            sampling_rate=rate,
            steps=all_rounds(job),
            event_for=lambda noise: shares_event(
                distributed_noise_of(job, noise, n_params=n_params, sites=sites), rate
            ),
        )
    return calibrate(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=rate,
        steps=all_rounds(job) * job.training.local_steps,
        accountant=privacy.accountant,
    )
