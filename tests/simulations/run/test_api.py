"""`simulate` and `resume` from Python: what a run leaves behind, and what an interruption changes (nothing)."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from huggingface_hub import ModelCard

from tests.commands import yoriai
from tests.simulations.conftest import Run
from tests.world import Notebook, Stop, job_settings, write_records
from yoriai.client.session.loading import load
from yoriai.config import load_job
from yoriai.errors import EXIT_PARTIAL, BudgetError, CheckpointError, ConfigError, RecordError, YoriaiError
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.privacy.ledger.ledger import Charge, Ledger
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.simulations.experiment.experiment import DataSource
from yoriai.simulations.report.file import load_report, report_schema
from yoriai.simulations.run.api import resume, simulate
from yoriai.simulations.run.options import Options

SEEDED = Options(noise_seed=b"seed")


def charges(run: Path, site: str) -> list[Charge]:
    """All charges in a site's ledger."""
    path = run / "ledgers" / f"{site}.sqlite"
    with Ledger.existing(path) as ledger:
        return ledger.charges()


def interrupted(base: Path, sites: Path, folder: Path, stop: Stop, **more: object) -> None:
    """Begin a run and interrupt it."""
    with pytest.raises(KeyboardInterrupt):
        simulate(data=sites, settings=job_settings(base, **more), out=folder, options=SEEDED, observer=stop)


def test_a_run_of_another_engine_is_not_resumed_on_a_cluster(run: Run) -> None:
    with pytest.raises(ConfigError, match="--ray-address goes with Flower's engine alone; found --engine inprocess"):
        resume(run.folder, ray_address="127.0.0.1:1")


def test_report_is_valid_by_its_schema_and_holds_every_key_of_the_contract(run: Run) -> None:
    stored = json.loads((run.folder / "report.json").read_text())
    jsonschema.Draft202012Validator(report_schema()).validate(stored)
    assert load_report(run.folder) == run.report
    trainings = ["majority", "base", "federated", "local", "federated_no_privacy", "central", "central_no_privacy"]
    for training in trainings:
        assert {"accuracy", "loss"} <= stored["overall"][training].keys()
        assert stored["overall"][training]["records"] == 36
        assert all(site[training]["records"] == 12 for site in stored["sites"])
    keys = "name train_records test_records epsilon delta bytes_up bytes_down majority base federated seconds"
    assert all(set(keys.split()) <= site.keys() for site in stored["sites"])
    assert {"schema", "rounds", "seconds", "peak_memory_mb", "adapter"} <= stored.keys()
    assert [(site["name"], site["train_records"]) for site in stored["sites"]] == [("a", 30), ("b", 24), ("c", 20)]
    assert [r["round"] for r in stored["rounds"]] == [1, 2, 3]
    assert stored["peak_memory_mb"] > 1


def test_spent_epsilon_is_below_the_target_and_above_zero(run: Run) -> None:
    assert all(site.epsilon is not None and 4.0 < site.epsilon < 8.0 for site in run.report.sites)
    assert all(site.seconds > 0 and site.bytes_up > 0 and site.bytes_down > 0 for site in run.report.sites)


def test_page_and_figures_are_written(run: Run) -> None:
    assert (run.folder / "report.html").stat().st_size > 1000
    assert {path.name for path in (run.folder / "figures").iterdir()} >= {"accuracy.png", "loss.png", "epsilon.png"}


def test_the_adapter_has_a_card_with_the_runs_figures_and_the_run_a_page_about_privacy_that_nobody_signed(
    run: Run,
) -> None:
    card, score = ModelCard.load(run.folder / "adapter" / "README.md"), run.report.overall["federated"]
    assert score.accuracy is not None
    assert score.interval is not None
    low, high = score.interval
    assert f"| {score.accuracy:.3f} | {low:.3f} to {high:.3f} | 36 |" in card.text
    told = f"epsilon = {epsilon_text(run.report.epsilon_spent)} at delta = 1e-5, per record (add or remove one record)"
    page = (run.folder / "privacy.html").read_text()
    assert told in card.text
    assert told in page
    assert "not signed" in page


def test_metrics_have_a_line_a_round_with_the_reports_figures_and_say_what_epsilon_is(run: Run) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    for line, told in zip(lines, run.report.rounds, strict=True):
        assert (line["accuracy"], line["epsilon"], line["update_norm"]) == (
            told.accuracy,
            told.epsilon,
            told.update_norm,
        )
        assert line["epsilon_is"] == "per record (add or remove one record), by PLD"


def test_a_tracker_that_fails_ends_no_training(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def log(self, *_: object, **__: object) -> None:
            raise ConnectionError("https://user:secret@tracker")

        end = log

    monkeypatch.setattr("yoriai.simulations.run.api.check_tracker", lambda name: None)
    monkeypatch.setattr("yoriai.simulations.run.tracking.opened", lambda name, **_: Broken())
    notebook = Notebook()
    options = Options(tracker="mlflow", alone=False)
    report = simulate(data=sites, settings=job_settings(base), out=tmp_path / "run", options=options, observer=notebook)
    assert report.status == "done"
    (said,) = (line for line in notebook.said if line.startswith("the tracker failed"))
    assert "ConnectionError" in said
    assert "secret" not in said


def test_peft_loads_the_adapter_on_the_base_and_generates(run: Run, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    prompt = torch.tensor([[1, 5, 6]])
    before = model(prompt).logits
    adapted = PeftModel.from_pretrained(model, str(run.folder / "adapter"))
    generated = adapted.generate(input_ids=prompt, max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > 3
    assert not torch.allclose(before, adapted(prompt).logits)


def test_task_file_holds_what_a_classifier_needs_to_answer(run: Run) -> None:
    task = json.loads((run.folder / "adapter" / "task.json").read_text())
    assert (task["kind"], task["template"]) == ("classify", "{prompt}\nLabel:")
    assert task["labels"] == ["cabin", "engine", "pump"]
    assert len(task["prior"]) == 3


def test_inferred_kind_is_said_and_stored(run: Run) -> None:
    assert run.report.task.reason.startswith("The 74 prompts have 3 distinct responses")
    assert any("classify. The 74 prompts" in line for line in run.heard.said)
    assert any("licence" in line and line.startswith("base") for line in run.heard.said)
    assert any("licence" in line and line.startswith("records") for line in run.heard.said)


@pytest.mark.parametrize(
    ("record", "kind", "metric"),
    [
        ({"text": "the {n}th pump leaks"}, "lm", "bits_per_byte"),
        ({"prompt": "part {n}", "response": "pump {n}"}, "instruct", "exact_match"),
        (
            {"messages": [{"role": "user", "content": "part {n}"}, {"role": "assistant", "content": "pump {n}"}]},
            "instruct",
            "exact_match",
        ),
    ],
)
def test_other_kinds_of_records_run(base: Path, tmp_path: Path, record: dict[str, Any], kind: str, metric: str) -> None:
    """From factors of public texts, as they do where the job names no rule."""
    for site in ("x", "y"):
        for part in ("train", "test"):
            lines = [json.loads(json.dumps(record).replace("{n}", f"{n}")) for n in range(6)]
            write_records(tmp_path / "data" / site / f"{part}.jsonl", lines)
    settings = {**job_settings(base), "federation.rounds": 1}
    settings.pop("federation.rule")
    report = simulate(data=tmp_path / "data", settings=settings, out=tmp_path / "run", options=Options(alone=True))
    assert report.task.kind == kind
    assert set(report.overall) == {"base", "federated", "local"}
    assert load_job(tmp_path / "run" / "job.toml").lora.factors == "public"
    assert isinstance(load(tmp_path / "run" / "adapter", device="cpu").generate("part", max_new_tokens=2), str)
    assert getattr(report.overall["federated"], metric) is not None
    assert report.overall["federated"].loss is not None
    assert "labels" not in json.loads((tmp_path / "run" / "adapter" / "task.json").read_text())


def write_answers(folder: Path) -> Path:
    """Two sites whose records are answered in words."""
    for site in ("x", "y"):
        for part in ("train", "test"):
            lines: list[dict[str, object]] = [
                {"prompt": f"{site} {part} {n}", "response": f"answer {n}"} for n in range(6)
            ]
            write_records(folder / site / f"{part}.jsonl", lines)
    return folder


def test_answers_of_base_and_adapter_stand_side_by_side_in_the_report_and_nowhere_else(
    base: Path, tmp_path: Path
) -> None:
    settings, run = job_settings(base) | {"federation.rounds": 1}, tmp_path / "run"
    heard = Notebook()
    report = simulate(data=write_answers(tmp_path / "data"), settings=settings, out=run, observer=heard)
    assert [(one.site, one.prompt, one.expected) for one in report.samples] == [
        (site, f"{site} test {n}\n", f"answer {n}") for n, site in ((0, "x"), (0, "y"), (1, "x"), (1, "y"), (2, "x"))
    ]
    assert all(one.base for one in report.samples)
    score = report.overall["federated"]
    assert None not in (score.exact_match, score.token_f1, score.chrf, score.loss, score.bits_per_byte)
    holding = {path.name for path in run.rglob("*") if path.is_file() and b"x test 1" in path.read_bytes()}
    assert holding == {"report.json", "report.html"}
    assert not any("test 0" in line for line in [*heard.said, *(what for what, _, _ in heard.advances)])


def test_answers_can_be_left_out_from_the_start_and_after_a_resume(base: Path, tmp_path: Path) -> None:
    settings, run = job_settings(base) | {"federation.rounds": 1}, tmp_path / "run"
    data = write_answers(tmp_path / "data")
    report = simulate(data=data, settings=settings, out=run, options=Options(samples=False))
    assert report.samples == ()
    (run / "report.json").unlink()
    assert resume(run).samples == ()


def test_a_run_that_was_stored_before_there_were_samples_shows_them_when_resumed(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = job_settings(base) | {"federation.rounds": 1}
    first = simulate(data=write_answers(tmp_path / "data"), settings=settings, out=run)
    (run / "report.json").unlink()
    stored = json.loads((run / "run.json").read_text())
    del stored["samples"]
    (run / "run.json").write_text(json.dumps(stored))
    assert resume(run).samples == first.samples


def test_one_table_file_is_split_over_sites(base: Path, tmp_path: Path) -> None:
    rows = [f"pump {n},{'leak' if n % 2 else 'noise'}" for n in range(40)]
    (tmp_path / "orders.csv").write_text("\n".join(["order,fault", *rows]) + "\n")
    source = DataSource(tmp_path / "orders.csv", 4, "iid", "order", "fault")
    settings = job_settings(base, **{"privacy.noise": "none", "federation.rule": "fedavg"}) | {"federation.rounds": 1}
    report = simulate(data=source, settings=settings, out=tmp_path / "run")
    assert [site.train_records for site in report.sites] == [8, 8, 8, 8]
    assert (report.task.kind, report.privacy.noise, report.adapter.rule) == ("classify", "none", "fedavg")
    assert all(site.epsilon is None for site in report.sites)
    assert len(report.rounds) == 1


def test_a_run_whose_base_and_records_were_named_from_here_is_resumed_from_elsewhere(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    near, data = Path(base.name), Path(os.path.relpath(sites))
    with pytest.raises(KeyboardInterrupt):
        simulate(data=data, settings=job_settings(near), out=tmp_path / "run", observer=Stop("rounds", 1))
    monkeypatch.chdir("/")
    assert len(resume(tmp_path / "run").rounds) == 3


def test_a_resumed_run_ends_as_an_uninterrupted_one(run: Run, base: Path, sites: Path, tmp_path: Path) -> None:
    interrupted(base, sites, tmp_path / "run", Stop("rounds", 2))
    report = resume(tmp_path / "run", options=SEEDED)
    assert report.adapter.digest == run.report.adapter.digest
    assert report.overall["federated"] == run.report.overall["federated"]
    assert [r.accuracy for r in report.rounds] == [r.accuracy for r in run.report.rounds]
    assert [site.epsilon for site in report.sites] == [site.epsilon for site in run.report.sites]
    assert (report.task, report.notes) == (run.report.task, run.report.notes)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]


def test_a_half_done_round_is_charged_again_only_where_an_update_had_left(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    # Round 1 is interrupted at b, whose gradient step was done but whose update had not left; a's had, and c was not
    # asked yet.
    interrupted(base, sites, tmp_path / "run", Stop("steps at site b", 1))
    assert [(len(charges(tmp_path / "run", s)), s) for s in "abc"] == [(1, "a"), (1, "b"), (0, "c")]
    report = resume(tmp_path / "run")
    assert [(len(charges(tmp_path / "run", s)), s) for s in "abc"] == [(4, "a"), (3, "b"), (3, "c")]
    epsilon = {site.name: site.epsilon or 0.0 for site in report.sites}
    assert epsilon["b"] == epsilon["c"] < epsilon["a"] <= 8.0


@pytest.fixture
def used_up(base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """A run that was killed twice between the release of a round and its checkpoint: its one spare round is gone."""

    def killed(round_number: int) -> Path:
        save, folder = Registry.save, tmp_path / "run"

        def kill(registry: Registry, checkpoint: Checkpoint) -> None:
            if checkpoint.next_round == round_number:
                raise KeyboardInterrupt
            save(registry, checkpoint)

        with monkeypatch.context() as patched:
            patched.setattr(Registry, "save", kill)
            interrupted(base, sites, folder, Stop("never", 0))
            for _ in range(4 - round_number):  # As often as it takes to use three rounds and the spare one.
                with pytest.raises(KeyboardInterrupt):
                    resume(folder)
        return folder

    return killed


def test_two_ill_timed_kills_end_a_run_early_with_the_adapter_of_its_last_stored_round(
    used_up: Callable[[int], Path], sites: Path
) -> None:
    folder = used_up(2)
    report = resume(folder)
    assert (report.status, len(report.rounds)) == ("partial", 1)
    (note,) = [note for note in report.notes if note.startswith("Ended early")]
    assert note.startswith("Ended early after 1 of 3 rounds: a, b, c have used every round, the spare ones too")
    stored = Registry(folder).load()
    assert stored is not None
    assert report.adapter.digest == stored.adapter.digest() == stored.rounds[0].adapter_digest
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    for site in "abc":
        with Ledger.existing(folder / "ledgers" / f"{site}.sqlite") as ledger:
            assert ledger.open_plans() == {}
    assert resume(folder) == report == load_report(folder)
    shown = yoriai("simulate", "--resume", folder)
    assert (shown.code, "Ended early after 1 of 3 rounds" in shown.screen) == (EXIT_PARTIAL, True)


def test_a_run_whose_rounds_are_used_up_before_one_is_stored_says_so_and_holds_nothing(
    used_up: Callable[[int], Path],
) -> None:
    folder = used_up(1)
    for _ in range(2):
        with pytest.raises(BudgetError, match=r"before a round was stored; found a, b, c .*spare_rounds") as caught:
            resume(folder)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    with Ledger.existing(folder / "ledgers" / "a.sqlite") as ledger:
        assert (len(ledger.charges()), ledger.open_plans()) == (4, {})


def test_a_finished_run_is_only_reported_again(run: Run) -> None:
    before = (run.folder / "seconds.json").read_bytes()
    heard = Notebook()
    assert resume(run.folder, observer=heard) == run.report
    assert heard.advances == []
    assert (run.folder / "seconds.json").read_bytes() == before


def test_seconds_of_earlier_sessions_count(base: Path, sites: Path, tmp_path: Path) -> None:
    interrupted(base, sites, tmp_path / "run", Stop("rounds", 1))
    path = tmp_path / "run" / "seconds.json"
    stored = json.loads(path.read_text())
    assert 0 < stored["parts"]["train"] < stored["total"]
    stored["total"] += 1000
    stored["sites"]["a"] += 100
    path.write_text(json.dumps(stored))
    report = resume(tmp_path / "run")
    assert 1000 < report.seconds["total"] < 1100
    assert 100 < report.sites[0].seconds < 150
    assert 0 < report.sites[1].seconds < 50


def test_comparisons_can_be_added_to_a_finished_run(base: Path, sites: Path, tmp_path: Path) -> None:
    settings = job_settings(base) | {"federation.rounds": 1, "privacy.noise": "none"}
    plain = simulate(data=sites, settings=settings, out=tmp_path / "run")
    compared = resume(tmp_path / "run", compare=True)
    assert set(compared.overall) - set(plain.overall) == {"local", "central_no_privacy"}
    assert compared.adapter == plain.adapter


@pytest.mark.parametrize("compare", [True, False])
def test_a_comparison_that_is_interrupted_leaves_the_report(
    base: Path, sites: Path, tmp_path: Path, compare: bool
) -> None:
    """Comparisons that take long find it written; each site alone, of a head, has seconds, and it is written after."""
    found: list[bool] = []

    class StopComparing(Notebook):
        def say(self, text: str) -> None:
            if text.startswith("compare"):
                found.append((tmp_path / "run" / "report.json").exists())
                raise KeyboardInterrupt

    settings = job_settings(base) | {"federation.rounds": 1}
    if not compare:
        del settings["federation.rule"]  # So that a head trains.
        settings |= {"head.directions": 8, "head.words": 32}
    options, observer = Options(compare=compare), StopComparing()
    with pytest.raises(KeyboardInterrupt):
        simulate(data=sites, settings=settings, out=tmp_path / "run", options=options, observer=observer)
    assert found == [compare]
    assert "federated" in load_report(tmp_path / "run").overall


def test_a_run_does_not_go_on_with_other_records(base: Path, tmp_path: Path, sites: Path) -> None:
    shutil.copytree(sites, tmp_path / "data")
    interrupted(base, tmp_path / "data", tmp_path / "run", Stop("rounds", 1))
    path = tmp_path / "data" / "b" / "train.jsonl"
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(CheckpointError, match="records are not those"):
        resume(tmp_path / "run")
    path.write_text(whole)
    assert resume(tmp_path / "run").status == "done"


def test_two_processes_do_not_work_on_one_run(run: Run) -> None:
    with (run.folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process"):
            resume(run.folder)


@pytest.mark.parametrize("content", [None, "{", '{"run_id": "x"}'])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match="no run"):
        resume(tmp_path)


def test_a_place_that_is_taken_stays_as_it_is(run: Run, base: Path, sites: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "job.toml").write_text("# mine\n")
    (tmp_path / "file").write_text("mine\n")
    for place in (run.folder, own, tmp_path / "file"):
        with pytest.raises(ConfigError, match="--out"):
            simulate(data=sites, settings=job_settings(base), out=place)
    assert (own / "job.toml").read_text() == "# mine\n"
    assert [path.name for path in own.iterdir()] == ["job.toml"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora.rank": 64}, "rank"),
        ({"lora.target_modules": ["query"]}, "target"),
        ({"lora.layers": "last:9"}, "layers"),
        ({"base.digest": "0" * 64}, "digest"),
        ({"base.model": "no/such-folder"}, "does not load"),
        ({"privacy.delta": 0.04}, "delta"),
        ({"privacy.epsilon": 0.0}, "epsilon"),
        ({"federation.rule": "corre"}, "rule"),
        ({"federation.min_sites": 4}, "min_sites"),
        ({"task.labels": ["cabin", "engine"]}, "label"),
        ({"task.kind": "lm"}, "kind"),
        ({"task.max_tokens": 10, "task.too_long": "refuse"}, "longer than 10"),
        ({"privacy.epsilonn": 1.0}, "epsilon"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(
    base: Path, sites: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(YoriaiError, match=message) as caught:
        simulate(data=sites, settings=job_settings(base) | settings, out=tmp_path / "run")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_cut_records_are_counted_in_the_report(base: Path, sites: Path, tmp_path: Path) -> None:
    settings = job_settings(base) | {"federation.rounds": 1, "task.max_tokens": 12, "task.template": "{prompt}: it is"}
    heard = Notebook()
    report = simulate(data=sites, settings=settings, out=tmp_path / "run", observer=heard)
    assert any("longer than 12 tokens were cut: a " in note for note in report.notes)
    assert any(line.startswith("cut") for line in heard.said)


def test_records_that_the_job_calls_public_are_counted_by_site(base: Path, sites: Path, tmp_path: Path) -> None:
    prompts = {json.loads(line)["prompt"] for line in (sites / "a" / "train.jsonl").read_text().splitlines()}
    own = tmp_path / "public.txt"
    own.write_text(min(prompts).upper())
    settings = job_settings(base) | {"task.head": "trained", "head.directions": 8, "public.texts": str(own)}
    heard = Notebook()
    simulate(data=sites, settings=settings | {"federation.rounds": 1}, out=tmp_path / "run", observer=heard)
    (told,) = [line for line in heard.said if line.startswith("site a: ") and "calls public" in line]
    assert min(prompts) not in told


def test_sites_without_any_test_record_are_refused(base: Path, tmp_path: Path) -> None:
    path = write_records(tmp_path / "all.jsonl", [{"text": "pump"}] * 4)
    with pytest.raises(RecordError, match="test record"):
        simulate(data=DataSource(path, 2), settings=job_settings(base), out=tmp_path / "run")


def test_engine_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inprocess or one-pass or flower"):
        simulate(options=Options(engine="ray"), out=tmp_path / "run")


def texts(folder: Path, **sites: tuple[list[str], list[str]]) -> Path:
    """A folder of sites with these texts to train on and to test."""
    for name, parts in sites.items():
        for part, own in zip(("train", "test"), parts, strict=True):
            write_records(folder / name / f"{part}.jsonl", [{"text": text} for text in own])
    return folder


def test_a_site_whose_test_texts_hold_no_target_is_named_at_once_and_gets_no_score(base: Path, tmp_path: Path) -> None:
    long, heard = ["the pump leaks", "an engine stalls"] * 4, Notebook()
    data = texts(tmp_path / "data", a=(long, ["x", "y"]), b=(long, long[:2]))
    report = simulate(data=data, settings=job_settings(base), out=tmp_path / "run", observer=heard)
    assert (
        "site a: no test record holds anything to measure, so it gets no score"
        in heard.said[: heard.said.index(f"run      {tmp_path / 'run'}")]
    )
    a, b = report.sites
    assert (a.federated.records, b.federated.records) == (0, 2)
    assert report.overall["federated"].loss == b.federated.loss


def test_a_site_that_has_nothing_to_learn_is_refused_before_anything_is_spent(base: Path, tmp_path: Path) -> None:
    data = texts(tmp_path / "data", a=(["x", "y"], ["the pump leaks"]), b=(["the pump leaks"] * 4, ["a pump leaks"]))
    with pytest.raises(RecordError, match="site a: no training record holds anything to learn"):
        simulate(data=data, settings=job_settings(base), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
