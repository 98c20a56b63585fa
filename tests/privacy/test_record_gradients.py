"""Each record's gradient of linear maps: Opacus' own, and those of a loop over single records."""

from collections.abc import Sequence

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from tests.privacy.clipped_rows import opacus_rows
from yoriai.errors import TrainingError
from yoriai.privacy.dp.record_gradients import Block, RecordGradients

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weights() -> list[nn.Parameter]:
    """Of two maps, one after another: 5 to 6 to 3."""
    return [nn.Parameter(random(6, 5, seed=1)), nn.Parameter(random(3, 6, seed=2))]


def outputs(gradients: RecordGradients, weights: Sequence[nn.Parameter], records: Tensor) -> Tensor:
    return gradients.linear(torch.tanh(gradients.linear(records, weights[0])), weights[1])


def taken(weights: Sequence[nn.Parameter], records: Tensor, blocks: Sequence[Block] | None = None) -> Tensor:
    gradients = RecordGradients([weight for weight in weights if weight.requires_grad], blocks)
    outputs(gradients, weights, records).square().sum().backward()
    return gradients.take()


@pytest.mark.parametrize("shape", [(7, 5), (7, 1, 5), (7, 4, 5), (2, 3, 4, 5)])
def test_they_are_those_of_opacus(weights: list[nn.Parameter], shape: tuple[int, ...]) -> None:
    layers = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False))
    layers.load_state_dict({"0.weight": weights[0], "2.weight": weights[1]})
    expected = opacus_rows(GradSampleModule(layers, loss_reduction="sum"), random(*shape))
    torch.testing.assert_close(taken(weights, random(*shape)), expected, rtol=1e-6, atol=1e-6)
    assert all(weight.grad is None for weight in weights)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_map_lets_gradients_through_and_has_none(weights: list[nn.Parameter], frozen: int) -> None:
    weights[frozen].requires_grad_(False)
    found = taken(weights, random(7, 4, 5))
    for record, row in zip(random(7, 4, 5), found, strict=True):
        loss = (torch.tanh(record @ weights[0].T) @ weights[1].T).square().sum()
        (expected,) = torch.autograd.grad(loss, [weights[1 - frozen]])
        torch.testing.assert_close(row, expected.flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("records", "reused"), [(7, True), (3, True), (8, False)])
def test_in_space_that_was_used_before_they_are_the_same_where_they_fit(
    weights: list[nn.Parameter], records: int, reused: bool
) -> None:
    space = torch.full((7, 6 * 5 + 3 * 6), torch.nan)
    gradients = RecordGradients(weights, space=space)
    outputs(gradients, weights, random(records, 4, 5)).square().sum().backward()
    found = gradients.take()
    assert (found.data_ptr() == space.data_ptr()) is reused
    torch.testing.assert_close(found, taken(weights, random(records, 4, 5)), rtol=0, atol=0)


def test_a_blocks_gradients_are_those_rows_and_columns_alone(weights: list[nn.Parameter]) -> None:
    blocks = [(slice(0, 2), slice(1, 4)), (slice(0, 3), slice(0, 1))]
    whole = taken(weights, random(7, 4, 5)).split([30, 18], dim=1)
    parts = [
        part.view(7, *weight.shape)[(slice(None), *block)].flatten(1)
        for part, weight, block in zip(whole, weights, blocks, strict=True)
    ]
    torch.testing.assert_close(taken(weights, random(7, 4, 5), blocks), torch.cat(parts, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("carries", [False, True])
def test_a_product_onto_another_maps_is_their_sum_and_passes_both_gradients(
    weights: list[nn.Parameter], bias: bool, carries: bool
) -> None:
    """With a bias what it comes on top of is a view."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        other = nn.Linear(5, 6, bias=bias)
    records, gradients = random(7, 4, 5).requires_grad_(carries), RecordGradients(weights[:1])
    result = gradients.linear(records, weights[0], onto=other(records))
    expected = other(records) + records @ weights[0].T
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    result.square().sum().backward()
    back = 2 * expected.detach()
    torch.testing.assert_close(
        gradients.take(), torch.einsum("nto,nti->noi", back, records.detach()).flatten(1), rtol=1e-5, atol=1e-5
    )
    if carries:
        torch.testing.assert_close(records.grad, back @ (weights[0] + other.weight).detach(), rtol=1e-5, atol=1e-5)


def test_in_bfloat16_gradients_are_float32(weights: list[nn.Parameter]) -> None:
    gradients, records = RecordGradients(weights), random(7, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = gradients.linear(records, weights[0])
        result = gradients.linear(hidden, weights[1], onto=nn.functional.linear(records, random(3, 5)))
    assert result.dtype == torch.bfloat16
    result.float().square().sum().backward()
    found = gradients.take()
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_two_passes_in_one_piece_are_refused(weights: list[nn.Parameter]) -> None:
    """Their rows would be of different records, and a sum of two records clipped as one has twice the sensitivity."""
    gradients = RecordGradients(weights)
    outputs(gradients, weights, random(3, 5)).sum().backward()
    with pytest.raises(TrainingError, match="several passes"):
        outputs(gradients, weights, random(3, 5)).sum().backward()


def test_gradients_of_different_numbers_of_records_are_refused(weights: list[nn.Parameter]) -> None:
    gradients = RecordGradients(weights)
    with pytest.raises(TrainingError, match="different numbers"):
        (gradients.linear(random(3, 5), weights[0]).sum() + gradients.linear(random(2, 6), weights[1]).sum()).backward()


def test_a_factor_that_no_gradient_reached_is_named_as_missing(weights: list[nn.Parameter]) -> None:
    gradients = RecordGradients(weights)
    with pytest.raises(TrainingError, match="found those of 0 of 2 factors"):
        gradients.take()
    gradients.linear(random(3, 5), weights[0]).sum().backward()
    with pytest.raises(TrainingError, match="found those of 1 of 2 factors"):
        gradients.take()
