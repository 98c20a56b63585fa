"""The report's schema, its files, and its intervals."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.commands import yoriai
from tests.simulations.report_fixture import (
    ALL_KINDS,
    KIND_NAMES,
    changed,
    example_report,
    instruct_report,
    interrupted_report,
    personal_report,
)
from yoriai.comparison import wilson_interval
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations.report.file import load_report, report_json, report_schema, write_report
from yoriai.simulations.report.report import Report, Score

DOCUMENT = Path(__file__).parents[3] / "docs" / "report-schema.md"


@pytest.mark.parametrize("report", ALL_KINDS, ids=KIND_NAMES)
def test_report_json_is_valid_under_the_published_schema(report: Report) -> None:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(report_json(report)))


@pytest.mark.parametrize(
    ("place", "value"),
    [("schema", 2), ("status", "finished"), ("sites", []), ("overall", {}), ("peak_memory_mb", -1.0), ("extra", 1)],
)
def test_schema_refuses_what_the_models_refuse(place: str, value: object) -> None:
    content = json.loads(report_json(example_report())) | {place: value}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, report_schema())
    with pytest.raises(ValueError, match=place):
        Report.model_validate_json(json.dumps(content))


@pytest.mark.parametrize("missing", ["base", "federated", "majority"])
def test_finished_classification_needs_the_three_overall_scores(missing: str) -> None:
    content = json.loads(report_json(example_report()))
    del content["overall"][missing]
    with pytest.raises(jsonschema.ValidationError, match=missing):
        jsonschema.validate(content, report_schema())
    with pytest.raises(ValueError, match=f"overall lacks {missing}"):
        Report.model_validate_json(json.dumps(content))


def test_keys_that_the_issue_promises_are_there() -> None:
    content = json.loads(report_json(example_report()))
    assert {"schema", "overall", "sites", "rounds", "seconds", "peak_memory_mb", "adapter"} <= set(content)
    for training in ("majority", "base", "federated", "local", "central"):
        assert {"accuracy", "loss"} <= set(content["overall"][training])
    promised = {"name", "train_records", "test_records", "epsilon", "delta", "bytes_up", "bytes_down"}
    assert promised | {"majority", "base", "federated"} <= set(content["sites"][0])


def test_every_key_of_the_schema_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    schema = report_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    for part in [schema, *definitions.values()]:
        assert isinstance(part, dict)
        properties = part.get("properties", {})
        assert isinstance(properties, dict)
        for key in properties:
            assert f"`{key}`" in text, key


@pytest.mark.parametrize("report", ALL_KINDS, ids=KIND_NAMES)
def test_written_report_reads_back_equal(report: Report, tmp_path: Path) -> None:
    paths = write_report(report, tmp_path / "run")
    assert [path.name for path in paths[:2]] == ["report.json", "report.html"]
    assert load_report(tmp_path / "run") == report
    for path in paths[2:]:
        assert path.parent.name == "figures"
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_has_its_report_when_all_of_its_files_are_written(tmp_path: Path) -> None:
    """Whoever finds one takes the run as finished."""
    (tmp_path / "figures").touch()  # No folder can be made there.
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_report(interrupted_report(), tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_same_report_gives_the_same_files(tmp_path: Path) -> None:
    first = write_report(interrupted_report(), tmp_path / "one")
    second = write_report(interrupted_report(), tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_missing_report_says_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.json: no report here"):
        load_report(tmp_path)


def test_text_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema": 1,')
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        load_report(tmp_path)


def test_other_schema_version_is_named(tmp_path: Path) -> None:
    content = json.loads(report_json(example_report())) | {"schema": 7, "unknown": True}
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="found schema 7; expected schema 1"):
        load_report(tmp_path)


def test_all_faults_of_a_report_are_listed(tmp_path: Path) -> None:
    content = json.loads(report_json(example_report()))
    content["sites"][1]["epsilon"] = "eight"
    content["adapter"]["rank"] = -1
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load_report(tmp_path)
    assert [fault.what.split(":")[0] for fault in caught.value.faults] == ["sites.1.epsilon", "adapter.rank"]


def test_a_report_from_before_there_were_samples_reads_as_one_without(tmp_path: Path) -> None:
    content = json.loads(report_json(example_report()))
    assert content.pop("samples") == []
    for part in (content["overall"], *content["sites"]):
        for score in part.values():
            if isinstance(score, dict) and "records" in score:
                del score["token_f1"], score["chrf"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert load_report(tmp_path) == example_report()


def test_record_text_is_taken_out_of_a_finished_report_on_request(tmp_path: Path) -> None:
    write_report(instruct_report(), tmp_path)
    held = [path.name for path in tmp_path.iterdir() if path.is_file() and b"It leaks oil" in path.read_bytes()]
    assert sorted(held) == ["report.html", "report.json"]
    done = yoriai("report", tmp_path, "--no-samples")
    assert done.code == 0
    assert "leaks" not in done.screen
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"leaks" in path.read_bytes()]
    assert load_report(tmp_path) == changed(instruct_report(), samples=())


def test_epsilon_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="does not go with noise = none"):
        changed(example_report(), privacy=example_report(noise=False).privacy)


def test_epsilon_of_a_personal_adapter_without_the_sum_or_without_noise_is_refused() -> None:
    content = json.loads(report_json(personal_report()))
    content["sites"][0]["epsilon_together"] = None
    with pytest.raises(ValueError, match="one of epsilon_personal and epsilon_together"):
        Report.model_validate(content)
    content = json.loads(report_json(example_report(noise=False)))
    content["sites"][0] |= {"epsilon_personal": 1.0, "epsilon_together": 1.0}
    with pytest.raises(ValueError, match="epsilon_personal of A does not go with noise = none"):
        Report.model_validate(content)


def test_epsilon_together_is_the_largest_of_any_site() -> None:
    content = json.loads(report_json(personal_report()))
    content["sites"][2]["epsilon_together"] = 8.7
    assert Report.model_validate(content).epsilon_together == 8.7
    assert example_report().epsilon_together is None


def test_infinite_epsilon_is_refused() -> None:
    content = json.loads(report_json(example_report()))
    content["sites"][0]["epsilon"] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        Report.model_validate(content)


def test_two_sites_of_one_name_are_refused() -> None:
    report = example_report()
    with pytest.raises(ValueError, match="same name"):
        changed(report, sites=[report.sites[0], report.sites[0]])


def test_epsilon_spent_is_the_largest_of_any_site() -> None:
    content = json.loads(report_json(example_report()))
    content["sites"][3]["epsilon"] = 7.99
    assert Report.model_validate(content).epsilon_spent == 7.99


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I, method 3: the Wilson score interval without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_mirrored_and_holds_the_share() -> None:
    for n in (1, 7, 100):
        for k in range(n + 1):
            low, high = wilson_interval(k, n)
            assert 0 <= low <= k / n <= high <= 1
            assert wilson_interval(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_interval_of_nothing_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="8 successes in 7 trials"):
        wilson_interval(8, 7)


def test_measured_score_brings_its_interval() -> None:
    assert Score.measured(7, accuracy=4 / 7).interval == wilson_interval(4, 7)
    assert Score.measured(7, exact_match=1.0).interval == wilson_interval(7, 7)
    assert Score.measured(7, loss=2.0).interval is None


def test_reading_a_report_imports_no_matplotlib() -> None:
    names = "yoriai.simulations.report.report, yoriai.simulations.report.table"
    code = f"import sys, {names}; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
