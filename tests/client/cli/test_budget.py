"""`yoriai site budget`: what it shows, that it fits 80 columns, its JSON, and its refusals."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.commands import yoriai
from tests.privacy.ledgers import DELTA, EVENT, OTHER, charge, open_ledger
from yoriai import cli
from yoriai.client.cli.budget import view_of
from yoriai.client.cli.budget_table import mechanism_text, print_budget
from yoriai.client.folder.site_folder import make_site
from yoriai.config import SiteConfig
from yoriai.errors import EXIT_BAD_INPUT
from yoriai.privacy.dp.accounting import SampledSkellam, epsilon
from yoriai.privacy.dp.renyi import epsilon_at_order
from yoriai.privacy.dp.wording import terms
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.order import best_order
from yoriai.privacy.ledger.witness import second_place

LONG = "a-job-with-a-long-name-" + "x" * 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with two jobs of two mechanisms, one of them open, a raise, and a clock set back."""
    times = iter(range(10**9 + 60, 0, -1))
    place = tmp_path / "run" / "ledgers" / "north.sqlite"
    with open_ledger(place, clock=lambda: float(next(times)), fingerprint="a" * 64) as ledger:
        ledger.approve("first", EVENT, 2)
        charge(ledger, "first", 2)
        ledger.finish("first")
        ledger.raise_budget(9.0, "agreed \x1b[31mon 3 March")
        ledger.approve(LONG, OTHER, 3)
        ledger.reserve(LONG, 0, OTHER)
    return place


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["yoriai", "site", "budget", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "80")
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _shown(path: Path, width: int = 80) -> str:
    console = Console(width=width)
    with Ledger.existing(path) as ledger, console.capture() as captured:
        print_budget(view_of(ledger, path), console)
    return captured.get()


def test_json_names_policy_sums_plans_and_every_charge(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "--ledger", path, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["ledgers"]
    order = found["further_jobs"]["order"]
    spent = epsilon_at_order([(EVENT, 2), OTHER], DELTA, order)
    assert found["further_jobs"] == {
        "possible": True,
        "order": best_order(8.0, DELTA, EVENT),
        "first_plan_epsilon": epsilon_at_order([(EVENT, 2)], DELTA, order),
    }
    assert (found["dataset"], found["unit"], found["epsilon_budget"], found["delta"]) == ("north", "record", 9.0, DELTA)
    assert (found["spent"], found["accountant"], found["adjacency"]) == (spent, "rdp", "add_or_remove_one")
    assert found["spent"] + found["held"] + found["left"] == pytest.approx(9.0)
    assert found["held"] == pytest.approx(epsilon_at_order([(EVENT, 2), (OTHER, 3)], DELTA, order) - spent)
    assert [(c["job"], c["round"], c["released"]) for c in found["charges"]] == [
        ("first", 1, True),
        ("first", 2, True),
        (LONG, 1, False),
    ]
    assert [c["epsilon"] for c in found["charges"]] == [
        epsilon([EVENT], DELTA),
        epsilon([(EVENT, 2)], DELTA),
        spent,
    ]
    assert found["charges"][2]["mechanism"] == {
        "kind": "sampled_gaussian",
        "sampling_rate": 0.2,
        "noise_multiplier": 2.0,
        "steps": 1,
    }
    assert [(p["job"], p["held"]) for p in found["plans"]] == [(LONG, 2)]
    assert found["plans"][0]["epsilon"] == pytest.approx(found["held"])
    assert found["plans"][0]["fit"] > 2
    assert [p["epsilon_budget"] for p in found["policies"]] == [8.0, 9.0]
    assert found["rows_set_back"] == list(range(2, found["rows"] + 1))


def test_terminal_shows_sums_and_charges_within_80_columns(path: Path) -> None:
    shown = _shown(path)
    flat = " ".join(shown.split())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    order = best_order(8.0, DELTA, EVENT)
    spent = epsilon_at_order([(EVENT, 2), OTHER], DELTA, order)
    for expected in (
        "data set north",
        "epsilon 9 at delta 1e-05",
        f"{spent:.4f}",
        "Rényi filter",
        terms("record", f"RDP at order {order}"),
        "What is proved is the budget",
        "possible under this budget: at order",
        "sampled Gaussian, rate 0.1",
        "The clock was set back",
    ):
        assert expected in flat, expected
    assert "\x1b" not in shown


def test_each_open_run_is_shown_with_what_it_holds_and_since_when_it_was_first_promised(tmp_path: Path) -> None:
    day, path = 86_400.0, tmp_path / "ledger.sqlite"
    now = [20_000 * day]
    with open_ledger(path, epsilon_budget=20.0, clock=lambda: now[0]) as ledger:
        for run, rounds in (("old", 3), ("new", 2), ("old", 4)):
            ledger.approve(run, EVENT, rounds)
            now[0] += day
        view = view_of(ledger, path)
        assert [(plan.job, plan.held, plan.since) for plan in view.plans] == [
            ("old", 4, 20_000 * day),
            ("new", 2, 20_001 * day),
        ]
        for plan in view.plans:
            before = ledger.promised()
            ledger.finish(plan.job)
            assert before - ledger.promised() == pytest.approx(plan.epsilon)
            ledger.approve(plan.job, EVENT, plan.held)
        assert ledger.open_since() == {"old": now[0], "new": now[0]}  # Who was given up and comes back begins anew.
    shown = " ".join(_shown(path).split())
    assert "2024-10-07" in shown
    assert "yoriai site release DIR RUN" in shown


def test_a_ledger_that_its_first_job_closed_says_so_and_why(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path, epsilon_budget=5.2, unit="owner") as ledger:
        assert "further jobs possible: the first charge will fix" in " ".join(_shown(path).split())
        ledger.approve("job", EVENT, 22)
        ledger.reserve("job", 0, EVENT)
        needs = ledger.further_jobs().first_plan_epsilon
    flat = " ".join(_shown(path).split())
    assert "further jobs not possible under this budget, because at order" in flat
    assert f"whole plan needs {needs:.4f} of 5.2 (per owner (add or remove one owner), by RDP); a raise opens" in flat
    assert f"epsilon {terms('owner', 'pld')} further" in flat
    assert "Beyond the first job's plan" not in flat


def test_a_history_valued_by_rdp_at_the_policys_wish_is_not_called_filtered(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path, accountant="rdp") as ledger:
        ledger.approve("job", EVENT, 1)
        ledger.reserve("job", 0, EVENT)
    flat = " ".join(_shown(path).split())
    assert f"epsilon {terms('record', 'rdp')} further" in flat
    assert "Beyond the first job's plan" not in flat


def test_a_job_is_named_once_for_all_of_its_rounds(path: Path) -> None:
    assert _shown(path, 200).count("sampled Gaussian, rate 0.1, noise 1, 2 steps") == 1


def test_a_run_shows_the_ledgers_of_all_sites(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_ledger(path.with_name("south.sqlite"), dataset="south").close()
    assert _run(monkeypatch, "--run", path.parents[1]) == 0
    shown = capsys.readouterr().out
    assert "data set north" in shown
    assert "data set south" in shown
    assert "no charges yet" in shown


def test_a_sites_folder_stands_for_the_ledger_of_its_records_and_its_second_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_site(tmp_path / "north", SiteConfig(name="north"))
    witness = second_place(folder.path / "witness" / "records.sqlite")
    with open_ledger(folder.ledgers / "records.sqlite", dataset="records", witness=witness) as ledger:
        charge(ledger, "first", 1)
    assert _run(monkeypatch, folder.path, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["ledgers"]
    assert (found["dataset"], len(found["charges"])) == ("records", 1)
    witness.unlink()
    assert _run(monkeypatch, folder.path) == EXIT_BAD_INPUT
    assert "its second place is gone" in capsys.readouterr().err


def test_looking_writes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert _run(monkeypatch, "--ledger", path) == 0
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_raise_from_the_command_line_is_recorded_and_shown(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "--ledger", path, "--raise-to", "12.5", "--reason", "minutes 12/24", "--yes") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the operator raised the budget to epsilon 12.5 at delta 1e-05: minutes 12/24" in shown


@pytest.mark.parametrize(("answer", "budgets"), [("n\n", [8.0, 9.0]), ("y\n", [8.0, 9.0, 12.5])])
def test_a_raise_asks_before_it_raises(path: Path, answer: str, budgets: list[float]) -> None:
    raised = ("--raise-to", "12.5", "--reason", "minutes 12/24")
    done = yoriai("site", "budget", "--ledger", path, *raised, answers=answer)
    assert "from epsilon 9 to 12.5" in " ".join(done.screen.split())
    with Ledger.existing(path) as ledger:
        assert [change.policy.epsilon_budget for change in ledger.policies()] == budgets


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "one site, one ledger or one run"),
        (("--ledger", "LEDGER", "--run", "RUN"), "one site, one ledger or one run"),
        (("--ledger", "nowhere.sqlite"), "there is no ledger"),
        (("--run", "nowhere"), "holds no ledgers"),
        (("--run", "RUN", "--raise-to", "12"), "is of one ledger"),
        (("--run", "RUN", "--witness", "HEAD"), "is of one ledger"),
        (("nowhere",), "is not the folder of a site"),
        (("--ledger", "LEDGER", "--raise-to", "12"), "needs a reason"),
        (("--ledger", "LEDGER", "--raise-to", "3", "--reason", "x"), "no raise"),
        (("--ledger", "LEDGER", "--reason", "x"), "goes with --raise-to"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    places = {"LEDGER": str(path), "RUN": str(path.parents[1])}
    assert _run(monkeypatch, *(places.get(text, text) for text in arguments)) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_a_tampered_ledger_is_named_with_its_row(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.privacy.ledgers import tamper

    tamper(path, "UPDATE entries SET body = replace(body, '\"steps\":2', '\"steps\":1')")
    assert _run(monkeypatch, "--ledger", path) == EXIT_BAD_INPUT
    assert "ledger north.sqlite, row 4: it was changed" in capsys.readouterr().err


def test_one_step_is_one_step() -> None:
    assert mechanism_text(OTHER) == "sampled Gaussian, rate 0.2, noise 2, 1 step"
    shared = SampledSkellam(0.25, variance=900, squared_l2=400, l1=100, coordinates=64, draws=4)
    assert mechanism_text(shared) == "sampled Skellam, rate 0.25, noise 1.5, of 4 sites together, 1 step"
