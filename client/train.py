"""The training loop of one site and one round: private and plain alike.

    for each local step:
        draw the batch by Poisson sampling
        for each physical piece: forward, backward, clip each record's gradient, add
        noise the sum once, divide by the public divisor, let the optimizer step

`noise_multiplier = None` is the same loop without clip and noise.

Under privacy nothing that the records decide may stop a round, because a refusal is seen outside and is paid for by
nobody: a record whose loss or gradient is not finite counts as zero. Whether the model computes at all is asked
beforehand, on public tokens (`AdaptedModel.check_output`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from yoriai.client.lora import AdaptedModel
from yoriai.client.prepared import PreparedRecords
from yoriai.client.tasks import TaskHead
from yoriai.errors import AdapterError, TrainingError
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
    """What a round of training made: trained factors after minus before.

    `event` is the sum of what the round's releases cost; None says that the update is not private.
    """

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
        TrainingError: the update is not finite or, without privacy, a loss is not. Nothing may be sent then, and
            under privacy the round must be charged all the same: this error is made from released values.
    """
    model.load(start)
    trained = model.set_trainable(plan.factors)
    parameters = list(trained.values())
    optimizer = _optimizer(plan, parameters)
    events: list[SampledGaussian] = []
    for step in range(plan.local_steps):
        indices = poisson_sample(source, len(records), plan.sampling_rate)
        total = _gradient_sum(model, records, head, plan, indices=indices, parameters=parameters)
        if plan.noise_multiplier is None:
            vector = total.flat()
        else:
            vector, event = total.release(
                noise_multiplier=plan.noise_multiplier, sampling_rate=plan.sampling_rate, source=source
            )
            events.append(event)
        for parameter, gradient in zip(parameters, split_like(vector / plan.divisor, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1)
    after = AdapterState({name: p.detach().cpu().numpy().copy() for name, p in trained.items()})
    update = difference(after, start.select(plan.factors))
    _check_update(update)
    return LocalUpdate(update, replace(events[0], steps=len(events)) if events else None)


def _gradient_sum(
    model: AdaptedModel,
    records: PreparedRecords,
    head: TaskHead,
    plan: TrainingPlan,
    *,
    indices: np.ndarray,
    parameters: list[nn.Parameter],
) -> ClippedGradientSum:
    """The batch's gradient sum, each record's clipped; unclipped without a noise multiplier."""
    device = model.base.device
    total = ClippedGradientSum(parameters, plan.clip_norm if plan.noise_multiplier is not None else None)
    for batch in records.batches(indices, plan.physical_batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.final_hidden(batch.entering)
        losses = head.losses(hidden, batch)  # In fp32: a prior is subtracted from logits of its own size.
        if plan.noise_multiplier is None and not bool(torch.isfinite(losses).all()):
            raise TrainingError(
                "the loss of a record is not a number",
                expected="finite losses",
                remedy="lower the learning rate, or check the base model and the records",
            )
        losses.sum().backward()  # type: ignore[no-untyped-call]
        total.add_piece()
    return total


def _optimizer(plan: TrainingPlan, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The local optimizer; its state lives for one round, because the next starts from another adapter."""
    if plan.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=plan.learning_rate)
    return torch.optim.SGD(parameters, lr=plan.learning_rate)


def _check_update(update: AdapterState) -> None:
    """Refuse to hand out an update that is not finite."""
    try:
        update.check_finite()
    except AdapterError as error:
        raise TrainingError(
            "training diverged: the update holds values that are not finite",
            remedy="lower the learning rate",
        ) from error
