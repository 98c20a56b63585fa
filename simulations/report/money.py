"""What a change in right answers is worth a month: errors, hours, money, months to pay back, with every formula. Pure.

Everything is linear in the change of the share of right answers, so the paired 95 % interval of that change is carried
through the formulas end by end; of the figures of [kpi] no uncertainty is known, and none is added. Where the interval
holds zero nothing is claimed.

    errors avoided a month   E = tasks_per_month · change
    hours saved a month      H = E · task_seconds / 3600           a task answered right is not done by hand
    money a month            M = E · error_cost + H · wage
    cost of training         C = seconds of training / 3600 · machine_hour_price
    months to pay back       C / M
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from yoriai.config import KpiSection
from yoriai.simulations.report.metrics import main_metric
from yoriai.simulations.report.report import Change, Report

# Parts of a run's time that a job in earnest would take too; evaluation and comparisons are the simulation's own.
_TRAINING: Final = ("load", "train", "account")
# The name of the other model: what the federation is compared with.
BASELINES: Final = ("base", "local")


@dataclass(frozen=True)
class Formula:
    """How a figure was reckoned: a sentence of `phrases.py`, and the given figures that it holds."""

    key: str
    given: Mapping[str, str]


@dataclass(frozen=True)
class Figure:
    """A figure a month with its 95 % interval, and how it was reckoned."""

    value: float
    low: float
    high: float
    formula: Formula


@dataclass(frozen=True)
class Money:
    """What the federated adapter is worth against another model.

    Attributes:
        against: `base`, or each site alone (`local`).
        shown: whether the interval of the change in right answers leaves out zero; nothing may be claimed otherwise.
        change: in the share of right answers.
        training_cost: None where no price of a machine's hour is given.
        payback_months: None unless a saving is shown, and a price given.
    """

    against: str
    shown: bool
    currency: str
    change: Change
    errors: Figure
    hours: Figure
    money: Figure
    training_cost: float | None
    training_formula: Formula
    payback_months: Figure | None


def kpi_of(report: Report) -> KpiSection | None:
    """The job's figures; None where it has too few to reckon with."""
    try:
        found = KpiSection.model_validate(report.job.get("kpi", {}))
    except ValidationError:  # Of a later version.
        return None
    return found if found.is_given else None


def money_of(report: Report, kpi: KpiSection | None = None) -> tuple[Money, ...]:
    """Against the base, and each site alone where that was measured; none without [kpi] or without an interval.

    Args:
        kpi: instead of the job's own.
    """
    kpi, metric = kpi or kpi_of(report), main_metric(report)
    if kpi is None or not kpi.is_given:
        return ()
    found = []
    for name in BASELINES:
        compared = report.against.get(name)
        change = None if compared is None or not metric.is_share else compared.changes.get(metric.key)
        if change is not None:
            found.append(_money(name, change, kpi, training_seconds(report)))
    return tuple(found)


def training_seconds(report: Report) -> float:
    """Seconds of wall time on the machine that played all sites: loading, training, accounting; else the whole run."""
    parts = [report.seconds[name] for name in _TRAINING if name in report.seconds]
    return sum(parts) if "train" in report.seconds else report.seconds["total"]


def _money(name: str, change: Change, kpi: KpiSection, seconds: float) -> Money:
    """Every figure of one comparison."""
    per_month, hours_each = kpi.tasks_per_month, kpi.task_seconds / 3600
    points = f"{100 * change.change:.1f} %".replace("-", "−")
    errors = Formula("formula_errors", {"tasks": f"{per_month:g}", "points": points})
    hours = Formula("formula_hours", {"seconds": f"{kpi.task_seconds:g}"})
    given = {"cost": f"{kpi.error_cost:g}", "wage": f"{kpi.wage:g}", "currency": kpi.currency}
    price = {"seconds": f"{seconds:.0f}", "price": f"{kpi.machine_hour_price or 0:g}", "currency": kpi.currency}
    money = _scaled(change, per_month * (kpi.error_cost + hours_each * kpi.wage), Formula("formula_money", given))
    cost = seconds / 3600 * kpi.machine_hour_price if kpi.machine_hour_price else None
    shown = not change.low <= 0 <= change.high
    return Money(
        against=name,
        shown=shown,
        currency=kpi.currency,
        change=change,
        errors=_scaled(change, per_month, errors),
        hours=_scaled(change, per_month * hours_each, hours),
        money=money,
        training_cost=cost,
        training_formula=Formula("formula_training", price),
        payback_months=_payback(cost, money) if shown and change.low > 0 else None,
    )


def _scaled(change: Change, factor: float, formula: Formula) -> Figure:
    return Figure(change.change * factor, change.low * factor, change.high * factor, formula)


def _payback(cost: float | None, money: Figure) -> Figure | None:
    if cost is None or money.low <= 0:
        return None
    return Figure(cost / money.value, cost / money.high, cost / money.low, Formula("formula_months", {}))
