"""The clipped sum over owners: each owner's records clipped together, however they fall into physical pieces."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from tests.privacy.clipped_rows import opacus_rows
from yoriai.errors import TrainingError
from yoriai.privacy.dp.dpsgd import ClippedGradientSum

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")

CLIP = 0.5
# Of nine records: an owner of one, one of five, one of two, one of one.
OWNERS = (7, 3, 3, 3, 3, 3, 5, 5, 0)


@pytest.fixture
def network() -> GradSampleModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
    return GradSampleModule(layers, loss_reduction="sum")


@pytest.fixture
def records() -> Tensor:
    """Some far below the clip, some far above, and some that cancel within their owner."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.randn(len(OWNERS), 5) * torch.logspace(-3, 1, len(OWNERS))[:, None]


def owner_sum(
    network: GradSampleModule, records: Tensor, owners: Sequence[int], size: int, clip_norm: float | None = CLIP
) -> np.ndarray:
    """The sum gathered in pieces of `size` rows."""
    total = ClippedGradientSum(list(network.parameters()), clip_norm)
    for start in range(0, len(owners), size):
        total.add_piece(opacus_rows(network, records[start : start + size]), owners[start : start + size])
    return total.flat()


def looped(network: GradSampleModule, records: Tensor, owners: Sequence[int], clip_norm: float) -> np.ndarray:
    """One record after the other by plain autograd, added up by owner, clipped, added in float64."""
    network.disable_hooks()
    gradients: dict[int, np.ndarray] = {}
    for record, owner in zip(records, owners, strict=True):
        parts = torch.autograd.grad(network._module(record[None]).square().sum(), list(network.parameters()))
        row = torch.cat([part.flatten() for part in parts]).double().numpy()
        gradients[owner] = gradients.get(owner, 0.0) + row
    network.enable_hooks()
    clipped = [vector * min(1.0, clip_norm / np.linalg.norm(vector)) for vector in gradients.values()]
    return np.sum(clipped, axis=0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("clip_norm", [CLIP, 0.01, 1e6])
def test_the_sum_is_that_of_a_loop_over_owners_for_pieces_of_any_size(
    network: GradSampleModule, records: Tensor, size: int, clip_norm: float
) -> None:
    expected = looped(network, records, OWNERS, clip_norm)
    found = owner_sum(network, records, OWNERS, size, clip_norm)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * min(1.0, clip_norm))


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_piece_whose_last_unit_does_not_go_on_leaves_the_same_sum_to_the_bit(
    network: GradSampleModule, records: Tensor, goes_on: bool
) -> None:
    """And refuses it where it does."""
    rows, total = opacus_rows(network, records), ClippedGradientSum(list(network.parameters()), CLIP)
    total.add_piece(rows[:6], OWNERS[:6], goes_on=goes_on)
    total.add_piece(rows[6:], OWNERS[6:], goes_on=goes_on)
    np.testing.assert_array_equal(total.flat(), owner_sum(network, records, OWNERS, 9))
    total = ClippedGradientSum(list(network.parameters()), CLIP)
    total.add_piece(rows[:4], OWNERS[:4], goes_on=goes_on)
    with nullcontext() if goes_on else pytest.raises(TrainingError, match="comes back"):
        total.add_piece(rows[4:], OWNERS[4:])


@pytest.mark.parametrize("size", [2, 9])
def test_dropping_an_owner_moves_the_sum_by_at_most_the_clip_norm(
    network: GradSampleModule, records: Tensor, size: int
) -> None:
    whole, moved = owner_sum(network, records, OWNERS, size), []
    for owner in set(OWNERS):
        kept = [row for row, other in enumerate(OWNERS) if other != owner]
        neighbour = owner_sum(network, records[kept], [OWNERS[row] for row in kept], size)
        moved.append(float(np.linalg.norm(whole - neighbour)))
    assert CLIP * (1 - 1e-5) <= max(moved) <= CLIP * (1 + 1e-5)


def test_clipping_records_one_by_one_would_let_an_owner_move_the_sum_further(
    network: GradSampleModule, records: Tensor
) -> None:
    """What the test before must catch: five records of one owner, each clipped by itself."""
    mine = [row for row, owner in enumerate(OWNERS) if owner == 3]
    alike = records[mine[-1:]].repeat(5, 1)
    by_record = owner_sum(network, alike, range(5), 9, 0.01)
    by_owner = owner_sum(network, alike, [3] * 5, 9, 0.01)
    assert np.linalg.norm(by_record) == pytest.approx(0.05, rel=1e-3)
    assert np.linalg.norm(by_owner) == pytest.approx(0.01, rel=1e-3)


def test_without_a_clip_norm_owners_change_nothing(network: GradSampleModule, records: Tensor) -> None:
    by_owner = owner_sum(network, records, OWNERS, 4, None)
    by_record = owner_sum(network, records, range(len(OWNERS)), 9, None)
    np.testing.assert_allclose(by_owner, by_record, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [2, 9])
def test_an_owner_with_a_gradient_that_is_not_finite_counts_as_zero(
    network: GradSampleModule, records: Tensor, size: int
) -> None:
    others = [row for row, owner in enumerate(OWNERS) if owner != 3]
    without = owner_sum(network, records[others], [OWNERS[row] for row in others], size)
    spoilt = records.clone()
    spoilt[2] = torch.nan
    np.testing.assert_allclose(owner_sum(network, spoilt, OWNERS, size), without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_an_owner_that_comes_back_is_refused(network: GradSampleModule, records: Tensor, size: int) -> None:
    """It would be clipped twice, and could move the sum by twice the clip norm."""
    with pytest.raises(TrainingError, match="comes back"):
        owner_sum(network, records[:4], [1, 2, 1, 1], size)


def test_an_owner_that_comes_back_after_the_sum_was_read_is_refused(network: GradSampleModule, records: Tensor) -> None:
    total = ClippedGradientSum(list(network.parameters()), CLIP)
    rows = opacus_rows(network, records[:2])
    total.add_piece(rows, [4, 4])
    total.flat()
    with pytest.raises(TrainingError, match="comes back"):
        total.add_piece(rows, [4, 4])


def test_a_piece_with_more_owners_than_rows_is_refused(network: GradSampleModule, records: Tensor) -> None:
    total = ClippedGradientSum(list(network.parameters()), CLIP)
    with pytest.raises(TrainingError, match="fewer gradients than records"):
        total.add_piece(opacus_rows(network, records[:3]), [1, 1, 1, 1])


def test_rows_that_fill_a_piece_up_do_not_count(network: GradSampleModule, records: Tensor) -> None:
    total = ClippedGradientSum(list(network.parameters()), CLIP)
    total.add_piece(opacus_rows(network, records[[0, 1, 2, 2, 2]]), OWNERS[:3])
    np.testing.assert_allclose(total.flat(), owner_sum(network, records[:3], OWNERS[:3], 3), rtol=1e-6)


def test_an_owner_of_many_pieces_keeps_one_gradient_open_and_no_more(
    network: GradSampleModule, records: Tensor
) -> None:
    """However many records one owner has, memory is that of a piece and of one gradient."""
    total = ClippedGradientSum(list(network.parameters()), CLIP)
    size = sum(parameter.numel() for parameter in network.parameters())
    rows = opacus_rows(network, records[:3])
    for _ in range(20):
        total.add_piece(rows, [1, 1, 1])
        assert total._open is not None
        assert total._open[1].untyped_storage().nbytes() == size * 8
    assert np.linalg.norm(total.flat()) == pytest.approx(CLIP, rel=1e-5)
