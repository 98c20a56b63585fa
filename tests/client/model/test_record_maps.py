"""Per-record gradients of everything that trains, against PEFT's own pass on one record after another, and Opacus."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor

from tests.client.conftest import Attach, start_for
from tests.client.rounds import by_record, examples, label_head, prepared
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import Batch
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def losses(model: AdaptedModel, batch: Batch) -> Tensor:
    return label_head().losses(label_head().hidden(model, batch), batch)


def looped(model: AdaptedModel, batch: Batch, factors: tuple[str, ...]) -> dict[str, Tensor]:
    """One record after another through PEFT's own forward pass and plain autograd."""
    trained = model.set_trainable(factors)
    rows = [
        torch.autograd.grad(losses(model, batch.take([record])).sum(), list(trained.values()))
        for record in range(len(batch.last))
    ]
    return {name: torch.stack(parts) for name, *parts in zip(trained, *rows, strict=True)}


def by_opacus(model: AdaptedModel, batch: Batch, factors: tuple[str, ...]) -> dict[str, Tensor]:
    trained = model.set_trainable(factors)
    for module in model.tail.modules():
        module.train("lora" in type(module).__module__ or isinstance(module, torch.nn.Linear))
    watched = GradSampleModule(model.tail, loss_reduction="sum", strict=False)
    losses(model, batch).sum().backward()
    watched.remove_hooks()
    model.tail.eval()
    found = {name: parameter.grad_sample for name, parameter in trained.items()}  # type: ignore[attr-defined]
    for parameter in trained.values():
        parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]
    return found


def exact(model: AdaptedModel, batch: Batch, factors: tuple[str, ...]) -> Tensor:
    """(N, n) float64: the same, by the loop in float64."""
    model.peft_model.double()
    try:
        return rowwise(looped(model, replace(batch, entering=batch.entering.double()), factors))
    finally:
        model.peft_model.float()  # Every float32 comes back as it was.


def rowwise(found: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten(1).double() for part in found.values()], 1)


@pytest.mark.parametrize("alpha", [4.0, 5.3])
@pytest.mark.parametrize(
    ("rule", "factors"), [("core", ("R",)), ("fedavg", ("A", "B")), ("fedavg", ("A",)), ("ffa", ("B",)), ("core", "RU")]
)
def test_they_are_as_near_to_the_exact_ones_as_those_of_a_loop_over_single_records_and_of_opacus(
    attach: Attach, rule: str, factors: tuple[str, ...], alpha: float
) -> None:
    """How near float32 comes depends on a machine's order of sums: 1e-6 of a gradient's length here, 3e-6 there."""
    model, factors = attach(rule, target_modules=EVERY, alpha=alpha), tuple(factors)
    model.load(start_for(model, rule))
    (batch,) = prepared(model).batches(range(len(examples())), 64)
    ours = by_record(model, factors, lambda: losses(model, batch))
    theirs = looped(model, batch, factors), by_opacus(model, batch, factors)
    assert all(found.keys() == ours.keys() for found in theirs)
    wanted = exact(model, batch, factors)

    def error(found: Mapping[str, Tensor]) -> float:
        return float(((rowwise(found) - wanted).norm(dim=1) / wanted.norm(dim=1)).max())

    assert error(ours) <= 1e-6 + 2 * max(error(found) for found in theirs)
    assert error(ours) <= 2e-5


@pytest.mark.parametrize("rule", ["core", "fedavg"])
def test_a_pass_that_records_gives_what_peft_gives(attach: Attach, rule: str) -> None:
    model = attach(rule, target_modules=EVERY, alpha=5.3)
    model.load(start_for(model, rule))
    (batch,) = prepared(model).batches(range(len(examples())), 64)
    expected = losses(model, batch).detach()
    seen: list[Tensor] = []

    def kept() -> Tensor:
        seen.append(losses(model, batch))
        return seen[0]

    by_record(model, get_rule(rule).trainable(0), kept)
    np.testing.assert_allclose(seen[0].detach().numpy(), expected.numpy(), rtol=5e-6)
    torch.testing.assert_close(losses(model, batch).detach(), expected, rtol=0, atol=0)


def test_nothing_but_a_pass_in_training_is_recorded(attach: Attach) -> None:
    """Afterwards it is PEFT's own again, and gradients go where autograd puts them."""
    model = attach("fedavg")
    model.load(start_for(model, "fedavg"))
    (batch,) = prepared(model).batches(range(2), 64)
    by_record(model, ("A", "B"), lambda: losses(model, batch))
    assert all(p.grad is None for p in model.factor_parameters().values())
    losses(model, batch).sum().backward()
    assert all(p.grad is not None for p in model.factor_parameters().values())
