"""The noise of a job as a value, resolved once from its settings: no, local or distributed noise, and what it costs.

Coordinator and sites resolve it each for themselves. A site takes nothing from an offer but the multiplier, and finds
out itself what that really costs. Here is no accountant: a server resolves too, and loads none of their libraries.

Two modes. Local: every site's update carries Gaussian noise for the whole guarantee. Distributed: every site's integers
carry a share of Skellam noise, and only the sum that the secure aggregation opens carries the whole.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.distributed.distributed_noise import SkellamShares, skellam_shares
from yoriai.privacy.dp.events import Event, SampledGaussian, SampledSkellam

# Units in a batch beyond which the words of a sum may wrap around: twice what the roster stands for, and a few.
BATCH_FACTOR, _BATCH_SPARE = 2, 16


@dataclass(frozen=True)
class NoNoise:
    """Training without differential privacy."""

    multiplier: ClassVar[None] = None

    def event(self, _sampling_rate: float, _local_steps: int) -> None:
        """Nothing is charged."""
        return


@dataclass(frozen=True)
class LocalNoise:
    """A site's own Gaussian noise, all of it.

    Attributes:
        multiplier: standard deviation over clip_norm.
    """

    multiplier: float

    def event(self, sampling_rate: float, local_steps: int) -> SampledGaussian:
        """What one round costs one unit of the site."""
        return SampledGaussian(sampling_rate, self.multiplier, local_steps)


@dataclass(frozen=True)
class DistributedNoise:
    """Noise that a round's sites share inside the secure sum.

    Attributes:
        multiplier: deviation of the honest shares together over the sensitivity.
        n_params: entries of the longest vector that a round of the job sends; shorter ones are filled up with zeros.
        shares: of the noise, and the integers that carry them.
    """

    multiplier: float
    n_params: int
    shares: SkellamShares

    def event(self, sampling_rate: float, _local_steps: int = 1) -> SampledSkellam:
        """What one round costs one unit of a site, once enough sites' shares are in the sum."""
        shares = self.shares
        return SampledSkellam(
            sampling_rate=sampling_rate,
            variance=shares.variance,
            squared_l2=shares.squared_l2,
            l1=shares.l1,
            coordinates=shares.size,
            draws=shares.honest,
        )


Noise = NoNoise | LocalNoise | DistributedNoise


def resolve_noise(job: JobConfig, multiplier: float | None, *, n_params: int, sites: int) -> Noise:
    """The job's noise at this multiplier.

    Args:
        n_params: entries that a site sends in a round, at most; not looked at unless noise is distributed.
        sites: in the roster; as n_params.

    Raises:
        ConfigError: the multiplier is none where the job has noise, or not a finite number above 0; no noise, modulus
            or scale fits these sizes.
    """
    if job.privacy.noise == "none":
        return NoNoise()
    if multiplier is None or not (math.isfinite(multiplier) and multiplier > 0):
        raise ConfigError("noise_multiplier", found=str(multiplier), expected="a finite number above 0")
    if job.privacy.noise == "local":
        return LocalNoise(multiplier)
    return distributed_noise(job, multiplier, n_params=n_params, sites=sites)


def round_event(job: JobConfig, noise: Noise) -> Event | None:
    """What one round of the job costs one unit of a site; None without privacy."""
    return noise.event(job.training.sampling_rate, job.training.local_steps)


def distributed_noise(job: JobConfig, multiplier: float, *, n_params: int, sites: int) -> DistributedNoise:
    """The noise of a job whose mode it is; as `resolve_noise`."""
    shares = skellam_shares(
        n_params=n_params,
        noise_multiplier=multiplier,
        honest=honest_shares(job),
        sites=sites,
        units=math.ceil(BATCH_FACTOR * expected_batch(job, sites)) + _BATCH_SPARE,
        rounds=all_rounds(job),
    )
    return DistributedNoise(multiplier, n_params, shares)


def honest_shares(job: JobConfig) -> int:
    """Shares of distributed noise that count: of the fewest survivors, those of the sites that do not collude.

    The fewest are federation.min_sites: sites themselves insist on so many before they unmask.
    """
    return job.federation.min_sites - job.privacy.colluding


def all_rounds(job: JobConfig) -> int:
    """Rounds that noise is calibrated for: the job's, and the spare ones."""
    return job.federation.rounds + job.privacy.spare_rounds


def expected_batch(job: JobConfig, sites: int) -> float:
    """Units in a round's batch over `sites` sites of weight 1, in expectation and by the roster alone."""
    return sites * job.training.sampling_rate * job.training.records_per_weight
