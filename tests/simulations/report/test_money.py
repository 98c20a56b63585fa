"""Money from a change in right answers: reckoned by hand, and not claimed where the change is not shown."""

import pytest

from tests.simulations.report_fixture import example_report, language_model_report
from yoriai.config import KpiSection, job_digest, job_template, job_to_toml, override, parse_job
from yoriai.errors import ConfigError
from yoriai.simulations.report.money import Formula, kpi_of, money_of, training_seconds
from yoriai.simulations.report.phrases import LANGUAGES, phrases
from yoriai.simulations.report.report import Change, Compared, Report

KPI = KpiSection(tasks_per_month=1000, task_seconds=90, error_cost=12, wage=40, machine_hour_price=3.6, currency="JPY")
JOB = parse_job('schema = 1\nname = "j"\n')


def _report(low: float, high: float, **kpi: object) -> Report:
    change = Change(change=(low + high) / 2, low=low, high=high)
    job = example_report().job | ({"kpi": kpi} if kpi else {})
    compared = {"base": Compared(changes={"accuracy": change})}
    return example_report().model_copy(update={"against": compared, "job": job})


def test_every_figure_is_the_one_reckoned_by_hand() -> None:
    """0.2 more right of 1,000: 200 errors; 200 · 90 s = 5 h; 200 · 12 + 5 · 40 = 2,600; ends at 0.1 and 0.3."""
    (found,) = money_of(_report(0.1, 0.3), KPI)
    assert found.shown
    assert (found.errors.value, found.errors.low, found.errors.high) == pytest.approx((200, 100, 300))
    assert (found.hours.value, found.hours.low, found.hours.high) == pytest.approx((5, 2.5, 7.5))
    assert (found.money.value, found.money.low, found.money.high) == pytest.approx((2600, 1300, 3900))


def test_the_cost_of_training_is_of_measured_seconds_without_evaluation_and_comparisons() -> None:
    report = _report(0.1, 0.3)
    assert training_seconds(report) == pytest.approx(4.6 + 236.2)
    (found,) = money_of(report, KPI)
    assert found.training_cost == pytest.approx((4.6 + 236.2) / 1000)
    assert found.payback_months is not None
    assert found.payback_months.value == pytest.approx(0.2408 / 2600)
    assert (found.payback_months.low, found.payback_months.high) == pytest.approx((0.2408 / 3900, 0.2408 / 1300))


@pytest.mark.parametrize(("low", "high", "shown"), [(-0.1, 0.3, False), (0.0, 0.3, False), (-0.3, -0.1, True)])
def test_an_interval_with_zero_in_it_shows_nothing_and_only_a_saving_pays_back(
    low: float, high: float, shown: bool
) -> None:
    (found,) = money_of(_report(low, high), KPI)
    assert found.shown is shown
    assert found.payback_months is None


def test_without_figures_an_interval_or_a_share_there_is_no_money() -> None:
    assert money_of(_report(0.1, 0.3)) == ()
    assert money_of(example_report(), KPI) == ()
    assert money_of(language_model_report(), KPI) == ()
    assert money_of(_report(0.1, 0.3), KpiSection(tasks_per_month=1000)) == ()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_formula_names_the_figures_that_it_uses(language: str) -> None:
    (found,) = money_of(_report(0.1, 0.3), KPI)
    words = phrases(language)

    def said(formula: Formula) -> str:
        return words[formula.key].format(**formula.given, result="")

    assert "1000" in said(found.errors.formula)
    assert "20.0 %" in said(found.errors.formula)
    assert "90" in said(found.hours.formula)
    assert "12" in said(found.money.formula)
    assert "40 JPY" in said(found.money.formula)
    assert "3.6 JPY" in said(found.training_formula)


def test_the_jobs_own_figures_are_taken() -> None:
    report = _report(0.1, 0.3, tasks_per_month=10.0, error_cost=2.0)
    assert kpi_of(report) == KpiSection(tasks_per_month=10.0, error_cost=2.0)
    assert money_of(report)[0].money.value == pytest.approx(4)


def test_kpi_stands_in_the_job_file_and_bears_on_no_digest() -> None:
    job = override(JOB, {"kpi.tasks_per_month": 100.0, "kpi.error_cost": 3.0})
    assert parse_job(job_to_toml(job)) == job
    assert job_digest(job, "0" * 64) == job_digest(JOB, "0" * 64)
    assert "kpi" not in JOB.model_dump()  # So stored jobs of before keep their text.
    assert parse_job(job_template().replace("#name", "name")).kpi == KpiSection()


def test_a_wrong_figure_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"kpi\.wage"):
        override(JOB, {"kpi.wage": -1.0})
