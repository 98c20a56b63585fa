"""Tallies kept over an interruption, and what they become in a report."""

from pathlib import Path

import numpy as np
import pytest

from yoriai.client.model.measure import Tally, majority_tally
from yoriai.errors import CheckpointError
from yoriai.simulations.run.measuring import Measurements, paired, score, together

HITS = np.array([True, False, True, True])


def tally(hits: list[bool], loss: float = 2.0) -> Tally:
    """A classifier's counts."""
    confusion = np.array([[sum(hits), len(hits) - sum(hits)], [0, 0]])
    return Tally(len(hits), loss, len(hits), sum(hits), len(hits), confusion, np.array(hits))


def test_what_is_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    kept = Measurements(path)
    kept.put("base", {"a": tally([True, False]), "b": majority_tally([0, 0, 1], [0, 1], 2)})
    kept.put("round 10", {"a": Tally(2, 3.5, 7, target_bytes=9)})
    again = Measurements(path)
    assert "base" in again
    assert "federated" not in again
    first, stored = kept["base"]["a"], again["base"]["a"]
    assert (stored.records, stored.loss_sum, stored.correct) == (first.records, first.loss_sum, first.correct)
    assert stored.hits is not None
    assert stored.hits.tolist() == [True, False]
    assert stored.macro_f1 == first.macro_f1
    assert again["base"]["b"].hits is None
    assert again.by_round()[10]["a"].bits_per_byte == kept["round 10"]["a"].bits_per_byte
    assert list(again.by_round()) == [10]


@pytest.mark.parametrize("content", ["{", "[]", '{"base": {"a": {}}}', '{"base": {"a": 3}}'])
def test_a_damaged_file_is_an_error_with_a_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(CheckpointError, match="delete it"):
        Measurements(tmp_path / "m.json")


def test_all_sites_together_are_the_sum() -> None:
    both = together({"b": tally([True] * 3), "a": tally([False])})
    assert (both.records, both.accuracy) == (4, 0.75)
    assert both.hits is not None
    assert both.hits.tolist() == [False, True, True, True]


def test_scores_by_kind() -> None:
    classified = score(tally([True, True, False, True]), "classify")
    assert (classified.accuracy, classified.exact_match, classified.records) == (0.75, None, 4)
    assert classified.interval is not None
    answered = score(Tally(100, 50.0, 200, correct=16, answered=64, target_bytes=400), "instruct")
    assert (answered.accuracy, answered.exact_match, answered.records, answered.loss) == (None, 0.25, 64, 0.25)
    read = score(Tally(5, 50.0, 200, target_bytes=400), "lm")
    assert (read.accuracy, read.exact_match, read.interval) == (None, None, None)
    assert read.bits_per_byte == pytest.approx(50 / np.log(2) / 400)


def test_a_site_without_test_records_scores_nothing() -> None:
    assert score(None, "classify").records == 0
    assert score(Tally(0, 0.0, 0), "classify").accuracy is None


def test_only_changed_answers_are_paired() -> None:
    found = paired(tally([True, False, False, True]), tally([False, True, True, True]))
    assert found is not None
    assert (found.gained, found.lost) == (2, 1)
    assert paired(None, tally([True])) is None
    assert paired(Tally(1, 0.0, 1), tally([True])) is None
