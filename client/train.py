"""The training loop of one site and one round: private and plain alike.

    for each local step:
        draw the batch by Poisson sampling
        for each physical piece: forward, backward, clip each record's gradient, add
        noise the sum once, divide by the public divisor, let the optimizer step

`noise_multiplier = None` is the same loop without clip and noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yoriai.client.lora import AdaptedModel
from yoriai.client.prepared import PreparedRecords
from yoriai.client.tasks import TaskHead
from yoriai.errors import TrainingError
from yoriai.privacy.accounting import SampledGaussian
from yoriai.privacy.dpsgd import ClippedGradientSum, split_like
from yoriai.privacy.mechanisms import poisson_sample
from yoriai.privacy.randomness import RandomSource
from yoriai.strategies.adapter import AdapterState, difference


@dataclass(frozen=True)
class TrainingPlan:
    """One round at one site; all of it comes from the job and the roster, nothing from the records.

    Attributes:
        factors: the factors that train in this round.
        divisor: the records a batch stands for, in expectation and by the roster; turns a gradient sum into a mean.
        noise_multiplier: standard deviation over clip_norm; None trains without privacy.
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

    def event(self) -> SampledGaussian | None:
        """What the round will cost; known before it begins."""
        if self.noise_multiplier is None:
            return None
        return SampledGaussian(self.sampling_rate, self.noise_multiplier, self.local_steps)


@dataclass(frozen=True)
class LocalUpdate:
    """What a round of training made: trained factors after minus before. Private or not, as `event` says."""

    update: AdapterState
    event: SampledGaussian | None


def train_round(
    model: AdaptedModel,
    start: AdapterState,
    records: PreparedRecords,
    head: TaskHead,
    plan: TrainingPlan,
    *,
    source: RandomSource,
    progress: Callable[[int], None] | None = None,
) -> LocalUpdate:
    """Train one round from `start` and return the update.

    Raises:
        TrainingError: a loss is not a number; nothing may be sent then.
    """
    model.load(start)
    trained = model.set_trainable(plan.factors)
    parameters = list(trained.values())
    optimizer = _optimizer(plan, parameters)
    model.tail.train()
    for step in range(plan.local_steps):
        indices = poisson_sample(source, len(records), plan.sampling_rate)
        vector = _step_gradient(model, records, head, plan, indices=indices, parameters=parameters, source=source)
        for parameter, gradient in zip(parameters, split_like(vector / plan.divisor, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1)
    after = AdapterState({name: p.detach().cpu().numpy().copy() for name, p in trained.items()})
    update = difference(after, start.select(plan.factors))
    _check_update(update)
    return LocalUpdate(update, plan.event())


def _step_gradient(
    model: AdaptedModel,
    records: PreparedRecords,
    head: TaskHead,
    plan: TrainingPlan,
    *,
    indices: np.ndarray,
    parameters: list[nn.Parameter],
    source: RandomSource,
) -> np.ndarray:
    """The batch's gradient sum (n,), clipped a record and noised once; plain without a noise multiplier."""
    device = model.base.device
    total = ClippedGradientSum(parameters, plan.clip_norm if plan.noise_multiplier is not None else None)
    for batch in records.batches(indices, plan.physical_batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = head.losses(model.final_hidden(batch.entering), batch)
        if not bool(torch.isfinite(losses).all()):
            raise TrainingError(
                "the loss of a record is not a number",
                expected="finite losses",
                remedy="lower the learning rate, or check the base model and the records",
            )
        losses.sum().backward()  # type: ignore[no-untyped-call]
        total.add_piece()
    if plan.noise_multiplier is None:
        return total.flat()
    noised, _ = total.release(noise_multiplier=plan.noise_multiplier, sampling_rate=plan.sampling_rate, source=source)
    return noised


def _optimizer(plan: TrainingPlan, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The local optimizer; its state lives for one round, because the next starts from another adapter."""
    if plan.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=plan.learning_rate)
    return torch.optim.SGD(parameters, lr=plan.learning_rate)


def _check_update(update: AdapterState) -> None:
    """Refuse to hand out an update that is not finite."""
    try:
        update.check_finite()
    except Exception as error:
        raise TrainingError(
            "training diverged: the update holds values that are not finite",
            remedy="lower the learning rate",
        ) from error
