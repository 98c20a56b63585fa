"""The training loop of one site and one round: private and plain alike.

    for each local step:
        draw the batch by Poisson sampling: units of privacy, each a record, or an owner with all of their records
        for each physical piece: forward, backward, clip each unit's gradient, add
        noise the sum once, divide by the public divisor, let the optimizer step

`noise_multiplier = None` is the same loop without clip and noise.

What is done to the noised mean gradient is post-processing and costs no privacy: the low-pass filter, and FedProx' pull
back to the round's adapter, mu · (w − w_start) (Li et al. 2020, arXiv 1812.06127), which is zero in the first step. So
is the bound on the finished update's norm.

A site of a lower rank trains the leading block of each factor (`strategies.held`). Its records' gradients are computed,
clipped, summed and noised for that block alone. The forward pass, the activations kept for the backward pass and the
optimizer's state are those of the whole adapter.

Under privacy nothing that the records decide may stop a round, because a refusal is seen outside and is paid for by
nobody: a unit whose loss or gradient is not finite counts as zero. Whether the model computes at all is asked
beforehand, on public tokens (`AdaptedModel.check_output`).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from yoriai.client.lora import AdaptedModel
from yoriai.client.prepared import PreparedRecords
from yoriai.client.tasks import TaskHead
from yoriai.errors import AdapterError, TrainingError
from yoriai.privacy.accounting import SampledGaussian
from yoriai.privacy.dpsgd import Block, ClippedGradientSum, held_gradients, split_like
from yoriai.privacy.mechanisms import poisson_sample
from yoriai.privacy.randomness import RandomSource
from yoriai.strategies.adapter import AdapterState, difference
from yoriai.strategies.held import held
from yoriai.strategies.lowpass import lowpass
from yoriai.strategies.robust import norm_bounded


@dataclass(frozen=True)
class TrainingPlan:
    """One round at one site; all of it comes from the job and the roster, nothing from the records.

    Attributes:
        factors: the factors that train in this round.
        divisor: the units a batch stands for, in expectation and by the roster; turns a gradient sum into a mean.
        learning_rate: of this round's steps.
        noise_multiplier: standard deviation over clip_norm; None trains without privacy.
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
    noise_multiplier: float | None
    physical_batch_size: int
    rank: int | None = None
    proximal_mu: float = 0.0
    lowpass: bool = False
    update_norm_bound: float | None = None

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


class Canaries(Protocol):
    """Records of which there is nothing but a gradient: `yoriai audit` puts them in; no other training has any.

    They count as further records of the data set: drawn by the same Poisson sampling, clipped, summed and noised with
    the real ones.
    """

    def __len__(self) -> int:
        """How many there are."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Gradients before the clip, (len(indices), d), over the held blocks in the order of the trained factors."""


def train_round(
    model: AdaptedModel,
    start: AdapterState,
    records: PreparedRecords,
    head: TaskHead,
    plan: TrainingPlan,
    *,
    source: RandomSource,
    progress: Callable[[int], None] | None = None,
    canaries: Canaries | None = None,
) -> LocalUpdate:
    """Train one round from `start` and return the update.

    Args:
        canaries: for an audit alone; see Canaries.

    Raises:
        TrainingError: the update is not finite or, without privacy, a loss is not. Nothing may be sent then, and
            under privacy the round must be charged all the same: this error is made from released values.
    """
    model.load(start)
    trained = model.set_trainable(plan.factors)
    blocks = {name: held(name, tuple(p.shape), plan.rank) for name, p in trained.items()}
    anchors = {name: p.detach().clone() for name, p in trained.items()} if plan.proximal_mu else {}
    optimizer = _optimizer(plan, list(trained.values()))
    events: list[SampledGaussian] = []
    for step in range(plan.local_steps):
        drawn = poisson_sample(source, records.unit_count + (len(canaries) if canaries else 0), plan.sampling_rate)
        drawn, further = np.split(drawn, [np.searchsorted(drawn, records.unit_count)])
        total = _gradient_sum(model, records, head, plan, drawn=drawn, trained=trained, blocks=blocks)
        if canaries is not None:
            _add_canaries(total, canaries, further - records.unit_count, plan.physical_batch_size)
        if plan.noise_multiplier is None:
            vector = total.flat()
        else:
            vector, event = total.release(
                noise_multiplier=plan.noise_multiplier, sampling_rate=plan.sampling_rate, source=source
            )
            events.append(event)
        gradients = split_like(vector / plan.divisor, list(trained.values()), list(blocks.values()))
        for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
            parameter.grad = _smoothed(name, gradient) if plan.lowpass else gradient
            if plan.proximal_mu:
                parameter.grad.add_(parameter.detach() - anchors[name], alpha=plan.proximal_mu)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1)
    after = AdapterState({name: p.detach().cpu().numpy().copy() for name, p in trained.items()})
    update = difference(after, start.select(plan.factors))
    _check_update(update)
    if plan.update_norm_bound is not None:
        update = norm_bounded(update, plan.update_norm_bound)
    return LocalUpdate(update, replace(events[0], steps=len(events)) if events else None)


def _gradient_sum(
    model: AdaptedModel,
    records: PreparedRecords,
    head: TaskHead,
    plan: TrainingPlan,
    *,
    drawn: np.ndarray,
    trained: dict[str, nn.Parameter],
    blocks: dict[str, Block],
) -> ClippedGradientSum:
    """The batch's gradient sum over the held blocks, each unit's clipped; unclipped without a noise multiplier."""
    device = model.base.device
    clip_norm = plan.clip_norm if plan.noise_multiplier is not None else None
    total = ClippedGradientSum(list(trained.values()), clip_norm, list(blocks.values()))
    held_only = {parameter: blocks[name] for name, parameter in trained.items()}
    for batch, units in records.batches_of_units(drawn, plan.physical_batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = head.hidden(model, batch)
        losses = head.losses(hidden, batch)  # In fp32: a prior is subtracted from logits of its own size.
        if plan.noise_multiplier is None and not bool(torch.isfinite(losses).all()):
            raise TrainingError(
                "the loss of a record is not a number",
                expected="finite losses",
                remedy="lower the learning rate, or check the base model and the records",
            )
        with nullcontext() if plan.rank is None else held_gradients(model.tail, held_only):
            losses.sum().backward()  # type: ignore[no-untyped-call]
        total.add_piece(units)
    return total


def _add_canaries(total: ClippedGradientSum, canaries: Canaries, indices: np.ndarray, piece_size: int) -> None:
    """Those canaries that were drawn, in pieces of the records' size."""
    for first in range(0, len(indices), piece_size):
        total.add_rows(canaries.rows(indices[first : first + piece_size]))


def _smoothed(name: str, gradient: Tensor) -> Tensor:
    """The low-pass filter on one factor's mean gradient."""
    return torch.from_numpy(lowpass(name, gradient.double().cpu().numpy())).to(gradient)


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
