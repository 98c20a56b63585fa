"""The training loop of one site and one round: private and plain alike.

    for each local step:
        draw a batch, and sum its units' clipped gradients (`gradients.py`)
        noise the sum once, divide by the public divisor, let the optimizer step

Without noise it is the same loop, without the clip.

What is done to the noised mean gradient is post-processing and costs no privacy: the low-pass filter, and FedProx' pull
back to the round's adapter, mu · (w − w_start) (Li et al. 2020, arXiv 1812.06127), which is zero in the first step. So
is the bound on the finished update's norm.

A site of a lower rank trains the leading block of each factor (`strategies.rank_block`). Its records' gradients are
computed, clipped, summed and noised for that block alone. The forward pass, the activations kept for the backward pass
and the optimizer's state are those of the whole adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.training.gradients import Canaries, RoundGradients
from yoriai.client.training.plan import TrainingPlan
from yoriai.errors import AdapterError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.dpsgd import split_like
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.strategies.adapter import AdapterState, difference
from yoriai.strategies.lowpass import lowpass
from yoriai.strategies.robust import norm_bounded


@dataclass(frozen=True)
class LocalUpdate:
    """What a round of training made: trained factors after minus before.

    `event` is the sum of what the round's releases cost; None says that the update is not private.
    """

    update: AdapterState
    event: SampledGaussian | None

    @property
    def values(self) -> np.ndarray:
        """The update as it is masked: (n,) float32."""
        return self.update.flatten()


class GradientSum(Protocol):
    """A batch's clipped gradients, summed; see ClippedGradientSum."""

    def flat(self) -> np.ndarray:
        """See ClippedGradientSum."""

    def release(
        self, *, noise_multiplier: float, sampling_rate: float, source: RandomSource
    ) -> tuple[np.ndarray, SampledGaussian]:
        """See ClippedGradientSum."""


def train_round(
    model: FactorModel,
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
    round_gradients = RoundGradients.at(model, start, records, head, plan)
    return train_on(
        round_gradients,
        start,
        plan,
        lambda: round_gradients.batch(source, canaries=canaries),
        source=source,
        progress=progress,
    )


def train_on(
    round_gradients: RoundGradients,
    start: AdapterState,
    plan: TrainingPlan,
    batch: Callable[[], GradientSum],
    *,
    source: RandomSource,
    progress: Callable[[int], None] | None = None,
) -> LocalUpdate:
    """As `train_round`, from a model that stands at `start`.

    Args:
        batch: draws a batch and sums its gradients; called once a local step.
    """
    trained, blocks = round_gradients.trained, list(round_gradients.blocks.values())
    anchors = {name: p.detach().clone() for name, p in trained.items()} if plan.proximal_mu else {}
    # Its state lives for one round, because the next starts from another adapter.
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(list(trained.values()), lr=plan.learning_rate)
    events: list[SampledGaussian] = []
    for step in range(plan.local_steps):
        total = batch()
        if plan.noise.multiplier is None:
            vector = total.flat()
        else:
            vector, event = total.release(
                noise_multiplier=plan.noise.multiplier, sampling_rate=plan.sampling_rate, source=source
            )
            events.append(event)
        gradients = split_like(vector / plan.divisor, list(trained.values()), blocks)
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


def _smoothed(name: str, gradient: Tensor) -> Tensor:
    """The low-pass filter on one factor's mean gradient."""
    return torch.from_numpy(lowpass(name, gradient.double().cpu().numpy())).to(gradient)


def _check_update(update: AdapterState) -> None:
    """Refuse to hand out an update that is not finite."""
    try:
        update.check_finite()
    except AdapterError as error:
        raise TrainingError(
            "training diverged: the update holds values that are not finite",
            remedy="lower the learning rate",
        ) from error
