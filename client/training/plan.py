"""What one round at one site is to do."""

from dataclasses import dataclass

from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.job_terms.noise import Noise


@dataclass(frozen=True)
class TrainingPlan:
    """One round at one site; all of it comes from the job and the roster, nothing from the records.

    Attributes:
        factors: the factors that train in this round.
        divisor: the units a batch stands for, in expectation and by the roster; turns a gradient sum into a mean.
        learning_rate: of this round's steps.
        noise: of the job, as this site resolved it.
        rank: the directions that this site trains; None for all of the job's.
        proximal_mu: FedProx' pull back to the round's adapter; 0 for none.
        lowpass: whether the noised gradient is smoothed along the features of each map.
        update_norm_bound: largest L2 norm of the finished update; None for no bound.
    """

    factors: tuple[str, ...]
    local_steps: int
    sampling_rate: float
    divisor: float
    optimizer: str
    learning_rate: float
    clip_norm: float
    noise: Noise
    physical_batch_size: int
    rank: int | None = None
    proximal_mu: float = 0.0
    lowpass: bool = False
    update_norm_bound: float | None = None

    def event(self) -> Event | None:
        """What the round will cost; known before it begins."""
        return self.noise.event(self.sampling_rate, self.local_steps)
