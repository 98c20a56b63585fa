"""Bases held against each other: on two tiny ones, measured once, and on counts by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.tiny import tiny_llama, tiny_tokenizer
from tests.world import WORDS, save_tiny_base, write_job, write_sites
from yoriai.cli import app
from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord
from yoriai.errors import ConfigError
from yoriai.simulations.bench.bases import table
from yoriai.simulations.bench.bases.advice import advice
from yoriai.simulations.bench.bases.rounding import rounded
from yoriai.simulations.bench.bases.run import BasesPlan, bench_bases
from yoriai.simulations.bench.bases.tasks import task_of

SIZES = {"a": 40, "b": 30}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two bases of 32 and 64 entries a state, and sites that both learn."""
    folder = tmp_path_factory.mktemp("bases")
    write_sites(folder / "sites", SIZES)
    made = {name: save_tiny_base(folder / name, hidden=hidden) for name, hidden in (("small", 32), ("large", 64))}
    return {name: str(path) for name, path in made.items()} | {"sites": str(folder / "sites")}


@pytest.fixture(scope="module")
def document(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By the command, measured once."""
    folder = tmp_path_factory.mktemp("out")
    out, head = folder / "bases.json", {"task.head": "trained", "head.directions": 8, "head.words": 32}
    settings = {"task.labels": tuple(WORDS), "federation.rounds": 12, "federation.server_learning_rate": 0.5}
    settings |= {"public.written": 0}
    job = write_job(folder / "job.toml", Path("left out"), **head, **settings)
    bases = ["bench", "bases", places["small"], places["large"], "--data", places["sites"], "--job", str(job)]
    options = ["--epsilon", "none", "--answers", "3", "--core-hour", "0.05", "--json", str(out)]
    result = CliRunner().invoke(app, [*bases, *options])
    assert result.exit_code == 0, result.output
    assert "sites: take " in result.output
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_each_base_has_its_size_bits_by_language_and_scores_of_the_same_records(
    document: dict[str, Any], places: dict[str, str]
) -> None:
    small, large = document["bases"]
    assert [small["name"], large["name"]] == [places["small"], places["large"]]
    assert small["parameters"] < large["parameters"]
    assert small["bytes"]["q4_0"] < small["bytes"]["q8_0"] < small["bytes"]["f32"]
    for one in (small, large):
        assert one["bits_per_byte"]["ja"] > 0
        assert one["tasks"]["sites"]["federated"]["records"] == 24


def test_the_scores_of_all_sites_add_up_to_the_tasks(document: dict[str, Any]) -> None:
    for base in document["bases"]:
        task = base["tasks"]["sites"]
        assert sorted(task["sites"]) == sorted(SIZES)
        for model in ("base", "federated"):
            for key in ("correct", "records"):
                assert sum(site[model][key] for site in task["sites"].values()) == task[model][key]


def test_tables_call_a_base_by_its_files_name_and_tell_two_of_one_name_apart(document: dict[str, Any]) -> None:
    small, large = document["bases"]
    assert table.base_rows(document)[1][0] == "small"
    assert table.site_rows(document)[0] == ["task", "site", "records", "small", "large"]
    alike = document | {"bases": [small | {"name": "/a/base.gguf"}, large | {"name": "/b/base.gguf"}]}
    assert [row[1] for row in table.task_rows(alike)[1:]] == ["/a/base.gguf", "/b/base.gguf"]


def test_a_head_survives_eight_bits_and_a_larger_bases_labels(document: dict[str, Any]) -> None:
    small, large = (one["tasks"]["sites"] for one in document["bases"])
    for one in (small, large):
        assert one["federated"]["correct"] > one["base"]["correct"]
        assert one["rounded"]["q8_0"]["same"] >= one["rounded"]["q8_0"]["records"] - 2
    assert "distilled" not in large  # No larger one to learn from.
    assert small["distilled"]["teacher"] == document["bases"][1]["name"]
    assert small["distilled"]["prompts"] == 14
    assert small["distilled"]["correct"] >= small["federated"]["correct"] - 4


def test_a_thousand_answers_cost_their_time_on_a_core(document: dict[str, Any]) -> None:
    for one in document["bases"]:
        thousand = one["tasks"]["sites"]["thousand_answers"]
        assert thousand["cost"] == pytest.approx(thousand["core_seconds"] / 3600 * 0.05)


def test_no_site_trains_on_the_prompts_that_are_kept_back(places: dict[str, str]) -> None:
    task = task_of(places["sites"], 20)
    assert [len(site.train) for site in task.sites] == [16, 16]
    assert len(task.prompts) == 8
    held = {id(record) for record in task.prompts}
    assert not any(id(record) in held for site in task.sites for record in site.train)


@pytest.mark.parametrize(("kind", "most"), [("q8_0", 0.01), ("q4_0", 0.2)])
def test_a_base_is_rounded_for_a_while_and_then_what_it_was(kind: str, most: float) -> None:
    model = tiny_llama(tiny_tokenizer())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with rounded(model, kind):
        weight = model.model.layers[0].mlp.up_proj.weight.detach()
        error = (weight - before["model.layers.0.mlp.up_proj.weight"]).norm() / weight.norm()
        assert 0 < float(error) < most
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def _tallies(right: int) -> dict[str, Tally]:
    given = np.zeros(40, np.int64)
    given[:right] = 1
    ones = np.ones(40)
    record = PerRecord.classified(ones, np.ones(40, np.int64), given, ones)
    return {"a": Tally(records=40, loss_sum=40.0, loss_units=40, correct=right, per_record=record)}


def _base(name: str, right: int, seconds: float) -> dict[str, Any]:
    task = {"federated": {"correct": right, "records": 40}, "thousand_answers": {"core_seconds": seconds}}
    return {"name": name, "tasks": {"t": task}}


@pytest.mark.parametrize(
    ("rights", "taken"), [((20, 24, 30), "large"), ((20, 22, 24), "small"), ((20, 10, 8), "small")]
)
def test_the_smallest_base_is_taken_that_no_larger_one_is_shown_to_beat(
    rights: tuple[int, int, int], taken: str
) -> None:
    names = ("small", "middle", "large")
    bases = [_base(name, right, 1.0 + place) for place, (name, right) in enumerate(zip(names, rights, strict=True))]
    found = advice("t", bases, [_tallies(right) for right in rights])
    assert found["base"] == taken
    assert len(found["evidence"]) == 2
    assert "an answer takes 2.0 times" in found["evidence"][0]


def test_one_base_is_refused(places: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="two bases or more"):
        bench_bases(BasesPlan((places["small"],), (), {}, 1, 0.0, print))


def test_a_task_that_is_neither_a_scenario_nor_a_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such task; found nowhere"):
        task_of("nowhere", 10)
