"""`yoriai audit` as a command: exit codes, what it hands to the audit, and each figure of its table. Trains nothing."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.world import write_sites
from yoriai.cli import command
from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.simulations.audit import canary_audit as auditing
from yoriai.simulations.cli.audit_cli import EXIT_REFUTED, print_audit
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.observers import Observer


def _part(correct: int, guesses: int, epsilon: float) -> dict[str, Any]:
    return {"correct": correct, "guesses": guesses, "epsilon_lower": epsilon, "canaries": 5000}


def _findings(**changes: Any) -> dict[str, Any]:
    """What an audit returns, each figure with a value of its own."""
    probes = {"many_guesses": _part(1301, 2500, 0.11), "repeated_noise": _part(1252, 2500, 0.02)}
    noise = {"noise_multiplier": 1.847, "noise_multiplier_measured": 1.853, "noise_correlation": 0.031}
    found: dict[str, Any] = {
        "epsilon_ledger": 3.99,
        "confidence": 0.95,
        "control": {"correct": 2498, "guesses": 2500, "epsilon_lower_white_box": 6.59},
        "refuted": False,
        "control_holds": True,
        "white_box": {
            **_part(289, 328, 1.70),
            "job_rounds": {**_part(155, 178, 1.52), **noise, "probes": probes},
            "full_step": _part(134, 150, 1.66),
        },
        "random_directions": {"directions": 500, "epsilon_estimate": 3.35},
        "black_box": {**_part(19, 36, 0.21), "without_privacy": _part(30, 36, 0.83)},
        "membership": {
            "with_privacy": {"auc": 0.545, "tpr_at_1pct_fpr": 0.012},
            "without_privacy": {"auc": 0.685, "tpr_at_1pct_fpr": 0.023},
        },
        "settings": {
            "job": "excavators",
            "base": "a-base",
            "rule": "core",
            "noise": "local",
            "delta": 1e-5,
            "unit": "record, add or remove one",
        },
        "seconds": 614.6,
    }
    return found | changes


def _printed(found: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    print_audit(found, Console(file=out, width=80, no_color=True))
    return [line.rstrip() for line in out.getvalue().splitlines()]


class Audited:
    """Stands in for the audit: keeps what it was asked for, and returns what it is told."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.experiment: Experiment | None = None
        self.asked: auditing.AuditPlan | None = None

    def __call__(
        self, experiment: Experiment, session: object, asked: auditing.AuditPlan, observer: Observer
    ) -> dict[str, Any]:
        self.experiment, self.asked = experiment, asked
        observer.say("audit    what is under way")
        return self.found


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> Audited:
    stand_in = Audited(_findings())
    monkeypatch.setattr(auditing, "audit", stand_in)
    monkeypatch.setattr(auditing, "base_for", lambda *_: None)
    return stand_in


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sites(tmp_path_factory.mktemp("audit-cli") / "sites", {"north": 12, "east": 12})


def _invoke(data: Path, *more: str) -> Result:
    return CliRunner().invoke(command(), ["audit", "--data", str(data), *more], env={"COLUMNS": "80", "TERM": "dumb"})


@pytest.mark.parametrize(
    ("refuted", "holds", "code"), [(False, True, 0), (True, True, 1), (False, False, 1), (True, False, 1)]
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_it_exits_with_one_if_the_claim_is_refuted_or_the_control_fails(
    audited: Audited, data: Path, refuted: bool, holds: bool, code: int, form: tuple[str, ...]
) -> None:
    audited.found = _findings(refuted=refuted, control_holds=holds)
    assert _invoke(data, *form).exit_code == code
    assert EXIT_REFUTED == 1


def test_json_is_the_findings_and_nothing_else_on_the_standard_output(audited: Audited, data: Path) -> None:
    done = _invoke(data, "--json")
    assert json.loads(done.stdout) == audited.found
    assert "what is under way" in done.stderr


def test_without_json_the_table_is_printed(audited: Audited, data: Path) -> None:
    assert "epsilon at least" in _invoke(data).stdout


def test_defaults_are_those_of_the_page_and_the_jobs_own(audited: Audited, data: Path) -> None:
    assert _invoke(data).exit_code == 0
    assert audited.asked is not None
    assert audited.experiment is not None
    assert (audited.asked.canaries, audited.asked.records) == (5000, 400)
    assert not audited.asked.hostile
    assert audited.experiment.job.base.model != auditing.TINY


def test_options_reach_the_audit(audited: Audited, data: Path) -> None:
    line = ("--canaries", "9", "--records", "0", "--epsilon", "2.5", "--base", "tiny", "--hostile")
    assert _invoke(data, *line).exit_code == 0
    assert audited.asked is not None
    assert audited.experiment is not None
    job = audited.experiment.job
    assert audited.asked.hostile
    assert (audited.asked.canaries, audited.asked.records, job.privacy.epsilon) == (9, 0, 2.5)
    assert (job.base.model, job.lora.rank) == (auditing.TINY, auditing.TINY_SETTINGS["lora.rank"])


def test_a_job_file_is_the_job_that_is_audited(audited: Audited, data: Path, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('schema = 1\nname = "of-a-file"\n[privacy]\nepsilon = 1.5\n')
    assert _invoke(data, "--job", str(tmp_path / "job.toml")).exit_code == 0
    assert audited.experiment is not None
    assert (audited.experiment.job.name, audited.experiment.job.privacy.epsilon) == ("of-a-file", 1.5)


def test_another_base_changes_nothing_but_the_base(audited: Audited, data: Path) -> None:
    ranks = []
    for line in ((), ("--base", "some/base")):
        assert _invoke(data, *line).exit_code == 0
        assert audited.experiment is not None
        ranks.append(audited.experiment.job.lora.rank)
    assert audited.experiment is not None
    assert audited.experiment.job.base.model == "some/base"
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("line", [("--canaries", "7"), ("--records", "-1")])
def test_counts_that_make_no_sense_are_bad_input(audited: Audited, data: Path, line: tuple[str, str]) -> None:
    assert _invoke(data, *line).exit_code == EXIT_BAD_INPUT
    assert audited.asked is None


def test_a_job_without_privacy_is_refused_before_anything_is_attacked(audited: Audited, data: Path) -> None:
    done = _invoke(data, "--epsilon", "none")
    assert isinstance(done.exception, ConfigError)
    assert 'makes no claim to audit; found privacy.noise = "none"; give an epsilon with' in str(done.exception)
    assert audited.asked is None


def test_every_figure_stands_in_its_row(audited: Audited) -> None:
    rows = [" ".join(line.split()) for line in _printed(_findings())]
    for row in (
        "attack right guesses epsilon at least",
        "white-box, the job's rounds 155 178 1.52",
        "one full step 134 150 1.66",
        "both trainings together 289 328 1.70",
        "probe: many guesses 1,301 2,500 0.11",
        "probe: repeated noise 1,252 2,500 0.02",
        "control: noise off, clip on 2,498 2,500 6.59",
        "black-box, wrong labels 19 36 0.21",
        "without privacy 30 36 0.83",
        "membership with privacy: AUC 0.545, 1.2% found at 1 % false alarms",
        "membership without privacy: AUC 0.685, 2.3% found at 1 % false alarms",
        "615 s",
    ):
        assert row in rows, row


def test_the_head_names_claim_delta_unit_and_confidence_and_the_lines_below_noise_and_estimate() -> None:
    flat = " ".join(" ".join(_printed(_findings())).split())
    for said in (
        "job excavators, base a-base, rule core, local noise: epsilon 3.99 by the ledger, at delta 1e-05, per record",
        "Bounds at 95% confidence each.",
        "noise multiplier 1.847 claimed, 1.853 seen, correlation between rounds at most 0.031",
        "epsilon 3.35 estimated from 500 random directions: no bound",
    ):
        assert said in flat, said


def test_without_a_black_box_part_there_is_no_row_of_it() -> None:
    found = _findings()
    del found["black_box"], found["membership"]
    text = "\n".join(_printed(found))
    assert "black-box" not in text
    assert "membership" not in text
    assert "without privacy" not in text


@pytest.mark.parametrize(
    ("refuted", "holds", "said"),
    [
        (False, True, "Nothing refutes the claim, and the control shows that a fault would be seen."),
        (True, True, "The claim is REFUTED: there is a fault in the implementation."),
        (True, False, "The claim is REFUTED: there is a fault in the implementation."),
        (False, False, "The control fails: this audit would not have seen a fault."),
    ],
)
def test_the_last_line_is_the_verdict_and_there_is_one(refuted: bool, holds: bool, said: str) -> None:
    lines = _printed(_findings(refuted=refuted, control_holds=holds))
    assert lines[-1] == said
    assert sum(line.startswith(("Nothing", "The c")) for line in lines) == 1


def test_no_line_is_wider_than_eighty_columns() -> None:
    assert max(map(len, _printed(_findings()))) <= 80
