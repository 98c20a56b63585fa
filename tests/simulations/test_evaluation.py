"""What a finished run is worth: models side by side, in tables and JSON, with latency and forgetting."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score

from tests.commands import yoriai
from tests.simulations.conftest import Run
from tests.simulations.report_fixture import language_model_report
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations.evaluation.document import document
from yoriai.simulations.evaluation.evaluation import evaluate_run
from yoriai.simulations.evaluation.table import print_evaluation
from yoriai.simulations.report.claims import claims
from yoriai.simulations.report.report import Change, Compared


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
    assert found["method"]["calibration_bins"] == 10
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


def test_languages_and_general_texts_are_measured_when_asked_for(run: Run) -> None:
    plain = json.loads(yoriai("evaluate", run.folder, "--no-latency", "--json").screen)
    assert (plain["languages"], plain["forgetting"]) == ([], None)
    done = yoriai("evaluate", run.folder, "--no-latency", "--languages", "--forgetting")
    assert done.code == 0, done.screen
    assert "language" in done.screen
    assert "bits per byte before" in done.screen
    found = evaluate_run(run.folder, with_latency=False, with_languages=True)
    assert sum(one.records for one in found.languages) == run.report.overall["base"].records
    paired = run.report.paired
    assert paired is not None
    assert sum(one.against.gained or 0 for one in found.languages) == paired.gained


def test_records_that_have_changed_since_are_not_put_beside_old_answers(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    stored = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(stored | {"records_digest": "0" * 64}))
    with pytest.raises(CheckpointError, match="not those that the run"):
        evaluate_run(folder, with_latency=False, with_languages=True)


def test_loss_and_macro_f1_stand_with_their_interval_against_the_base(run: Run) -> None:
    screen = yoriai("evaluate", run.folder, "--no-latency").screen
    for name in ("macro-F1", "loss"):
        assert re.search(rf"^{name} +[+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\].* against the base$", screen, re.M), name
