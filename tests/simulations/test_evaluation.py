"""What a finished run is worth: models side by side, calibration, labels, latency."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score

from tests.commands import yoriai
from tests.simulations.conftest import Run
from tests.simulations.report_fixture import language_model_report
from yoriai.client.model.per_record import PerRecord
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations.evaluation.by_label import label_changes
from yoriai.simulations.evaluation.calibration import BINS, calibration
from yoriai.simulations.evaluation.document import document, p_value
from yoriai.simulations.evaluation.evaluation import evaluate_run
from yoriai.simulations.evaluation.table import print_evaluation
from yoriai.simulations.report.claims import claims
from yoriai.simulations.report.report import Change, Compared, Paired


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
    assert p_value(Paired(gained=6, lost=0)) == pytest.approx(2 / 2**6)
    assert p_value(Paired(gained=0, lost=0)) == 1.0


def test_a_run_is_evaluated_from_its_folder(run: Run) -> None:
    found = evaluate_run(run.folder, with_latency=False)
    assert set(found.report.against) == set(run.report.overall) - {"federated"}
    assert set(found.calibration) == set(run.report.overall) - {"majority"}
    assert sum(one.records for one in found.labels) == run.report.overall["base"].records
    paired = run.report.paired
    assert paired is not None
    assert sum(one.gained for one in found.labels) == paired.gained
    assert found.report.against["base"].paired == paired
    assert found.adapter_bytes > run.report.adapter.parameters_trained


def test_what_was_kept_of_each_record_gives_the_scores_of_the_report(run: Run) -> None:
    stored = json.loads((run.folder / "measurements.json").read_text())
    for name in ("base", "federated", "local", "naive_bayes_own"):
        records = [site["per_record"] for site in stored[name].values()]
        expected = [label for site in records for label in site["expected"]]
        given = [label for site in records for label in site["given"]]
        assert accuracy_score(expected, given) == pytest.approx(run.report.overall[name].accuracy)
        losses = [loss for site in records for loss in site["losses"]]
        assert np.mean(losses) == pytest.approx(run.report.overall[name].loss, abs=1e-5)


def test_every_model_answers_the_same_records_in_one_order(run: Run) -> None:
    """Else a pairing would be of strangers: naive Bayes reads a site's file, a model reads by length."""
    stored = json.loads((run.folder / "measurements.json").read_text())
    for site in stored["base"]:
        orders = {tuple(by_site[site]["per_record"]["expected"]) for by_site in stored.values()}
        assert len(orders) == 1


def test_latency_is_of_single_answers(run: Run) -> None:
    found = evaluate_run(run.folder).latency
    assert found is not None
    assert found.answers == 50
    assert 0 < found.p50_ms <= found.p95_ms


def test_the_command_prints_tables_and_json(run: Run) -> None:
    shown = yoriai("evaluate", run.folder, "--no-latency")
    assert shown.code == 0
    assert "each site alone" in shown.screen
    assert "ECE" in shown.screen
    found = json.loads(yoriai("evaluate", run.folder, "--no-latency", "--json").screen)
    assert found["federated_against"]["base"]["paired"]["p"] <= 1
    assert found["method"]["calibration_bins"] == BINS
    assert found["latency"] is None


def test_a_table_says_where_an_interval_holds_zero(run: Run) -> None:
    found = evaluate_run(run.folder, with_latency=False)
    stream = io.StringIO()
    print_evaluation(found, Console(file=stream, width=80))
    text = stream.getvalue()
    assert "base before" in text
    change = found.report.against["base"].changes["accuracy"]
    assert (f"[{change.low:+.3f}, {change.high:+.3f}] ?" in text) == (change.low <= 0 <= change.high)
    assert json.dumps(document(found), allow_nan=False)


def test_a_folder_without_measurements_says_so(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no report"):
        evaluate_run(tmp_path)
    shutil.copy(run.folder / "report.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"measurements\.json"):
        evaluate_run(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "opening"), [(-0.3, -0.1, "Shown"), (-0.3, 0.1, "Not shown"), (0.1, 0.3, "Shown")]
)
def test_a_measure_without_a_share_is_claimed_by_the_interval_of_its_change(
    low: float, high: float, opening: str
) -> None:
    compared = Compared(changes={"bits_per_byte": Change(change=(low + high) / 2, low=low, high=high)})
    sentence = claims(language_model_report().model_copy(update={"against": {"base": compared}}))[0]
    assert sentence.startswith(f"{opening}: ")
    assert ("which is worse" in sentence) == (low > 0)
