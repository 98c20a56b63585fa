"""No record moves another's gradient: shapes by the unit alone, and rows that agree to the bit wherever they stand."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, Attach, start_for
from tests.client.rounds import PLAN, label_head
from tests.privacy.clipped_rows import Kept
from yoriai.client.base.pieces import Rows, Shape, rows_for, shape_of
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.magnitude import within_bounds
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import LanguageHead
from yoriai.client.records.encoding import Example
from yoriai.client.training import gradients
from yoriai.client.training.gradients import RoundGradients
from yoriai.privacy.dp.dpsgd import ClippedGradientSum
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

CPU = torch.device("cpu")


def test_a_shape_is_rounded_up_and_never_below_the_record_nor_above_the_model() -> None:
    ladder = (16, 24, 32, 48, 64, 96, 100)
    for tokens in range(1, 101):
        assert shape_of(tokens, 0, longest=100).tokens == next(rung for rung in ladder if rung >= tokens)
    assert [shape_of(20, n, longest=100).targets for n in (0, 1, 2, 3, 9, 19)] == [1, 1, 2, 4, 16, 24]
    assert Shape(8, 4) | Shape(16, 1) == Shape(16, 4)


def test_pieces_are_filled_up_with_what_does_not_count() -> None:
    assert list(Rows(2).cut([1, 2, 3])) == [([1, 2], 2), ([3], 1)]
    assert list(Rows(2, filled=True).cut([1, 2, 3])) == [([1, 2], 2), ([3, 3], 1)]
    assert list(Rows(2, filled=True).cut([])) == []


def test_rows_share_a_piece_as_far_as_their_bits_agree() -> None:
    def run(chosen: Sequence[int], *, by_size: bool = False, by_place: bool = False) -> torch.Tensor:
        rows = torch.tensor(chosen, dtype=torch.float32)
        rows = rows + len(chosen) * 1e-3 * by_size + torch.arange(len(chosen)) * 1e-3 * by_place
        return rows[:, None]

    assert rows_for(run, 24, 64, CPU) == Rows(32)
    assert rows_for(run, 24, 5, CPU) == Rows(5)
    assert rows_for(run, 100_000, 64, CPU) == Rows(1)
    assert rows_for(lambda chosen: run(chosen, by_size=True), 24, 64, CPU) == Rows(8, filled=True)
    assert rows_for(lambda chosen: run(chosen, by_place=True), 24, 64, CPU) == Rows(1)


def some(lengths: Sequence[int]) -> list[Example]:
    generator = np.random.default_rng(3)
    made = []
    for index, length in enumerate(lengths):
        mask = np.arange(length) > length // 2
        made.append(Example(generator.integers(3, 200, length).astype(np.int32), mask, label=index % len(LABELS)))
    return made


def hostile(model: AdaptedModel, start: AdapterState, size: float) -> AdapterState:
    """Random factors, as large as `size` says or else as a site takes."""
    generator = np.random.default_rng(0)
    noise = {name: generator.standard_normal(tensor.shape, np.float32) for name, tensor in start.tensors.items()}
    far = AdapterState({name: tensor + np.float32(size) * noise[name] for name, tensor in start.tensors.items()})
    return within_bounds(start, far, model.check)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("size", [0.0, 0.1, 1e6])
@pytest.mark.parametrize(
    ("rule", "task"), [("core", "classify"), ("fedavg", "classify"), ("core", "lm"), ("fedavg", "lm")]
)
def test_not_a_bit_of_a_records_gradient_depends_on_the_others(
    attach: Attach, rule: str, task: str, size: float, cached: bool
) -> None:
    model = attach(rule)
    start = hostile(model, start_for(model, rule), size)
    head: Any = label_head()
    if task == "lm":
        head = LanguageHead(model.base.model.get_output_embeddings().weight, model.base.tokenizer)
    examples = some([5, 7, 3, 8, 6, 12, 11, 4, 30, 5, 6, 7, 8, 8, 9, 3, 3, 5, 7])
    plan = replace(PLAN, factors=get_rule(rule).trainable(0), sampling_rate=1.0)

    def rows(chosen: Sequence[Example]) -> set[bytes]:
        kept, records = Kept(), PreparedRecords(model, chosen, known={} if cached else None)
        RoundGradients.at(model, start, records, head, plan).batch(SystemSource(), rows=kept)
        assert len(kept.rows) == len(chosen)
        return set(kept.rows)

    everyone = rows(examples)
    assert len(everyone) == len(examples)
    for left_out in (0, 2, 6, 8, 18):
        fewer = rows(examples[:left_out] + examples[left_out + 1 :])
        assert len(fewer - everyone) == 0
    assert rows(examples[5:6]) < everyone


def watch_pieces(monkeypatch: pytest.MonkeyPatch, note: Callable[[torch.Tensor], None]) -> None:
    """Have each piece's gradients noted before they are added."""
    genuine = ClippedGradientSum.add_piece

    def watched(this: ClippedGradientSum, rows: torch.Tensor, units: Sequence[int], *, goes_on: bool) -> None:
        note(rows)
        genuine(this, rows, units, goes_on=goes_on)

    monkeypatch.setattr(ClippedGradientSum, "add_piece", watched)


def in_pieces_of_four(attach: Attach) -> RoundGradients:
    """A round over all of some records, of several shapes."""
    model = attach("fedavg")
    plan = replace(PLAN, factors=get_rule("fedavg").trainable(0), sampling_rate=1.0, physical_batch_size=4)
    records = PreparedRecords(model, some([5, 7, 3, 8, 6, 12, 11, 4, 30, 20, 20]), known={})
    return RoundGradients.at(model, start_for(model, "fedavg"), records, label_head(), plan)


def test_a_batchs_pieces_are_written_over_one_another_and_what_is_tried_is_not(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes that are held against each other, in one memory, would agree whatever the model did."""
    places: list[int] = []
    tried: list[bool] = []

    def trial(run: Callable[[Sequence[int]], torch.Tensor], *_: object) -> Rows:
        one, other = run([0, 1]), run([1, 0])
        tried.append(one.data_ptr() == other.data_ptr())
        return Rows(4)

    watch_pieces(monkeypatch, lambda rows: places.append(rows.data_ptr()))
    monkeypatch.setattr(gradients, "rows_for", trial)
    at = in_pieces_of_four(attach)
    at.batch(SystemSource())
    first = len(places)
    at.batch(SystemSource())
    assert len(places) > first + 1
    assert len(set(places[first:])) == 1
    assert not any(tried)


def test_how_many_records_fit_is_found_with_no_records_gradients_in_memory(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU has free would follow from the pieces before, and with it how many records share a pass."""
    added: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []

    def found(_run: object, most: int, _memory: object) -> int:
        alive.append([one() is not None for one in added])
        return most

    watch_pieces(monkeypatch, lambda rows: added.append(weakref.ref(rows)))
    monkeypatch.setattr(gradients, "fitting", found)
    in_pieces_of_four(attach).batch(SystemSource())
    assert any(alive)
    assert not any(any(before) for before in alive)
