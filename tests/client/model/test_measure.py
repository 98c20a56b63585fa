"""Counts that add up, and the scores they give."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from yoriai.client.model.measure import Tally, majority_tally


def _tally(truth: list[int], predicted: list[int], size: int) -> Tally:
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    hits = np.array(truth) == np.array(predicted)
    return Tally(
        records=len(truth), loss_sum=1.5, loss_units=len(truth), correct=int(hits.sum()), answered=len(truth),
        confusion=confusion, hits=hits,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_scikit_learns(seed: int) -> None:
    """Over the labels that occur; label 4 is never true, and may be predicted."""
    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(0, 4, 30).tolist(), generator.integers(0, 5, 30).tolist()
    tally = _tally(truth, predicted, 6)
    expected = f1_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert tally.macro_f1 == pytest.approx(expected)
    assert tally.accuracy == pytest.approx(accuracy_score(truth, predicted))


def test_a_label_that_is_never_predicted_scores_zero() -> None:
    assert _tally([0, 0, 1], [0, 0, 0], 3).macro_f1 == pytest.approx((0.8 + 0.0) / 2)


def test_tallies_of_parts_add_up_to_that_of_the_whole() -> None:
    truth, predicted = [0, 1, 2, 1], [0, 2, 2, 1]
    whole = _tally(truth, predicted, 3)
    total = _tally(truth[:1], predicted[:1], 3) + _tally(truth[1:], predicted[1:], 3)
    assert (total.records, total.correct, total.answered, total.loss_units) == (4, 3, 4, 4)
    assert total.hits is not None
    assert whole.hits is not None
    assert total.hits.tolist() == whole.hits.tolist()
    assert total.macro_f1 == whole.macro_f1
    assert total.loss == 3.0 / 4


def test_nothing_measured_has_no_score() -> None:
    empty = Tally(records=0, loss_sum=0.0, loss_units=0)
    assert math.isnan(empty.loss)
    assert (empty.accuracy, empty.macro_f1, empty.bits_per_byte) == (None, None, None)


def test_bits_per_byte_turns_nats_into_bits() -> None:
    assert Tally(records=1, loss_sum=8 * math.log(2), loss_units=3, target_bytes=4).bits_per_byte == pytest.approx(2)


def test_the_majority_is_the_commonest_training_label_on_every_test_record() -> None:
    train, test = [2, 2, 2, 0], [2, 0, 1, 2]
    tally = majority_tally(train, test, 3)
    assert (tally.records, tally.correct, tally.accuracy) == (4, 2, 0.5)
    assert tally.confusion is not None
    assert tally.confusion.sum(0).tolist() == [0, 0, 4]
    shares = np.array([2, 1, 4]) / 7  # Each count starts at one.
    assert tally.loss == pytest.approx(log_loss(test, np.tile(shares, (4, 1)), labels=[0, 1, 2]))


def test_a_majority_without_test_records_counts_nothing() -> None:
    tally = majority_tally([0, 1], [], 2)
    assert (tally.records, tally.accuracy, tally.macro_f1) == (0, None, None)
