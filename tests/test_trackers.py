"""Trackers: one hook for two libraries that nobody needs; with them installed, what they have been told."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.commands import yoriai
from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.server.round.manifest import RoundRecord
from yoriai.server.round.metric_lines import encoded, lines_of, read_lines
from yoriai.system import trackers
from yoriai.system.trackers import check_tracker, figures_of, opened, send

LINES = [{"schema": 1, "run": "pumps-1", "round": n, "sites": 5, "update_norm": 0.5 / n} for n in (1, 2, 3)]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed: yoriai[track]")


class Heard:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.told.append((step, dict(figures)))

    def end(self) -> None:
        pass


def record(number: int) -> RoundRecord:
    digest = "ab" * 32
    return RoundRecord(number, ("north", "south"), (("west", "away"),), 0.5, 1.25, {"north": 3}, {"north": 4}, digest)


def test_a_round_is_a_line_of_sums_and_counts_that_names_no_site() -> None:
    text = encoded(lines_of("pumps-1", [record(0), record(1)])).decode()
    first, second = map(json.loads, text.splitlines())
    assert (first["run"], first["round"], second["round"]) == ("pumps-1", 1, 2)
    assert (first["sites"], first["refused"], first["bytes_up"], first["bytes_down"]) == (2, 1, 3, 4)
    assert "clipped" not in first  # It is not known.
    assert not any(name in text for name in ("north", "south", "west", "away"))


@pytest.mark.parametrize("content", ["", "x", "[1]", '{"schema": 2, "run": "a", "round": 1}', '{"schema": 1}'])
def test_what_holds_no_metrics_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="holds no metrics"):
        read_lines(tmp_path / "metrics.jsonl")


def test_a_tracker_hears_of_each_round_its_finite_numbers_and_no_text() -> None:
    heard = Heard()
    odd = {"epsilon_is": "per record", "accuracy": float("nan"), "loss": None, "clipped": 0, "done": True}
    assert send([{**LINES[0], **odd}, LINES[1]], heard) == 2
    assert heard.told == [(1, {"sites": 5.0, "update_norm": 0.5, "clipped": 0.0}), (2, figures_of(LINES[1]))]


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_by_the_extra_that_brings_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)  # As where it was never installed.
    with pytest.raises(ConfigError, match=f"{name} is not installed") as caught:
        check_tracker(name)
    assert "yoriai[track]" in caught.value.remedy


def test_an_unknown_tracker_is_refused_before_anything_trains(tmp_path: Path) -> None:
    done = yoriai("simulate", "--track", "wandb", "--out", tmp_path / "run")
    assert done.code == EXIT_BAD_INPUT
    assert "mlflow or trackio" in done.screen
    assert not (tmp_path / "run").exists()


@needs("mlflow")
def test_mlflow_has_every_figure_of_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow  # type: ignore[import-not-found,unused-ignore]

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    tracker = opened("mlflow", project="pumps", run="pumps-1", settings={"noise": "local"})
    send(LINES, tracker)
    tracker.end()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("pumps").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params) == ("pumps-1", "FINISHED", {"noise": "local"})
    told = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "update_norm")}
    assert told == {n: 0.5 / n for n in (1, 2, 3)}


@needs("mlflow")
def test_a_file_of_metrics_goes_into_a_tracker_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    (tmp_path / "metrics.jsonl").write_bytes(encoded({**line, "epsilon_is": "per record"} for line in LINES))
    done = yoriai("track", tmp_path, "--to", "mlflow", "--project", "pumps")
    assert done.code == 0, done.screen
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("pumps").experiment_id])
    assert (run.data.metrics["update_norm"], run.data.params) == (0.5 / 3, {"epsilon_is": "per record"})


@needs("trackio")
def test_trackio_has_every_figure_of_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # Read when it is imported first, which is here.
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[import-not-found,unused-ignore]

    tracker = opened("trackio", project=f"pumps-{tmp_path.name}", run="pumps-1", settings={"noise": "local"})
    send(LINES, tracker)
    tracker.end()
    told = SQLiteStorage.get_metric_values(f"pumps-{tmp_path.name}", "pumps-1", "update_norm")
    assert {point["step"]: point["value"] for point in told} == {n: 0.5 / n for n in (1, 2, 3)}
