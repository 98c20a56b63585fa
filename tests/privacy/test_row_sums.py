"""Norms and sums of rows, a span at a time on several threads, held against whole rows and exact arithmetic."""

import math
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.privacy.clipped_rows import Finished
from yoriai.privacy.dp import row_sums
from yoriai.privacy.dp.dpsgd import ClippedGradientSum
from yoriai.privacy.dp.row_sums import add_scaled, norms

FACTORS: Final = [1.0, 0.3, 1e-9, 0.7, 1.0, 1 / 3, 1e-30, 0.9, 1e-31]


@pytest.fixture
def rows() -> list[Tensor]:
    """Enough numbers for threads, in spans of which the last is not full."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(9, 150_001, generator=generator) * torch.logspace(-30, 30, 9)[:, None])


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_the_sum_is_that_of_one_whole_row_after_another_to_the_bit(rows: list[Tensor]) -> None:
    total = torch.zeros(len(rows[0]), dtype=torch.float64)
    add_scaled(total, rows, FACTORS)
    expected = np.zeros(len(rows[0]))
    for row, factor in zip(rows, FACTORS, strict=True):
        expected += row.double().numpy() * factor
    np.testing.assert_array_equal(total.numpy(), expected)


@pytest.mark.usefixtures("threads")
def test_not_a_bit_of_a_norm_depends_on_threads_or_on_other_rows(rows: list[Tensor]) -> None:
    together = norms(rows)
    assert together == [norms([row])[0] for row in rows]
    torch.set_num_threads(1)
    assert together == norms(rows)


def test_much_work_is_shared_by_threads_and_little_by_none(
    rows: list[Tensor], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, together = set(), threading.Barrier(threads, timeout=60)

    def watched(span: slice, *, wait: bool) -> None:
        workers.add(threading.current_thread())
        if wait:
            together.wait()

    row_sums._each_span(lambda span: watched(span, wait=True), len(rows[0]), len(rows))
    assert len(workers) == threads
    workers.clear()
    row_sums._each_span(lambda span: watched(span, wait=False), len(rows[0]), 1)
    assert workers == {threading.current_thread()}


TINY, LARGEST = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)
ROWS: Final = {
    "subnormal": np.full(1000, TINY, np.float32),
    "largest": np.full(1000, LARGEST, np.float32),
    "one large entry": np.array([LARGEST, *[TINY] * 999], np.float32),
    "all sizes": np.logspace(-44, 38, 1000).astype(np.float32),
    "odd last bits": np.nextafter(np.ones(1000, np.float32), np.float32(2.0)),
    "a third of a last bit": np.full(1000, 1 / 3, np.float32),
    "zero": np.zeros(1000, np.float32),
}


def exact(row: np.ndarray) -> Fraction:
    """The squared norm."""
    return sum((Fraction(float(value)) ** 2 for value in row), Fraction(0))


@pytest.mark.parametrize("name", ROWS)
def test_a_norm_is_that_of_exact_arithmetic_to_within_its_bound(name: str) -> None:
    (found,) = norms([torch.from_numpy(ROWS[name])])
    size, error = exact(ROWS[name]), Fraction(len(ROWS[name]), 2) + 2
    assert size * (1 - error / 2**53) ** 2 <= Fraction(found) ** 2 <= size * (1 + error / 2**53) ** 2


@pytest.mark.parametrize("clip_norm", [1e-36, 0.1, 1 / 3, 1.0, 1e30])
@pytest.mark.parametrize("name", ROWS)
def test_no_finished_row_is_longer_than_the_clip_norm_by_more_than_a_part_in_1e11(name: str, clip_norm: float) -> None:
    """What the clip promises without measuring again, in exact arithmetic (docs/decisions/0046)."""
    finished = Finished()
    ClippedGradientSum([nn.Parameter(torch.zeros(1000))], clip_norm, rows=finished).add_rows(ROWS[name][None])
    (row,) = finished.rows
    assert exact(row) <= (Fraction(clip_norm) * (1 + Fraction(1, 10**11))) ** 2
    assert exact(row) >= (min(Fraction(clip_norm) ** 2, exact(ROWS[name])) * (1 - Fraction(1, 10**11)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_has_a_norm_that_is_not(value: float) -> None:
    finite, spoilt = torch.ones(70_000), torch.ones(70_000)
    spoilt[-1] = value
    found = norms([finite, spoilt])
    assert (found[0], math.isfinite(found[1])) == (math.sqrt(70_000), False)


def test_of_no_rows_there_is_nothing_to_add() -> None:
    total = torch.ones(3, dtype=torch.float64)
    add_scaled(total, [], [])
    assert (norms([]), total.tolist()) == ([], [1.0, 1.0, 1.0])
