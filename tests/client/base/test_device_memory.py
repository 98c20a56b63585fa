"""A device whose memory ends: smaller pieces, the same batch, and a refusal where not one record fits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.client.conftest import Attach
from tests.client.rounds import GRAIN, PLAN, UNITS, CountingSource, by_owner, examples, label_head, prepared, update
from yoriai.client.base.device_memory import fitting
from yoriai.client.base.pieces import Rows, rows_for
from yoriai.client.training import gradients
from yoriai.errors import TrainingError
from yoriai.privacy.dp.record_gradients import RecordGradients


class Small:
    """A memory of so many bytes, of which a pass takes some and each of its records some more."""

    def __init__(self, free: int, fixed: int, each: int) -> None:
        self._free, self._fixed, self._each, self._count = free, fixed, each, 0

    def free_bytes(self) -> int:
        return self._free

    def passed(self, count: int) -> None:
        self._count = count

    def peak_bytes(self, run: Callable[[], object]) -> int:
        run()
        return self._fixed + self._count * self._each


@pytest.mark.parametrize(("free", "expected"), [(10_000, 8), (1000, 4), (230, 1), (0, 1)])
def test_as_many_records_pass_at_once_as_fit_by_what_one_and_two_take(free: int, expected: int) -> None:
    memory = Small(free, fixed=100, each=200)
    assert fitting(memory.passed, 8, memory) == expected
    assert fitting(memory.passed, 8, None) == 8


def test_the_estimate_bounds_the_pieces_of_a_step(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = attach("core"), Watched(monkeypatch)
    whole = update(model, "core", PLAN)
    assert max(seen.rows) > 2
    fresh = attach("core")
    memory = Small(500, fixed=0, each=200)
    monkeypatch.setattr(gradients, "memory_of", lambda device: memory)
    monkeypatch.setattr(memory, "peak_bytes", lambda run: (run(), 200 * seen.rows[-1])[1])
    seen.rows.clear()
    np.testing.assert_allclose(update(fresh, "core", PLAN), whole, rtol=1e-3, atol=GRAIN)
    assert max(seen.rows) == 2


class Watched:
    """How many records each pass had; memory runs out where there are more than `most`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.most = 10_000
        genuine = RecordGradients._put

        def put(this: RecordGradients, place: Any, coming_back: torch.Tensor, entering: torch.Tensor) -> None:
            self.rows.append(len(coming_back))
            if len(coming_back) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            genuine(this, place, coming_back, entering)

        monkeypatch.setattr(RecordGradients, "_put", put)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("known", [False, True])
def test_where_memory_runs_out_a_piece_is_halved_and_never_the_batch(
    attach: Attach, monkeypatch: pytest.MonkeyPatch, most: int, known: bool
) -> None:
    """While a shape is tried on public numbers, or later, in a real piece of a size that did fit."""
    whole = update(attach("fedavg"), "fedavg", PLAN)
    model, memory, source = attach("fedavg"), Watched(monkeypatch), CountingSource(silent=True)
    same: dict[str, Any] = {"records": prepared(model), "head": label_head()}
    if known:
        update(model, "fedavg", PLAN, **same)
    memory.most = most
    memory.rows.clear()
    found = update(model, "fedavg", PLAN, source=source, **same)
    np.testing.assert_allclose(found, whole, rtol=1e-3, atol=GRAIN)
    assert source.gaussians == [whole.size]  # One release, as before.
    memory.rows.clear()
    update(model, "fedavg", PLAN, **same)
    assert max(memory.rows) <= most  # It is not tried again.


@pytest.mark.parametrize("filled", [False, True])
def test_an_owners_records_stay_together_when_their_piece_is_halved(
    attach: Attach, monkeypatch: pytest.MonkeyPatch, filled: bool
) -> None:
    model, memory = attach("core"), Watched(monkeypatch)
    same: dict[str, Any] = {"head": label_head()}
    expected = update(model, "core", PLAN, records=by_owner(model), **same)
    assert len(UNITS) < len(examples())
    if filled:
        monkeypatch.setattr(gradients, "rows_for", lambda run, tokens, most, device: Rows(min(most, 4), filled=True))
        model = attach("core")
    memory.most = 2
    found = update(model, "core", PLAN, records=by_owner(model), **same)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=GRAIN)


def test_a_record_that_does_not_fit_alone_is_refused_with_what_would_help(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watched(monkeypatch).most = 0
    with pytest.raises(TrainingError, match=r"one record of 16 tokens does not fit the device's memory.*lower task"):
        update(attach("core"), "core", PLAN)


def test_rows_that_share_a_piece_are_halved_until_they_fit() -> None:
    def run(chosen: list[int]) -> torch.Tensor:
        if len(chosen) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor(chosen, dtype=torch.float32)[:, None]

    assert rows_for(run, 24, 32, torch.device("cpu")) == Rows(2)  # type: ignore[arg-type]
