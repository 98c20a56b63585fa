"""Records made ready: batches, padding, and hidden states that are computed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.client.conftest import Attach
from tests.crashes import full_disk
from yoriai.client.model import prepared as module
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.records.encoding import Example
from yoriai.errors import StorageError

LENGTHS = (5, 2, 7, 3, 5)


def _example(length: int, seed: int) -> Example:
    ids = np.random.default_rng(seed).integers(3, 200, length).astype(np.int32)
    mask = np.zeros(length, np.bool_)
    mask[1:] = True
    return Example(ids, mask, label=seed)


def _prepared(model: AdaptedModel, known: dict[bytes, torch.Tensor] | None = None, **more: Any) -> PreparedRecords:
    return PreparedRecords(model, [_example(n, i) for i, n in enumerate(LENGTHS)], known=known, **more)


def test_pieces_hold_each_chosen_record_once_and_like_sized_ones_together(attach: Attach) -> None:
    records = _prepared(attach())
    pieces = [piece.labels.tolist() for piece in records.batches(np.array([4, 2, 0, 1]), 2)]
    assert pieces == [[1, 0], [4, 2]]
    assert list(records.batches([], 2)) == []
    assert len(records) == len(LENGTHS)


def test_a_batch_is_padded_on_the_right_to_its_own_longest(attach: Attach) -> None:
    records = _prepared(attach())
    (batch,) = records.batches([1, 3], 8)
    assert batch.token_ids.shape == (2, 3)
    assert batch.entering.shape == (2, 3, 32)
    assert batch.last.tolist() == [1, 2]
    assert batch.token_ids[0].tolist() == [*records.examples[1].token_ids.tolist(), 0]
    assert batch.targets.tolist() == [[1, 0], [1, 2]]


def test_cached_states_are_those_of_the_prefix(attach: Attach) -> None:
    model = attach()
    cached, fresh = _prepared(model, {}), _prepared(model)
    for kept, computed in zip(cached.batches(range(5), 2), fresh.batches(range(5), 2), strict=True):
        for row, last in enumerate(kept.last.tolist()):
            torch.testing.assert_close(kept.entering[row, : last + 1], computed.entering[row, : last + 1])
        torch.testing.assert_close(kept.token_ids, computed.token_ids)


def test_padding_changes_no_record_that_stands_beside_a_longer_one(attach: Attach) -> None:
    model = attach()
    records = _prepared(model)
    (together,) = records.batches(range(5), 8)
    with torch.no_grad():
        hidden = model.final_hidden(together.entering)
        for row, index in enumerate(together.labels.tolist()):
            (alone,) = records.batches([index], 1)
            expected = model.final_hidden(alone.entering)[0]
            torch.testing.assert_close(hidden[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_equal_token_rows_are_computed_once_and_shared(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach()
    _prepared(model, {})  # How many records may share a piece is tried once.
    rows: list[int] = []
    prefix = model.prefix
    monkeypatch.setattr(model, "prefix", lambda ids: (rows.append(len(ids)), prefix(ids))[1])
    known: dict[bytes, torch.Tensor] = {}
    twice = [_example(4, 0), _example(4, 1), _example(4, 0)]
    PreparedRecords(model, twice, known=known)
    PreparedRecords(model, twice, known=known)
    assert sum(rows) == 2
    assert len(known) == 2


def test_progress_counts_the_records_that_are_computed(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTER_AT_ONCE", 2)
    seen: list[tuple[int, int]] = []
    _prepared(attach(), {}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def _file_of(states: torch.Tensor) -> str:
    """The file that the states' memory is mapped from, as the kernel names it; empty for plain memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split(maxsplit=1)[0].split("-"))
        if start <= states.data_ptr() < end:
            return "".join(line.split(maxsplit=5)[5:])
    raise AssertionError("the states lie nowhere")


def test_states_for_which_the_disk_has_no_room_are_an_error_and_no_signal(
    attach: Attach, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mapping of a file without its blocks is there at once; the process is killed where a block cannot be had."""
    model = attach()
    monkeypatch.setattr(module, "STATES_IN_MEMORY_BYTES", 16)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    with full_disk(100), pytest.raises(StorageError, match=r"no room for the records' hidden states.*TMPDIR"):
        _prepared(model, {})


def test_large_states_lie_in_an_unlinked_file(attach: Attach, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = attach()
    in_memory: dict[bytes, torch.Tensor] = {}
    _prepared(model, in_memory)
    monkeypatch.setattr(module, "STATES_IN_MEMORY_BYTES", 16)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    mapped: dict[bytes, torch.Tensor] = {}
    records = _prepared(model, mapped)
    assert list(tmp_path.iterdir()) == []
    for states in mapped.values():
        file = _file_of(states)
        assert (file.startswith(f"{tmp_path}/"), file.endswith(" (deleted)")) == (True, True), file
    assert not any(_file_of(states).startswith("/") for states in in_memory.values())
    for key, states in in_memory.items():
        torch.testing.assert_close(mapped[key], states, rtol=0, atol=0)
    (batch,) = records.batches([0], 1)
    torch.testing.assert_close(batch.entering[0], in_memory[records.examples[0].content])
