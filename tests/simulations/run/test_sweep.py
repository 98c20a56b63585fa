"""Several epsilons in one table: every cell is a run of its own, and what is finished is not run again."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.world import Notebook, save_tiny_base, write_sites
from yoriai.client.model.head_model import HeadModel
from yoriai.client.records.encoding import Example
from yoriai.errors import ConfigError
from yoriai.simulations.experiment.experiment import DataSource
from yoriai.simulations.experiment.observers import Silent
from yoriai.simulations.report.file import write_report
from yoriai.simulations.report.report import Report, Score
from yoriai.simulations.report.sweep_figure import draw_sweep, sweep_table
from yoriai.simulations.run import sitting
from yoriai.simulations.run import sweep as module
from yoriai.simulations.run.sweep import ROWS, run_folder_of, sweep

SMALL = {"head.directions": 8, "head.words": 32, "federation.rounds": 2, "speed.threads": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sites(tmp_path_factory.mktemp("data"), {"a": 24, "b": 18}, test_size=6)


def _watched(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[bytes], list[Path]]:
    """How often each text passes the base from here on, and the folders into which a report is written."""
    passed: Counter[bytes] = Counter()
    written: list[Path] = []
    enter = HeadModel.enter

    def entering(model: HeadModel, examples: Sequence[Example], tokens: int) -> torch.Tensor:
        passed.update(example.content for example in examples if len(example.words))
        return enter(model, examples, tokens)

    def writing(report: Report, folder: Path) -> None:
        written.append(folder)
        write_report(report, folder)

    monkeypatch.setattr(HeadModel, "enter", entering)
    monkeypatch.setattr(sitting, "write_report", writing)
    return passed, written


def test_every_cell_is_a_finished_run_and_nothing_runs_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"base.model": str(save_tiny_base(tmp_path / "base")), **SMALL}
    folder = tmp_path / "sweep"
    passed, written = _watched(monkeypatch)
    notes = Notebook()
    found = sweep(DataSource(data), (4.0, 1.0), folder, notes, settings)
    cells = [("shared", 4), ("shared", 1), ("own", 4), ("own", 1)]
    assert [line for line in notes.said if " of 4 in " in line] == [
        f"run {number} of 4 in {folder}: epsilon {epsilon}, {noise} noise"
        for number, (noise, epsilon) in enumerate(cells, start=1)
    ]
    assert set(passed.values()) == {1}  # Every text passes the base once, in all runs together.
    assert written == [
        run_folder_of(folder, noise, epsilon) for noise in ("distributed", "local") for epsilon in (4, 1)
    ]
    assert tuple(found.rows) == tuple(row for row, _, _ in ROWS)
    assert all(score is not None and score.records == 12 for scores in found.rows.values() for score in scores)
    assert set(found.yardsticks) == {"majority", "base", "naive_bayes_all"}
    for noise in ("distributed", "local"):
        for epsilon in (4.0, 1.0):
            report = json.loads((run_folder_of(folder, noise, epsilon) / "report.json").read_text())
            assert (report["status"], report["privacy"]["noise"]) == ("done", noise)
            assert report["privacy"]["epsilon_target"] == epsilon
    assert (run_folder_of(folder, "distributed", 4.0) / "adapter" / "head.safetensors").exists()
    document = json.loads((folder / "sweep.json").read_text())
    assert document["epsilons"] == [4.0, 1.0]
    assert len(document["rows"]["together, noise shared"]) == 2

    monkeypatch.setattr(module, "simulate", lambda *_, **__: pytest.fail("a finished run was run again"))
    assert sweep(DataSource(data), (4.0, 1.0), folder, Silent(), settings).rows == found.rows


def test_over_several_splits_a_cell_is_their_mean_with_its_own_interval(data: Path, tmp_path: Path) -> None:
    one = tmp_path / "all.jsonl"
    one.write_text("".join((data / site / "train.jsonl").read_text() for site in "ab"))
    settings = {"base.model": str(save_tiny_base(tmp_path / "base")), **SMALL, "privacy.spare_rounds": 0}
    folder = tmp_path / "sweep"
    found = sweep(DataSource(one, sites=2), (4.0,), folder, Silent(), settings, splits=3)
    own = [
        json.loads((place / "epsilon-4-own" / "report.json").read_text())["overall"]["federated"]["accuracy"]
        for place in (folder, folder / "split-1", folder / "split-2")
    ]
    (score,) = found.rows["together, each with its own noise"]
    assert score is not None
    assert score.accuracy == pytest.approx(np.mean(own))
    assert score.interval is not None
    # Student's t for two degrees of freedom: 4.303.
    assert score.interval[1] == pytest.approx(min(1.0, np.mean(own) + 4.303 * np.std(own, ddof=1) / 3**0.5), abs=1e-3)
    assert json.loads((folder / "sweep.json").read_text())["splits"] == 3


def test_records_without_labels_are_led_to_another_command(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f'{{"text": "words and more words {n}"}}\n' for n in range(40)))
    with pytest.raises(ConfigError, match=r"records with labels.*simulate --compare"):
        sweep(DataSource(path, sites=2), (1.0,), tmp_path / "out", Silent())


def test_the_table_fits_eighty_columns_and_the_figure_is_a_picture() -> None:
    scores = {row: (Score.measured(100, accuracy=0.61), Score.measured(100, accuracy=0.5), None) for row, _, _ in ROWS}
    yardsticks = {"majority": Score.measured(100, accuracy=0.2), "base": Score.measured(100, accuracy=0.4)}
    out = io.StringIO()
    Console(file=out, width=80).print(sweep_table((8.0, 3.0, 0.5), scores, yardsticks))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert sum("0.61 ±0.09" in line for line in lines) == len(ROWS)
    assert any("commonest label" in line and "0.20" in line for line in lines)
    png = draw_sweep("Records", (8.0, 3.0, 0.5), scores, yardsticks)
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
