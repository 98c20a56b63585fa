"""The steps that `yoriai bench dpsgd` times, all on one model, one batch and one head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from yoriai.client.base.base_model import BaseModel
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import Batch, PreparedRecords
from yoriai.client.model.tasks import LabelHead
from yoriai.client.records.encoding import Example
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.plan import TrainingPlan
from yoriai.config import LoraSection
from yoriai.privacy.dp.dpsgd import ClippedGradientSum
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.privacy.job_terms.noise import LocalNoise
from yoriai.simulations.bench.dpsgd import ADAPTERS, DpsgdPlan
from yoriai.strategies.rank_block import rank_block

_LABELS: Final = 5
_CLIP: Final = 0.5
_SPREAD: Final = 0.02  # Of factors and label vectors: none of the gradients vanishes.

Step = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """A model in training, one batch, and Yoriai's gradients of it."""

    model: AdaptedModel
    head: LabelHead
    batch: Batch
    trained: dict[str, nn.Parameter]
    gradients: RoundGradients

    def losses(self, tail: Any) -> Tensor:
        """(B,) through a tail, which may be one that another library watches."""
        return self.head.losses(self.hidden(tail), self.batch)

    def hidden(self, tail: Any) -> Tensor:
        """(B, H)."""
        device = self.model.base.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found: Tensor = tail(self.batch.entering, self.batch.last)
        return found

    def sgd(self) -> torch.optim.Optimizer:
        """An optimizer that no step is taken with."""
        return torch.optim.SGD(list(self.trained.values()), lr=1.0)

    def noise(self) -> None:
        """The noise of one release."""
        total = ClippedGradientSum(list(self.trained.values()), _CLIP)
        total.release(noise_multiplier=1.0, sampling_rate=1.0, source=SystemSource())


def made(plan: DpsgdPlan, base: BaseModel) -> Bench:
    """The adapted model, with random factors, and a batch of random tokens."""
    factors = ADAPTERS[plan.adapter]
    lora = LoraSection(rank=plan.rank, alpha=float(plan.rank), layers=plan.layers, target_modules=plan.maps)
    model = AdaptedModel(base, lora, factors=("A", "B") if plan.adapter == "lora" else ("A", "R", "U"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.factor_parameters().values():
            parameter.copy_(_SPREAD * torch.randn(parameter.shape, generator=generator))
    vectors = _SPREAD * torch.randn(_LABELS, base.width, generator=generator)
    head = LabelHead(vectors.to(base.device), torch.zeros(_LABELS, device=base.device))
    tokens = np.random.default_rng(0).integers(0, int(base.model.config.vocab_size), (plan.batch, plan.length))
    examples = [
        Example(row.astype(np.int32), np.zeros(plan.length, np.bool_), label=number % _LABELS)
        for number, row in enumerate(tokens)
    ]
    records = PreparedRecords(model, examples, known={})
    training = TrainingPlan(
        factors=factors,
        local_steps=1,
        sampling_rate=1.0,
        divisor=1.0,
        optimizer="sgd",
        learning_rate=1.0,
        clip_norm=_CLIP,
        noise=LocalNoise(1.0),
        physical_batch_size=plan.batch,
    )
    trained = model.set_trainable(factors)
    blocks = {name: rank_block(name, tuple(parameter.shape), None) for name, parameter in trained.items()}
    (batch,) = records.batches(range(plan.batch), plan.batch)
    return Bench(model, head, batch, trained, RoundGradients(model, records, head, training, trained, blocks))


def _plain(bench: Bench) -> Step:
    optimizer = bench.sgd()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        bench.losses(bench.model.tail).sum().backward()  # type: ignore[no-untyped-call]

    return step


def _opacus(bench: Bench) -> Step:
    _watch(bench)
    tail = GradSampleModule(bench.model.tail, loss_reduction="sum", strict=False)
    optimizer = DPOptimizer(
        bench.sgd(), noise_multiplier=0.0, max_grad_norm=_CLIP, expected_batch_size=None, loss_reduction="sum"
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        bench.losses(tail).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.pre_step()

    return step


def _opacus_ghost(bench: Bench) -> Step:
    _watch(bench)
    tail = GradSampleModuleFastGradientClipping(
        bench.model.tail, loss_reduction="sum", strict=False, max_grad_norm=_CLIP, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        bench.sgd(), noise_multiplier=0.0, max_grad_norm=_CLIP, expected_batch_size=None, loss_reduction="sum"
    )
    criterion = DPLossFastGradientClipping(tail, optimizer, nn.CrossEntropyLoss(reduction="sum"), loss_reduction="sum")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(bench.head.logits(bench.hidden(tail)), bench.batch.labels).backward()
        optimizer.pre_step()

    return step


def _watch(bench: Bench) -> None:
    """Opacus watches modules in training mode; nothing else of the model knows a difference between modes."""
    trained = set(map(id, bench.trained.values()))
    for module in bench.model.tail.modules():
        module.training = any(id(parameter) in trained for parameter in module.parameters(recurse=False))


def _yoriai(bench: Bench) -> Step:
    return lambda: bench.gradients.batch(SystemSource())


STEPS: Final[dict[str, Callable[[Bench], Step]]] = {
    "plain": _plain,
    "plain_strict": _plain,
    "opacus": _opacus,
    "opacus_ghost": _opacus_ghost,
    "yoriai": _yoriai,
}
