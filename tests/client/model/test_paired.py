"""What one model changes against another, with an interval, from the same records."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from yoriai.client.model import paired as module
from yoriai.client.model.measure import Tally
from yoriai.client.model.paired import FEWEST_RECORDS, changes, draws, paired_counts
from yoriai.client.model.per_record import PerRecord


def _text(losses: NDArray[np.float64], units: NDArray[np.int64], sizes: NDArray[np.int64]) -> Tally:
    record = PerRecord.predicted(losses, units, sizes)
    return Tally(len(losses), float(losses.sum()), int(units.sum()), target_bytes=int(sizes.sum()), per_record=record)


def _labels(truth: list[int], given: list[int], size: int = 3) -> Tally:
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (truth, given), 1)
    right = sum(a == b for a, b in zip(truth, given, strict=True))
    record = PerRecord.classified(np.ones(len(truth)), truth, given, np.full(len(truth), 0.5))
    return Tally(len(truth), 1.0, len(truth), right, len(truth), confusion, per_record=record)


def test_every_change_is_the_difference_of_the_two_scores() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 3, 60).tolist()
    before, after = (_labels(truth, generator.integers(0, 3, 60).tolist()) for _ in range(2))
    found = changes([before], [after])
    assert before.accuracy is not None
    assert after.accuracy is not None
    assert before.macro_f1 is not None
    assert after.macro_f1 is not None
    assert found["accuracy"].change == pytest.approx(after.accuracy - before.accuracy)
    assert found["macro_f1"].change == pytest.approx(after.macro_f1 - before.macro_f1)


def test_measures_of_the_same_records_are_taken_on_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[int]] = []

    def drawing(sizes: Sequence[int]) -> list[NDArray[np.int64]]:
        asked.append(sizes)
        return draws(sizes)

    monkeypatch.setattr(module, "draws", drawing)
    before, after = [_labels([1] * 15, [1] * 15)] * 2, [_labels([1] * 15, [2] * 15)] * 2
    assert set(changes(before, after)) == {"accuracy", "macro_f1", "loss"}
    assert asked == [(15, 15)]


def test_the_interval_of_an_accuracy_is_scipys_percentile_interval() -> None:
    generator = np.random.default_rng(2)
    old, new = generator.random(150) < 0.5, generator.random(150) < 0.7
    found = changes([_labels([1] * 150, old.astype(int).tolist())], [_labels([1] * 150, new.astype(int).tolist())])
    expected = stats.bootstrap(
        (new * 1.0, old * 1.0), lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, vectorized=True, axis=-1,
        method="percentile", n_resamples=9999, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_loss_and_bits_per_byte_are_ratios_of_sums_and_have_an_interval() -> None:
    generator = np.random.default_rng(3)
    units = generator.integers(1, 30, 80)
    before = _text(generator.random(80) * units * 4, units, units * 4)
    assert before.per_record is not None
    after = _text(before.per_record.losses * 0.8, units, units * 4)
    found = changes([before], [after])
    assert found["loss"].change == pytest.approx(after.loss - before.loss)
    assert found["bits_per_byte"].change == pytest.approx(-0.2 * before.loss / math.log(2) / 4)
    assert found["loss"].low < found["loss"].change < found["loss"].high < 0


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    generator, covered, trials = np.random.default_rng(4), 0, 200
    ones, size = np.ones(60, np.int64), np.zeros(60, np.int64)
    for _ in range(trials):
        losses = generator.gamma(2.0, 1.0, 60)
        change = changes([_text(losses, ones, size)], [_text(losses + generator.normal(0.3, 1.0, 60), ones, size)])
        covered += change["loss"].low <= 0.3 <= change["loss"].high
    assert 0.89 <= covered / trials <= 0.99


def test_a_pairing_that_is_lost_widens_the_interval() -> None:
    """So the interval is of pairs: the same losses in another order have the same mean change and a wider interval."""
    generator = np.random.default_rng(5)
    losses, ones, size = generator.gamma(2.0, 1.0, 200), np.ones(200, np.int64), np.zeros(200, np.int64)
    before, after = _text(losses, ones, size), _text(losses - 0.1, ones, size)
    shuffled = _text(generator.permutation(losses - 0.1), ones, size)
    whole, lost = changes([before], [after])["loss"], changes([before], [shuffled])["loss"]
    assert whole.change == pytest.approx(lost.change)
    assert lost.high - lost.low > 5 * (whole.high - whole.low)


def test_each_site_keeps_its_number_of_records() -> None:
    """One site all gained and one all lost: without strata the change would vary with their shares."""
    gained, lost = [_labels([1] * 30, [given] * 30) for given in (0, 1)]
    found = changes([gained, lost], [lost, gained])["accuracy"]
    assert (found.change, found.low, found.high) == (0, 0, 0)


def test_too_few_records_and_records_without_a_trace_give_no_interval() -> None:
    few = [1] * (FEWEST_RECORDS - 1)
    assert changes([_labels(few, few)], [_labels(few, few)]) == {}
    whole = _labels([1] * 40, [1] * 40)
    assert changes([replace(whole, per_record=None)], [whole]) == {}
    assert changes([_labels([1] * 39, [1] * 39)], [whole]) == {}


def test_exact_matches_are_shares_with_an_interval() -> None:
    texts = _text(np.ones(40), np.ones(40, np.int64), np.ones(40, np.int64))
    before, after = (replace(texts, hits=np.arange(40) < right) for right in (4, 24))
    assert changes([before], [after])["exact_match"].change == pytest.approx(0.5)


def test_gained_and_lost_are_counted_over_all_sites() -> None:
    before, after = [_labels([0, 1], [0, 0]), _labels([2], [2])], [_labels([0, 1], [1, 1]), _labels([2], [2])]
    assert paired_counts(before, after) == (1, 1)
    assert paired_counts([replace(before[0], per_record=None)], after[:1]) is None


def test_what_is_kept_of_each_record_comes_back_from_json() -> None:
    record = PerRecord.classified([0.25, 1.5], [0, 1], [1, 1], [0.5, 0.75])
    again = PerRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again.to_json() == record.to_json()
    with pytest.raises(ValueError, match="unequal"):
        PerRecord.from_json(record.to_json() | {"losses": [1.0]})


def test_records_measured_in_another_order_are_placed_back() -> None:
    measured = PerRecord.classified([3.0, 1.0, 2.0], [2, 0, 1], [2, 0, 1], [0.3, 0.1, 0.2])
    assert measured.placed([2, 0, 1]).losses.tolist() == [1.0, 2.0, 3.0]
