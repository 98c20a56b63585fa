"""Two models on the same test records: changes and exact tests, calibration, labels, languages. By hand."""

import numpy as np
import pytest

from yoriai.client.evaluation.by_label import label_changes
from yoriai.client.evaluation.by_language import SiteAnswers, by_language, tally_of
from yoriai.client.evaluation.calibration import BINS, calibration
from yoriai.client.evaluation.side_by_side import against, changed_answers, p_value
from yoriai.client.model.measure import Tally
from yoriai.client.model.paired import FEWEST_RECORDS
from yoriai.client.model.per_record import PerRecord
from yoriai.client.records.records import Record


def _answers(expected: list[int], given: list[int], confidence: list[float] | None = None) -> PerRecord:
    sure = [0.5] * len(expected) if confidence is None else confidence
    return PerRecord.classified(np.ones(len(expected)), expected, given, sure)


def test_the_calibration_error_is_computed_by_hand() -> None:
    """Bins (0.5, 0.6]: half right at 0.55; (0.9, 1]: all right at 0.95. 2/4 · 0.05 + 2/4 · 0.05."""
    found = calibration(_answers([0, 0, 1, 1], [0, 1, 1, 1], [0.55, 0.55, 0.95, 0.95]))
    assert found is not None
    assert found.error == pytest.approx(0.05)
    assert [one.records for one in found.bins if one.records] == [2, 2]


def test_the_bins_cover_every_confidence_once() -> None:
    edges = [0.0, *(number / BINS for number in range(1, BINS + 1))]
    found = calibration(_answers([0] * len(edges), [0] * len(edges), edges))
    assert found is not None
    assert [one.records for one in found.bins] == [2] + [1] * (BINS - 1)


def test_a_confident_model_that_is_wrong_is_not_calibrated() -> None:
    found = calibration(_answers([0] * 10, [1] * 10, [1.0] * 10))
    assert found is not None
    assert found.error == 1.0


def test_texts_have_no_calibration() -> None:
    assert calibration(PerRecord.predicted([1.0], [3], [9])) is None


def test_labels_are_counted_by_what_became_right_and_wrong() -> None:
    truth = [0] * 8 + [1] * 3 + [2]
    before, after = _answers(truth, [1] * 8 + [1] * 3 + [2]), _answers(truth, [0] * 8 + [0] * 3 + [2])
    found = label_changes(before, after, ("gains", "loses", "stays", "absent"))
    assert [(one.label, one.gained, one.lost) for one in found] == [("gains", 8, 0), ("stays", 0, 0), ("loses", 0, 3)]
    assert [one.verdict for one in found] == ["gain", "open", "open"]  # Three of three is no proof.
    assert (found[0].answered_before, found[0].answered_after) == (0, 11)


def test_p_is_the_exact_two_sided_one() -> None:
    assert p_value(6, 0) == pytest.approx(2 / 2**6)
    assert p_value(0, 0) == 1.0


def _tally(expected: list[int], given: list[int]) -> Tally:
    return tally_of(_answers(expected, given))


def test_a_change_is_of_right_answers_and_of_losses_with_the_answers_that_changed() -> None:
    before, after = _tally([0] * 30, [1] * 30), _tally([0] * 30, [0] * 24 + [1] * 6)
    found = against([before], [after])
    assert (found.gained, found.lost) == (24, 0)
    assert found.p == pytest.approx(2 / 2**24)
    assert found.changes["accuracy"].change == pytest.approx(24 / 30)
    assert found.changes["loss"].change == 0.0
    assert found.as_json()["paired"] == {"gained": 24, "lost": 0, "p": found.p}


def test_texts_have_a_change_and_no_exact_test() -> None:
    sizes = np.full(FEWEST_RECORDS, 4)
    before, after = (tally_of(PerRecord.predicted(sizes * loss, sizes, 4 * sizes)) for loss in (2.0, 1.0))
    found = against([before], [after])
    assert found.changes["bits_per_byte"].change == pytest.approx(-1 / np.log(2) / 4)
    assert (found.p, found.as_json()["paired"]) == (None, None)


def test_responses_that_are_compared_whole_count_as_right_and_wrong() -> None:
    def answered(hits: list[bool]) -> Tally:
        return Tally(4, 1.0, 4, correct=sum(hits), answered=4, hits=np.array(hits))

    before, after = answered([True, True, False, False]), answered([True, False, True, True])
    assert changed_answers([before], [after]) == (2, 1)
    assert changed_answers([before], [Tally(4, 1.0, 4)]) is None


def _records(languages: list[str], text: str = "the hose is leaking and the engine is not starting") -> list[Record]:
    return [Record(prompt=text, response="x", fields={"language": name} if name else {}) for name in languages]


def test_each_language_has_its_own_records_and_those_without_one_are_in_a_guess() -> None:
    languages = ["ja", "ES", "ja", "", "es "]
    before, after = _tally([0] * 5, [0, 1, 1, 1, 1]), _tally([0] * 5, [0, 0, 0, 1, 1])
    found = {one.language: one for one in by_language([SiteAnswers(_records(languages), before, after)])}
    counts = {name: (one.records, one.guessed) for name, one in found.items()}
    assert counts == {"ja": (2, 0), "es": (2, 0), "en": (1, 1)}
    assert (found["ja"].before.accuracy, found["ja"].after.accuracy) == (0.5, 1.0)
    assert (found["es"].against.gained, found["en"].against.gained) == (1, 0)


def test_sites_with_one_language_are_put_together() -> None:
    sites = [
        SiteAnswers(_records(["ja"] * 15), _tally([0] * 15, [1] * 15), _tally([0] * 15, [0] * 15)) for _ in range(2)
    ]
    (found,) = by_language(sites)
    assert (found.records, found.against.gained) == (30, 30)
    assert found.against.changes["accuracy"].low == 1.0


def test_fewer_records_in_a_language_than_an_interval_needs_have_none() -> None:
    few = FEWEST_RECORDS - 1
    before, after = _tally([0] * few, [1] * few), _tally([0] * few, [0] * few)
    (found,) = by_language([SiteAnswers(_records(["ja"] * few), before, after)])
    assert found.against.changes == {}
    assert found.against.gained == few


def test_answers_of_another_number_of_records_have_no_language() -> None:
    assert by_language([SiteAnswers(_records(["ja"]), _tally([0] * 2, [0] * 2), _tally([0] * 2, [0] * 2))]) == ()
