"""Training a round that is charged, in either mode of noise: whatever comes of it is paid for."""

from collections.abc import Callable
from typing import TypeVar

from yoriai.client.model.tasks import TaskHead
from yoriai.client.site.job import Round
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.shared_round import SharedSum, sum_round
from yoriai.client.training.train import LocalUpdate, train_round
from yoriai.errors import TrainingError
from yoriai.privacy.dp.randomness import RandomSource

Trained = TypeVar("Trained", LocalUpdate, SharedSum)


def local_update(
    this: Round, head: TaskHead, source: RandomSource, progress: Callable[[int], None] | None
) -> LocalUpdate:
    """The round's update, which carries all of its noise; see `train_round`."""
    job = this.job
    return train_round(job.model, this.start, job.records, head, this.plan, source=source, progress=progress)


def shared_sum(
    this: Round,
    head: TaskHead,
    source: RandomSource,
    progress: Callable[[int], None] | None,
    *,
    rotation_seed: bytes,
) -> SharedSum:
    """The round's integers, which carry a share of the noise; see `sum_round`."""
    gradients = RoundGradients.at(this.job.model, this.start, this.job.records, head, this.plan)
    summed = sum_round(gradients, rotation_seed=rotation_seed, source=source)
    if progress is not None:
        progress(1)
    return summed


def paid(this: Round, train: Callable[[], Trained], mark_released: Callable[[Round], None]) -> Trained:
    """Train, and mark a training that failed as released.

    That it failed may tell something of the records, and is seen outside. A site that is stopped or killed tells
    nothing, and may use its reservation again.

    Raises:
        TrainingError: it failed, or was done with other noise than was charged.
    """
    # Nothing of the records is in this check, so a refusal here leaves the reservation open.
    this.job.model.load(this.start)
    this.job.model.check_output()
    try:
        trained = train()
        if trained.event != this.plan.event():
            raise TrainingError("the round was trained with other noise than was charged")
    except Exception:
        mark_released(this)
        raise
    return trained
