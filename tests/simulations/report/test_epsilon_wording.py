"""Wherever an epsilon is shown, the unit, its neighbours and the accountant stand beside it."""

import io
import math
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.simulations.report_fixture import changed, example_report, personal_report
from tests.world import job_settings, write_records
from yoriai.cli import command
from yoriai.config import JobConfig, PolicySection
from yoriai.config.models import PersonalSection, PrivacySection
from yoriai.errors import ConfigError, RecordError
from yoriai.privacy.dp.wording import adjacency, epsilon_text, per_unit, terms
from yoriai.simulations.bench.rules import tables
from yoriai.simulations.check.job_check import check, print_check
from yoriai.simulations.experiment.experiment import DataSource, resolve
from yoriai.simulations.report.figures import draw
from yoriai.simulations.report.html import meanings, price_text, render_html
from yoriai.simulations.report.metrics import main_metric
from yoriai.simulations.report.report import Report
from yoriai.simulations.report.table import print_report
from yoriai.simulations.run.api import simulate

SHOWN = re.compile(r"(ε|&epsilon;|epsilon)( =| spent reaches)? ?\d")


def by_owner(report: Report, accountant: str = "prv") -> Report:
    """The same report of a job that protects owners."""
    more = {"unit": "owner", "adjacency": adjacency("owner"), "accountant": accountant}
    return changed(report, privacy=report.privacy.model_copy(update=more))


REPORTS = {
    "per record (add or remove one record), by PLD": example_report(),
    "per owner (add or remove one owner), by PRV": by_owner(example_report()),
    "per owner (add or remove one owner), by RDP": by_owner(personal_report(), "rdp"),
}


def screen(report: Report) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=100, no_color=True))
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("epsilon", "places", "text"),
    [
        (None, 2, "none"),
        (0.0, 2, "0.00"),
        (6.054, 2, "6.05"),
        (6.0541, 4, "6.0541"),
        (0.1, 2, "0.10"),
        (0.0049, 2, "0.0049"),
        (0.001234, 2, "0.0012"),
        (1.26e-9, 2, "1.3e-9"),
        (1.26e-12, 4, "1.26e-12"),
        (math.inf, 2, "inf"),
    ],
)
def test_an_epsilon_is_shown_in_decimals_and_a_small_one_in_significant_digits(
    epsilon: float | None, places: int, text: str
) -> None:
    assert epsilon_text(epsilon, places) == text


def test_no_text_shows_a_small_epsilon_as_none_at_all() -> None:
    report = example_report()
    small = changed(
        report,
        sites=[site.model_copy(update={"epsilon": 0.00123}) for site in report.sites],
        rounds=[one.model_copy(update={"epsilon": 0.00123 * one.round / len(report.rounds)}) for one in report.rounds],
    )
    figure = next(one for one in draw(small) if one.key == "epsilon")
    for shown in (render_html(small, ()), price_text(small), screen(small), figure.alt):
        assert "0.0012" in shown
        assert not re.search(r"(ε|&epsilon;|epsilon)( =)? ?0\.00\b", shown)


def test_no_other_code_formats_an_epsilon_that_was_worked_out() -> None:
    """What is shown with `:g` is a setting."""
    own = re.compile(r"\{[^{}]*(epsilon|spent|promised|budget\.left)[^{}]*:\.\d[fg]\}|\.\d[fg]\W+format\([^)]*epsilon")
    root, folders = Path(__file__).parents[3], ("client", "privacy", "server", "simulations", "strategies", "yoriai")
    places = [path for folder in folders for path in (root / folder).rglob("*") if path.suffix in (".py", ".j2")]
    assert not [path.name for path in places if own.search(path.read_text())]


@pytest.mark.parametrize("told", REPORTS)
def test_every_text_that_shows_an_epsilon_tells_unit_neighbours_and_accountant(told: str) -> None:
    report = REPORTS[told]
    page = render_html(report, ())
    sections = [part for part in re.split(r"<h2>|<section", page) if not part.startswith("The job</h2>")]  # Settings.
    shown = [section for section in sections if SHOWN.search(section) or "&epsilon; spent" in section]
    assert len(shown) >= 4  # The price, the card, the table by site, the guarantee.
    figure = next(one for one in draw(report) if one.key == "epsilon")
    for text in (*shown, price_text(report), screen(report), figure.alt):
        assert told in text, text[:200]


def test_an_epsilon_of_several_trainings_has_its_own_accountant_beside_it() -> None:
    told = "per record (add or remove one record), by RDP"
    report = personal_report()
    assert f"Together with a site's own adapter: ε = 8.61 {told}." in price_text(report)
    assert f"together, {told}" in render_html(report, ())
    assert "epsilon per record (add or remove one record), by PLD; of both, by RDP" in screen(report)


def test_a_report_of_owners_speaks_of_owners() -> None:
    report = by_owner(example_report())
    told = " ".join(meanings(report, main_metric(report)))
    assert "how much one owner, added or removed, can change" in told
    assert "covers one owner with all of their training records at one site" in told
    assert "where several sites hold the same owner" in told
    assert "per record" not in price_text(report) + screen(report) + render_html(report, ())


def test_without_privacy_no_epsilon_is_explained() -> None:
    assert "add or remove" not in screen(example_report(noise=False))


@pytest.mark.parametrize(
    ("section", "key"), [(PrivacySection, "epsilon"), (PersonalSection, "epsilon"), (PolicySection, "epsilon_budget")]
)
def test_settings_that_are_epsilons_say_what_is_added_or_removed(section: type[PrivacySection], key: str) -> None:
    description = section.model_fields[key].description or ""
    assert "added or removed" in " ".join(description.split())
    assert "record" in description
    assert "owner" in description


@pytest.mark.parametrize("words", [["simulate", "--help"], ["job", "check", "--help"]])
def test_the_help_of_epsilon_says_what_is_added_or_removed(words: list[str]) -> None:
    said = CliRunner().invoke(command(), words, env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "one record or owner added or removed" in " ".join(said.replace("│", " ").split())


def test_the_bench_of_rules_says_that_its_search_is_not_covered() -> None:
    said = CliRunner().invoke(command(), ["bench", "rules", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "The search for settings looks at private records and is charged to nobody" in " ".join(said.split())
    assert terms("record", "pld") in tables.NOT_COVERED
    assert "The search for settings is not covered" in tables.NOT_COVERED


def test_the_report_says_that_settings_chosen_by_looking_are_not_covered() -> None:
    assert "settings chosen by looking at these records" in render_html(example_report(), ())


@pytest.fixture
def owned_sites(tmp_path: Path) -> Path:
    """Two sites whose records have owners: eight and six, of which two are at both."""
    folder = tmp_path / "owned"
    for site, size, owners in (("a", 24, range(8)), ("b", 18, range(6, 12))):
        records: list[dict[str, object]] = [
            {"prompt": f"pump {n % 5}", "response": ("leaks", "drips")[n % 2], "owner": owners[n % len(owners)]}
            for n in range(size)
        ]
        write_records(folder / site / "train.jsonl", records)
        write_records(folder / site / "test.jsonl", [{k: v for k, v in r.items() if k != "owner"} for r in records[:6]])
    return folder


PER_OWNER = {"privacy.unit": "owner", "training.records_per_weight": 2, "federation.rounds": 2}


def test_job_check_speaks_of_owners(base: Path, owned_sites: Path) -> None:
    found = check(JobConfig(name="tiny"), DataSource(owned_sites), job_settings(base) | PER_OWNER)
    out = io.StringIO()
    print_check(found, Console(file=out, width=80))
    flat = " ".join(out.getvalue().split())
    assert f"at delta 1e-05, {terms('owner', 'pld')}" in flat
    assert (
        f"site train owners test weight cut epsilon delta median 90 % longest a 24 8 6 4 0 {found.epsilon:.3f}" in flat
    )
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())


def test_a_run_that_protects_owners_is_weighted_charged_and_reported_by_owners(
    base: Path, owned_sites: Path, tmp_path: Path
) -> None:
    report = simulate(data=owned_sites, settings=job_settings(base) | PER_OWNER, out=tmp_path / "run")
    assert (report.privacy.unit, report.privacy.adjacency) == ("owner", "add or remove one owner")
    assert {site.name: (site.owners, site.weight) for site in report.sites} == {"a": (8, 4), "b": (6, 3)}
    assert per_unit("owner") in price_text(report)
    (note,) = (note for note in report.notes if "Owners are protected" in note)
    assert note.endswith("Here 2 of 12 owners have training records at more than one.")


def test_training_records_without_an_owner_stop_a_run_and_name_their_site(owned_sites: Path) -> None:
    (owned_sites / "b" / "train.jsonl").write_text('{"prompt": "pump", "response": "leaks"}\n' * 9)
    with pytest.raises(RecordError, match=r"site b: .*train.jsonl line 1: no owner, as in 8 other records"):
        resolve(JobConfig(name="tiny"), DataSource(owned_sites), {"privacy.unit": "owner"})
    resolve(JobConfig(name="tiny"), DataSource(owned_sites))


def test_delta_is_held_against_the_owners_of_a_simulated_site(owned_sites: Path) -> None:
    """Above 1/24 and below 1/8: too much for single records, and not for owners."""
    job = JobConfig(name="tiny")
    with pytest.raises(ConfigError, match=r"1 / \(training records of site a\)"):
        resolve(job, DataSource(owned_sites), {"privacy.delta": 0.1})
    resolve(job, DataSource(owned_sites), {"privacy.delta": 0.1, "privacy.unit": "owner"})
    with pytest.raises(ConfigError, match=r"1 / \(owners of training records of site a\)"):
        resolve(job, DataSource(owned_sites), {"privacy.delta": 0.125, "privacy.unit": "owner"})
