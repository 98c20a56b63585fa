"""The clipped sum of a batch against loops over single records, real neighbours and Opacus' own optimizer."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from tests.privacy.clipped_rows import Kept, opacus_rows
from yoriai.errors import TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.dpsgd import ClippedGradientSum, split_like
from yoriai.privacy.dp.mechanisms import clip_factors, grid_step
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.dp.skellam import SkellamTable

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")

CLIP = 0.5
RECORDS = 7


class CountingSource:
    """A seeded source that notes how many Gaussians each call asked for."""

    def __init__(self) -> None:
        self._source = SeededSource(b"counting")
        self.drawn: list[int] = []

    def uniform(self, n: int) -> np.ndarray:
        return self._source.uniform(n)

    def gaussian(self, n: int) -> np.ndarray:
        self.drawn.append(n)
        return self._source.gaussian(n)

    def words(self, n: int) -> np.ndarray:
        return self._source.words(n)

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        return self._source.skellam(table, n)


@pytest.fixture
def network() -> GradSampleModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
    return GradSampleModule(layers, loss_reduction="sum")


@pytest.fixture
def records() -> Tensor:
    """Some of them far below the clip, some far above."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.randn(RECORDS, 5) * torch.logspace(-4, 1, RECORDS)[:, None]


def _backward(network: GradSampleModule, records: Tensor) -> None:
    network(records).square().sum().backward()


def _sum(network: GradSampleModule, pieces: Sequence[Tensor], clip_norm: float | None = CLIP) -> ClippedGradientSum:
    total = ClippedGradientSum(list(network.parameters()), clip_norm)
    for piece in pieces:
        total.add_piece(opacus_rows(network, piece))
    return total


def _looped(network: GradSampleModule, records: Tensor, clip_norm: float) -> np.ndarray:
    """Each record's gradient by plain autograd, clipped and added in float64."""
    rows = []
    for record in records:
        gradients = torch.autograd.grad(network._module(record[None]).square().sum(), list(network.parameters()))
        row = torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
        rows.append(row * min(1.0, clip_norm / np.linalg.norm(row)))
    return np.sum(rows, axis=0)


def test_the_sum_is_that_of_a_loop_over_single_records(network: GradSampleModule, records: Tensor) -> None:
    network.disable_hooks()
    expected = _looped(network, records, CLIP)
    network.enable_hooks()
    np.testing.assert_allclose(_sum(network, [records]).flat(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, RECORDS])
def test_pieces_of_any_size_give_the_same_sum(network: GradSampleModule, records: Tensor, size: int) -> None:
    whole = _sum(network, [records]).flat()
    np.testing.assert_allclose(_sum(network, records.split(size)).flat(), whole, rtol=1e-5, atol=1e-7)


def test_the_sum_is_that_of_opacus_own_optimizer(network: GradSampleModule, records: Tensor) -> None:
    optimizer = DPOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    _backward(network, records)
    optimizer.pre_step()
    theirs = torch.cat([p.grad.flatten() for p in network.parameters()]).numpy()  # type: ignore[union-attr]
    optimizer.zero_grad()
    # Opacus divides by norm + 1e-6 where this divides by the norm.
    np.testing.assert_allclose(_sum(network, [records]).flat(), theirs, rtol=1e-4, atol=1e-5)


def test_dropping_any_one_record_moves_the_sum_by_at_most_the_clip_norm(
    network: GradSampleModule, records: Tensor
) -> None:
    whole = _sum(network, [records]).flat()
    moved = []
    for index in range(RECORDS):
        neighbour = torch.cat([records[:index], records[index + 1 :]])
        moved.append(float(np.linalg.norm(whole - _sum(network, [neighbour]).flat())))
    assert max(moved) <= CLIP * (1 + 1e-5)
    assert max(moved) >= CLIP * (1 - 1e-5)  # The bound is reached: some record was clipped.


def test_without_a_clip_norm_the_sum_is_the_plain_gradient(network: GradSampleModule, records: Tensor) -> None:
    network.disable_hooks()
    expected = torch.autograd.grad(network._module(records).square().sum(), list(network.parameters()))
    network.enable_hooks()
    flat = torch.cat([gradient.flatten() for gradient in expected]).numpy()
    np.testing.assert_allclose(_sum(network, [records], None).flat(), flat, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero(
    network: GradSampleModule, records: Tensor, value: float
) -> None:
    without = _sum(network, [records[1:]]).flat()
    spoilt = records.clone()
    spoilt[0] = value
    np.testing.assert_allclose(_sum(network, [spoilt]).flat(), without, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-25, 1e25, 1e38])
@pytest.mark.parametrize("clip_norm", [1e-36, 1e-6, 1.0])
def test_rows_are_clipped_whose_squares_float32_cannot_hold(
    network: GradSampleModule, size: float, clip_norm: float
) -> None:
    total = ClippedGradientSum(list(network.parameters()), clip_norm)
    entries = sum(parameter.numel() for parameter in network.parameters())
    total.add_piece(torch.full((1, entries), size))
    exact = float(torch.tensor(size)) * math.sqrt(entries)
    assert np.linalg.norm(total.flat()) == pytest.approx(min(exact, clip_norm), rel=1e-9)


def test_not_a_bit_of_a_row_depends_on_the_rows_beside_it(network: GradSampleModule, records: Tensor) -> None:
    def rows(chosen: list[int]) -> list[bytes]:
        kept = Kept()
        ClippedGradientSum(list(network.parameters()), CLIP, rows=kept).add_piece(gradients[chosen])
        return kept.rows

    gradients = 1e3 * opacus_rows(network, records)
    alone = [rows([n])[0] for n in range(len(records))]
    assert rows(list(range(len(records)))) == alone
    assert rows([2, 0]) == [alone[2], alone[0]]


def test_a_finished_row_that_is_too_long_counts_as_zero(
    network: GradSampleModule, records: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever makes a factor wrong, nothing longer than the clip norm is added."""
    monkeypatch.setattr("yoriai.privacy.dp.dpsgd.clip_factors", lambda norms, clip_norm: 0.999 * np.ones(len(norms)))
    total = ClippedGradientSum(list(network.parameters()), 1e-3)
    total.add_piece(opacus_rows(network, records))
    assert not total.flat().any()


def test_a_row_that_is_too_long_is_taken_out_and_not_a_bit_of_the_others_changes(
    network: GradSampleModule, records: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = opacus_rows(network, records)
    long = float(np.linalg.norm(rows[4].double()))

    def wrong(norms: np.ndarray, clip_norm: float) -> np.ndarray:
        return clip_factors(norms, clip_norm) * np.where(np.isclose(norms, long), 1 + 1e-12, 1.0)

    def added(chosen: list[int]) -> np.ndarray:
        total = ClippedGradientSum(list(network.parameters()), CLIP)
        total.add_piece(rows[:2])
        total.add_piece(rows[chosen])
        return total.flat()

    whole, without = added([2, 3, 4, 5, 6]), added([2, 3, 5, 6])
    assert long > CLIP
    assert np.linalg.norm(whole - without) == pytest.approx(CLIP)
    monkeypatch.setattr("yoriai.privacy.dp.dpsgd.clip_factors", wrong)
    np.testing.assert_array_equal(added([2, 3, 4, 5, 6]), without)


def test_an_empty_batch_is_zero_and_is_noised_all_the_same(network: GradSampleModule) -> None:
    total = _sum(network, [])
    assert not total.flat().any()
    source = CountingSource()
    noised, event = total.release(noise_multiplier=2.0, sampling_rate=0.1, source=source)
    assert noised.any()
    assert source.drawn == [total.flat().size]
    assert event == SampledGaussian(0.1, 2.0)


def test_a_release_is_the_sum_with_noise_drawn_once(network: GradSampleModule, records: Tensor) -> None:
    total, source = _sum(network, records.split(2)), CountingSource()
    noised, _ = total.release(noise_multiplier=2.0, sampling_rate=0.1, source=source)
    noise = CountingSource().gaussian(total.flat().size) * 2.0 * CLIP
    np.testing.assert_allclose(noised, total.flat() + noise, atol=grid_step(2.0 * CLIP))  # It lies on the grid.
    assert len(source.drawn) == 1


def test_an_unclipped_sum_cannot_be_released(network: GradSampleModule, records: Tensor) -> None:
    with pytest.raises(TrainingError, match="unclipped"):
        _sum(network, [records], None).release(noise_multiplier=1.0, sampling_rate=0.1, source=CountingSource())


def test_gradients_of_another_size_are_refused(network: GradSampleModule, records: Tensor) -> None:
    with pytest.raises(TrainingError, match="another size than the trained factors; found 53 numbers"):
        ClippedGradientSum(list(network.parameters()), CLIP).add_piece(opacus_rows(network, records)[:, 1:])


def test_a_flat_vector_is_cut_in_the_order_of_the_parameters() -> None:
    shapes = [(2, 3), (4,), (1, 1)]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    parts = list(split_like(np.arange(11.0), parameters))
    assert [tuple(part.shape) for part in parts] == shapes
    assert {part.dtype for part in parts} == {torch.float32}
    np.testing.assert_array_equal(torch.cat([part.flatten() for part in parts]).numpy(), np.arange(11.0))


BLOCKS = ((slice(0, 4), slice(0, 5)), (slice(0, 2),), (slice(0, 3), slice(0, 2)))


def _held_sum(network: GradSampleModule, records: Tensor, clip_norm: float | None = CLIP) -> ClippedGradientSum:
    """Of the blocks alone, as `RecordGradients` would give them."""
    whole = opacus_rows(network, records).split([p.numel() for p in network.parameters()], dim=1)
    parts = [
        part.view(-1, *parameter.shape)[(slice(None), *block)].flatten(1)
        for part, parameter, block in zip(whole, network.parameters(), BLOCKS, strict=True)
    ]
    total = ClippedGradientSum(list(network.parameters()), clip_norm, BLOCKS)
    total.add_piece(torch.cat(parts, dim=1))
    return total


def test_a_held_block_alone_counts_for_the_clip_and_the_sum(network: GradSampleModule, records: Tensor) -> None:
    network.disable_hooks()
    expected = 0.0
    for record in records:
        gradients = torch.autograd.grad(network._module(record[None]).square().sum(), list(network.parameters()))
        blocks = [gradient[block].flatten() for gradient, block in zip(gradients, BLOCKS, strict=True)]
        row = torch.cat(blocks).double().numpy()
        expected += row * min(1.0, CLIP / np.linalg.norm(row))
    network.enable_hooks()
    np.testing.assert_allclose(_held_sum(network, records).flat(), expected, rtol=1e-5, atol=1e-6)


def test_noise_is_drawn_for_the_held_block_alone(network: GradSampleModule, records: Tensor) -> None:
    source = CountingSource()
    noised, _ = _held_sum(network, records).release(noise_multiplier=2.0, sampling_rate=0.1, source=source)
    assert source.drawn == [4 * 5 + 2 + 3 * 2] == [noised.size]


def test_a_flat_vector_of_held_blocks_is_padded_with_zeros() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    (part,) = split_like(np.array([1.0, 2.0, 3.0, 4.0]), [parameter], [(slice(0, 2), slice(0, 2))])
    torch.testing.assert_close(part, torch.tensor([[1.0, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0]]))
