"""What one round at one site is to do."""

from dataclasses import dataclass

from yoriai.privacy.distributed.distributed_noise import DistributedNoise
from yoriai.privacy.dp.accounting import Event, SampledGaussian, SampledSkellam


@dataclass(frozen=True)
class Shares:
    """Distributed noise as one round's plan has it.

    Attributes:
        n_params: entries of the longest vector that a round of the job sends; shorter ones are filled up with zeros.
        event: what the round costs, once enough sites' shares are in the sum.
    """

    noise: DistributedNoise
    n_params: int
    event: SampledSkellam


@dataclass(frozen=True)
class TrainingPlan:
    """One round at one site; all of it comes from the job and the roster, nothing from the records.

    Attributes:
        factors: the factors that train in this round.
        divisor: the units a batch stands for, in expectation and by the roster; turns a gradient sum into a mean.
        learning_rate: of this round's steps.
        noise_multiplier: standard deviation over clip_norm, or over the sensitivity of what is shared; None trains
            without privacy.
        rank: the directions that this site trains; None for all of the job's.
        proximal_mu: FedProx' pull back to the round's adapter; 0 for none.
        lowpass: whether the noised gradient is smoothed along the features of each map.
        update_norm_bound: largest L2 norm of the finished update; None for no bound.
        shared: of a job whose noise is distributed: the site's share of it, and the integers that carry it.
    """

    factors: tuple[str, ...]
    local_steps: int
    sampling_rate: float
    divisor: float
    optimizer: str
    learning_rate: float
    clip_norm: float
    noise_multiplier: float | None
    physical_batch_size: int
    rank: int | None = None
    proximal_mu: float = 0.0
    lowpass: bool = False
    update_norm_bound: float | None = None
    shared: Shares | None = None

    def event(self) -> Event | None:
        """What the round will cost; known before it begins."""
        if self.shared is not None:
            return self.shared.event
        if self.noise_multiplier is None:
            return None
        return SampledGaussian(self.sampling_rate, self.noise_multiplier, self.local_steps)
