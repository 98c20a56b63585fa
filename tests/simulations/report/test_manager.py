"""The report's first page: its decision, its figures, three languages; and the whole page in a real browser."""

import re
import string
from pathlib import Path

import pytest

from tests.commands import yoriai
from tests.simulations.browser import in_browser, opened, sheets
from tests.simulations.report_fixture import ALL_KINDS, KIND_NAMES, changed, example_report, interrupted_report
from yoriai.errors import ConfigError
from yoriai.privacy.dp.wording import terms
from yoriai.simulations.report.file import write_report
from yoriai.simulations.report.manager import decide, manager_page
from yoriai.simulations.report.metrics import main_metric
from yoriai.simulations.report.phrases import LANGUAGES, phrases
from yoriai.simulations.report.report import Change, Compared, Paired, Report

KPI = {"tasks_per_month": 1000.0, "task_seconds": 90.0, "error_cost": 12.0, "wage": 40.0, "machine_hour_price": 3.0}


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def _reckoned(low: float = 0.2, high: float = 0.4) -> Report:
    """The example with figures in money, shown against the base and open against each site alone."""
    report = example_report()
    gain, none = Change(change=(low + high) / 2, low=low, high=high), Change(change=0.05, low=-0.01, high=0.1)
    against = {
        "base": Compared(paired=Paired(gained=158, lost=29), changes={"accuracy": gain}),
        "local": Compared(paired=Paired(gained=60, lost=50), changes={"accuracy": none}),
    }
    return report.model_copy(update={"job": report.job | {"kpi": KPI}, "against": against})


def _decided(report: Report) -> str:
    return decide(report, main_metric(report))[0]


def test_every_language_says_the_same_things() -> None:
    english = phrases("en")
    for language in LANGUAGES:
        other = phrases(language)
        assert other.keys() == english.keys()
        missing = {key for key in english if _places(other[key]) - _places(english[key])}
        assert not missing
        figures = {"value", "low", "high", "epsilon", "delta", "before", "cost", "months", "wrong"}
        assert all(_places(other[key]) & figures == _places(english[key]) & figures for key in english)


def test_another_language_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="en, ja, es"):
        phrases("fr")


def test_a_gain_that_is_shown_and_nowhere_a_loss_goes_on() -> None:
    assert _decided(example_report()) == "go"


def test_a_site_that_is_shown_to_lose_is_left_out() -> None:
    sites = [site.model_dump(by_alias=True) for site in example_report().sites]
    sites[1]["paired"] = {"gained": 0, "lost": 9}
    assert decide(changed(example_report(), sites=sites), main_metric(example_report())) == ("go_some", ("B",))


@pytest.mark.parametrize(("gained", "lost", "key"), [(9, 8, "wait"), (0, 9, "stop")])
def test_what_is_open_waits_and_a_loss_stops(gained: int, lost: int, key: str) -> None:
    assert _decided(changed(example_report(), paired={"gained": gained, "lost": lost})) == key


def test_without_privacy_or_a_measurement_nothing_goes_live() -> None:
    assert _decided(example_report(noise=False)) == "compare_only"
    assert _decided(interrupted_report()) == "unmeasured"


def test_money_stands_with_its_range_and_is_not_claimed_where_that_holds_zero() -> None:
    first, alone, training = manager_page(_reckoned()).money
    assert "3\u202f900 EUR a month (95 % range 2\u202f600 to 5\u202f200)" in first
    assert alone.startswith("Against each site alone no saving is shown")
    assert "is paid back" in training
    open_one = manager_page(_reckoned(-0.1, 0.4)).money
    assert open_one[0].startswith("Against the model before no saving is shown")
    assert "paid back" not in " ".join(open_one)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_figure_of_the_page_stands_with_its_range_and_no_english_in_another_language(language: str) -> None:
    page = manager_page(_reckoned(), language)
    shown = " ".join((page.figure_text, page.interval, *page.money, *page.formulas, page.privacy))
    assert "50" in page.figure_text and "60" in page.figure_text  # noqa: PT018 - both ends of one range.
    assert "300 [200, 400]" in page.money[0]
    assert "3\u202f900" in page.money[0]  # A comma would be a decimal point in Spanish.
    english = {"against", "record", "by", "money", "errors", "month", "training", "hour", "add"}
    assert language == "en" or not english & set(re.findall(r"[a-z]+", shown.lower()))


def test_a_small_change_has_a_decimal_so_that_it_is_no_other_than_the_difference_beside_it() -> None:
    assert "Change −1.5 (95 % range −9.6 to +6.6)" in manager_page(_reckoned(-0.096, 0.066), "en").interval
    assert "Change +30 (95 % range +20 to +40)" in manager_page(_reckoned(), "en").interval


def test_the_terms_of_epsilon_are_the_ones_that_are_told_everywhere() -> None:
    for unit in ("record", "owner"):
        assert phrases("en")[f"per_{unit}"].format(accountant="PLD") == terms(unit, "pld")


def test_what_is_paid_back_at_once_is_not_given_in_thousandths_of_a_month() -> None:
    assert any("within a day" in line for line in manager_page(_reckoned()).money)


def test_a_loss_is_called_one() -> None:
    assert "it costs" in manager_page(_reckoned(-0.4, -0.2)).money[0]


def test_what_could_go_wrong_names_what_is_known() -> None:
    risks = " ".join(manager_page(_reckoned()).risks)
    assert "45 of a hundred" in risks
    assert "not shown that training together beats each site alone" in risks
    assert "A: too few test records" in risks
    assert "Secure aggregation was off" in risks


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("report", ALL_KINDS, ids=KIND_NAMES)
def test_every_kind_of_report_has_a_first_page_in_every_language(report: Report, language: str) -> None:
    page = manager_page(report, language)
    texts = (page.decision, page.figure_text, page.interval, *page.money, page.privacy, *page.risks)
    assert not any(re.search(r"[{}]", text) for text in texts)


def test_the_command_writes_the_page_in_a_language(tmp_path: Path) -> None:
    write_report(_reckoned(), tmp_path)
    done = yoriai("report", tmp_path, "--language", "ja")
    assert done.code == 0
    assert "管理者の方へ" in (tmp_path / "report.html").read_text()
    assert yoriai("report", tmp_path, "--language", "xx").code == 2


# In a real browser -------------------------------------


@in_browser
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_prints_on_two_sheets(tmp_path: Path, language: str) -> None:
    write_report(_reckoned(), tmp_path, language)
    assert sheets(tmp_path / "report.html") == 2


@in_browser
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_browser_has_nothing_to_complain_of_and_shows_the_decision(tmp_path: Path, language: str) -> None:
    write_report(_reckoned(), tmp_path, language)
    shown, complaints = opened(tmp_path / "report.html")
    assert phrases(language)["go"] in shown
    assert complaints == []


@in_browser
def test_the_browser_complains_of_a_page_that_asks_for_something_outside(tmp_path: Path) -> None:
    """So the test above would see it: the page's own policy refuses, and says so on the console."""
    write_report(_reckoned(), tmp_path)
    page = tmp_path / "report.html"
    page.write_text(page.read_text().replace("</body>", '<img src="https://example.org/a.png"></body>'))
    _, complaints = opened(page)
    assert any("example.org" in line for line in complaints)
