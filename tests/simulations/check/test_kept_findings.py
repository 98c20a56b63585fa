"""What a check found out, from the cache: with it a later check needs no base, and says what a check anew would."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.world import Notebook, job_settings, write_job, write_records, write_sites
from yoriai.config import JobConfig
from yoriai.simulations.check import kept_findings as module
from yoriai.simulations.check.job_check import Check, check, print_check
from yoriai.simulations.experiment.experiment import DataSource

ROOT = Path(__file__).parents[3]
NAMES = ("northern-plant", "southern-plant")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where findings are kept, in an empty cache."""
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "job-checks"


@pytest.fixture
def own_sites(tmp_path: Path) -> Path:
    """Two sites whose records a test may change."""
    return write_sites(tmp_path / "sites", dict.fromkeys(NAMES, 12))


class Checking:
    """Checks of one base and one folder of sites, each of which tells whether it loaded the base."""

    def __init__(self, base: Path, sites: Path) -> None:
        self.base, self.sites = base, sites
        self.loaded = False

    def __call__(self, settings: dict[str, object] | None = None, *, keep: bool = True, anew: bool = False) -> Check:
        heard = Notebook()
        wanted = job_settings(self.base) | (settings or {})
        found = check(JobConfig(name="tiny"), DataSource(self.sites), wanted, heard, keep=keep, anew=anew)
        self.loaded = "loading the base model" in {what for what, _, _ in heard.advances}
        return found


@pytest.fixture
def checked(base: Path, own_sites: Path, folder: Path, tmp_path: Path) -> Checking:
    """With a base whose files a test may change, too."""
    return Checking(shutil.copytree(base, tmp_path / "base"), own_sites)


def shown(found: Check) -> str:
    console = Console(file=io.StringIO(), width=400)
    print_check(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_second_check_says_the_same_without_the_base_and_that_it_was_measured_before(checked: Checking) -> None:
    first = checked()
    assert checked.loaded
    second = checked()
    assert not checked.loaded
    assert first.findings.step.measured_on is None
    day = second.findings.step.measured_on
    assert day is not None
    dated = replace(first.findings, step=replace(first.findings.step, measured_on=day))
    assert second.findings == dated
    said = f"as measured on {day} (--anew measures again) in one real step"
    assert shown(second) == shown(first).replace("measured in one real step", said)
    assert said in shown(second)


@pytest.mark.parametrize(
    "settings",
    [
        {"privacy.epsilon": 3.0, "privacy.delta": 1e-6},
        {"privacy.noise": "distributed", "federation.min_sites": 2},
        {"federation.rounds": 30, "federation.server_learning_rate": 0.5},
        {"training.learning_rate": 0.1, "training.local_steps": 2},
        {"secure_aggregation.enabled": False, "evaluation.every": 0},
    ],
)
def test_what_bears_on_privacy_rounds_and_rates_alone_needs_no_base(
    checked: Checking, settings: dict[str, object]
) -> None:
    checked()
    found = checked(settings)
    assert not checked.loaded
    anew = checked(settings, keep=False)
    assert checked.loaded
    for figure in ("n_params", "noise_multiplier", "modes", "epsilon", "epsilon_with_spares", "traffic"):
        assert getattr(found, figure) == getattr(anew, figure)
    assert found.estimate.work == anew.estimate.work
    assert (found.estimate.states_bytes, found.estimate.logits_bytes) == (
        anew.estimate.states_bytes,
        anew.estimate.logits_bytes,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"lora.rank": 2},
        {"task.template": "{prompt}?"},
        {"task.max_tokens": 40},
        {"task.labels": ["cabin", "engine", "pump", "boom"]},
        {"speed.physical_batch_size": 3},
        {"speed.prefix_cache": False},
        {"training.sampling_rate": 0.25},
        {"federation.rule": "fedavg"},
        {"privacy.noise": "none"},
    ],
)
def test_what_bears_on_base_tokens_or_the_step_is_found_out_anew(
    checked: Checking, settings: dict[str, object]
) -> None:
    checked()
    checked(settings)
    assert checked.loaded
    checked(settings)
    assert not checked.loaded


def other_record(checked: Checking) -> None:
    file = checked.sites / NAMES[0] / "train.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([first.replace('"prompt": "', '"prompt": "x'), *others]) + "\n")


def other_base(checked: Checking) -> None:
    os.utime(checked.base / "model.safetensors", (1, 1))


@pytest.mark.parametrize("change", [other_record, other_base])
def test_other_records_and_another_base_are_looked_at_anew(
    checked: Checking, change: Callable[[Checking], None]
) -> None:
    checked()
    change(checked)
    checked()
    assert checked.loaded
    checked()
    assert not checked.loaded


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("code_digest", lambda *_: "other"),
        ("hardware", lambda: {"cores": 1000}),
        ("cards", lambda: ["another card"]),
    ],
)
def test_of_other_code_or_on_another_machine_all_is_found_out_anew(
    checked: Checking, monkeypatch: pytest.MonkeyPatch, name: str, other: Callable[..., object]
) -> None:
    checked()
    monkeypatch.setattr(module, name, other)
    checked()
    assert checked.loaded


def test_findings_can_be_replaced_and_are_left_alone_unless_asked_for(checked: Checking, folder: Path) -> None:
    checked(keep=False)
    assert not folder.exists()
    checked()
    (file,) = folder.iterdir()
    before = file.read_bytes()
    checked(keep=False)
    assert checked.loaded
    assert file.read_bytes() == before
    checked(anew=True)
    assert checked.loaded
    assert file.read_bytes() != before


def spoilt(data: bytes) -> Iterator[bytes]:
    """A file cut short, one of something else, and one whose records are others'."""
    yield data[:-40]
    yield b"{}"
    file = json.loads(data)
    yield json.dumps(file | {"records": "0" * len(file["records"])}).encode()


def test_a_spoilt_file_costs_time_alone(checked: Checking, folder: Path) -> None:
    found = checked()
    (file,) = folder.iterdir()
    for data in spoilt(file.read_bytes()):
        file.write_bytes(data)
        assert checked().traffic == found.traffic
        assert checked.loaded
        checked()
        assert not checked.loaded


def test_the_file_holds_numbers_alone_and_is_its_users(checked: Checking, folder: Path, own_sites: Path) -> None:
    experiment = checked().experiment
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    content = file.read_text()
    words = {word for site in experiment.sites for record in site.train for word in (record.prompt or "").split()}
    for told in (*NAMES, *experiment.job.task.labels, *words, experiment.records_digest(), str(own_sites)):
        assert told not in content
    salted = json.loads(content)["records"]
    checked(anew=True)
    assert json.loads(file.read_text())["records"] != salted  # Two files do not tell that their records are the same.


def test_what_was_said_of_a_sites_records_is_said_at_each_check(base: Path, tmp_path: Path, folder: Path) -> None:
    for site in NAMES:
        for part, text in (("train", "the pump leaks"), ("test", "x")):
            write_records(tmp_path / "texts" / site / f"{part}.jsonl", [{"text": text}] * 4)
    for _ in range(2):
        heard = Notebook()
        settings = job_settings(base) | {"task.kind": "lm"}
        check(JobConfig(name="tiny"), DataSource(tmp_path / "texts"), settings, heard, keep=True)
        assert any("no test record holds anything to measure" in line for line in heard.said)
    assert not folder.exists()


def test_a_rule_of_another_package_whose_code_nobody_follows_is_looked_at_each_time(
    checked: Checking, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "stranger"
    about = package / "stranger_rule-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[yoriai.rules]\nother = stranger_rule:Rule\n")
    source = 'from yoriai.strategies.ffa import FFA\nclass Rule(FFA):\n    name = "other"\n'
    (package / "stranger_rule.py").write_text(source)
    monkeypatch.syspath_prepend(package)
    for _ in range(2):
        checked({"federation.rule": "other"})
        assert checked.loaded
    assert not folder.exists()
    monkeypatch.delitem(sys.modules, "stranger_rule")


@pytest.mark.usefixtures("folder")
def test_the_second_command_loads_no_model_library(base: Path, own_sites: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", base)
    heavy = {"accelerate", "flwr", "opacus", "peft", "ray", "tokenizers", "torch", "transformers"}
    code = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted(set(sys.modules) & {heavy})))
from yoriai.cli import main
sys.argv = ["yoriai", "job", "check", {str(job)!r}, "--data", {str(own_sites)!r}]
main()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert "torch" in said[0].splitlines()[-1]
    assert "as measured on" in said[1]
    assert said[1].splitlines()[-1] == "loaded:"
