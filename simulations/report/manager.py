"""The report's first page: what a manager decides by, in three languages. Pure.

The decision follows from what is shown (`claims.py`) by one rule, in this order:

    unmeasured     the run stopped before its model was measured
    compare_only   no noise was added
    stop           over all sites it is shown to be worse
    wait           over all sites nothing is shown
    go_some        it is shown to be better, and at some sites to be worse
    go             it is shown to be better, and nowhere worse
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from yoriai.privacy.dp.wording import accountant_name, epsilon_text
from yoriai.simulations.report.claims import against_verdict, below_majority, overall_verdict, site_verdict
from yoriai.simulations.report.metrics import Metric, main_metric, never_exact
from yoriai.simulations.report.money import Figure, Formula, Money, money_of
from yoriai.simulations.report.phrases import phrases
from yoriai.simulations.report.report import Report

_FEW_TESTS: Final = 30
_WEAK_EPSILON: Final = 8.0
_A_DAY: Final = 1 / 31  # In months.
_SMALL: Final = 0.1  # Of a change of a share, below which whole points round too much away.
_THIN: Final = "\u202f"  # Between thousands: a comma is a decimal point in Spanish.


@dataclass(frozen=True)
class ManagerPage:
    """Texts of the first page, in one language.

    Attributes:
        key: of the decision.
        figure, figure_text: the one figure, and what it is.
        formulas: how money was reckoned.
    """

    language: str
    words: Mapping[str, str]
    key: str
    decision: str
    figure: str
    figure_text: str
    interval: str
    money: tuple[str, ...]
    formulas: tuple[str, ...]
    privacy: str
    risks: tuple[str, ...]


def manager_page(report: Report, language: str = "en") -> ManagerPage:
    """The page of a report. Raises ConfigError for a language that is not there."""
    words, metric = phrases(language), main_metric(report)
    key, sites = decide(report, metric)
    figure, figure_text = _figure(report, metric, words)
    found = money_of(report)
    return ManagerPage(
        language=language,
        words=words,
        key=key,
        decision=words[key].format(sites=", ".join(sites)),
        figure=figure,
        figure_text=figure_text,
        interval=_interval(report, metric, words),
        money=_money(found, words),
        formulas=_formulas(found, words),
        privacy=_privacy(report, words),
        risks=_risks(report, metric, words),
    )


def decide(report: Report, metric: Metric) -> tuple[str, tuple[str, ...]]:
    """The decision's key, and the sites that are left out."""
    if metric.of(report.overall.get("federated")) is None:
        return "unmeasured", ()
    if report.privacy.noise == "none":
        return "compare_only", ()
    outcome = overall_verdict(report, metric)
    if outcome != "gain":
        return ("stop" if outcome == "loss" else "wait"), ()
    worse = tuple(site.name for site in report.sites if site_verdict(site, metric) == "loss")
    return ("go_some" if worse else "go"), worse


def _figure(report: Report, metric: Metric, words: Mapping[str, str]) -> tuple[str, str]:
    before, after = metric.of(report.overall["base"]), metric.of(report.overall.get("federated"))
    if before is None or after is None:
        return "–", ""
    scale, digits = (100, 0) if metric.is_share else (1, metric.digits)
    before_text, after_text = f"{scale * before:.{digits}f}", f"{scale * after:.{digits}f}"
    key = "figure_share" if metric.is_share else "figure_bits"
    return after_text, words[key].format(measure=metric.label, range=_range(report, metric, words), before=before_text)


def _range(report: Report, metric: Metric, words: Mapping[str, str]) -> str:
    """Of the one figure; empty for a measure that has none by itself."""
    interval = metric.interval_of(report.overall.get("federated"))
    if interval is None:
        return ""
    low, high = (f"{100 * end:.0f}" for end in interval)
    return words["range"].format(low=low, high=high)


def _interval(report: Report, metric: Metric, words: Mapping[str, str]) -> str:
    score = report.overall.get("federated")
    if score is None:
        return ""
    counts = {"records": score.records, "sites": len(report.sites)}
    compared = report.against.get("base")
    change = None if compared is None else compared.changes.get(metric.key)
    if change is None:
        return words["no_interval"].format(**counts)
    scale, digits = (100, 0) if metric.is_share else (1, metric.digits)
    if scale == 100 and abs(change.change) < _SMALL:  # From 47 to 45 is a change of -1.5, not of -1.
        digits = 1
    ends = {name: _signed(scale * getattr(change, name), digits) for name in ("change", "low", "high")}
    return words["interval"].format(**ends, **counts)


def _money(found: tuple[Money, ...], words: Mapping[str, str]) -> tuple[str, ...]:
    if not found:
        return (words["no_money"],)
    lines = []
    for one in found:
        key = "money_open" if not one.shown else "money_shown" if one.money.low > 0 else "money_loss"
        lines.append(
            words[key].format(
                other=words[one.against],
                currency=one.currency,
                errors=_span(one.errors),
                hours=_span(one.hours),
                **_ends(one.money),
            )
        )
    first = found[0]
    if first.training_cost is not None:
        cost = {"cost": _amount(first.training_cost), "currency": first.currency}
        back = first.payback_months
        if back is None:
            lines.append(words["training_only"].format(**cost))
        elif back.high < _A_DAY:
            lines.append(words["training_soon"].format(**cost))
        else:
            ends = _ends(back)
            lines.append(words["training"].format(months=ends.pop("value"), **ends, **cost))
    return tuple(lines)


def _formulas(found: tuple[Money, ...], words: Mapping[str, str]) -> tuple[str, ...]:
    """A line a figure; training and its return are of the first comparison alone."""
    lines = []
    for one in found:
        for figure in (one.errors, one.hours, one.money):
            formula = _formula(figure.formula, words)
            lines.append(words["formula_of"].format(other=words[one.against], formula=formula, result=_span(figure)))
    for one in found[:1]:
        if one.training_cost is not None:
            lines.append(_formula(one.training_formula, words, result=_amount(one.training_cost)))
        if one.payback_months is not None:
            lines.append(_formula(one.payback_months.formula, words, result=_span(one.payback_months)))
    return tuple(lines)


def _formula(formula: Formula, words: Mapping[str, str], **more: str) -> str:
    return words[formula.key].format(**formula.given, **more)


def _privacy(report: Report, words: Mapping[str, str]) -> str:
    spent = report.epsilon_spent
    if spent is None:
        return words["open"]
    delta = f"{report.privacy.delta or 0.0:g}"
    told = words[f"per_{report.privacy.unit}"].format(accountant=accountant_name(report.privacy.accountant or ""))
    unit = words[report.privacy.unit]
    return words["private"].format(unit=unit, epsilon=epsilon_text(spent), delta=delta, terms=told)


def _risks(report: Report, metric: Metric, words: Mapping[str, str]) -> tuple[str, ...]:
    """What a manager should know before saying yes; the most telling first."""
    risks, after = [], metric.of(report.overall.get("federated"))
    if after is not None and metric.is_share:
        risks.append(words["risk_wrong"].format(wrong=f"{100 * (1 - after):.0f}"))
    if never_exact(report):
        risks.append(words["risk_never_exact"])
    for training, key in (("local", "risk_alone"), ("naive_bayes_private", "risk_words")):
        if training in report.overall and after is not None and against_verdict(report, metric, training) != "gain":
            risks.append(words[key])
    if below := below_majority(report):
        risks.append(words["risk_common"].format(sites=", ".join(below)))
    if small := [site.name for site in report.sites if site.test_records < _FEW_TESTS]:
        risks.append(words["risk_small"].format(sites=", ".join(small)))
    if not report.privacy.secure_aggregation:
        risks.append(words["risk_masks"])
    if report.epsilon_spent is not None and report.epsilon_spent > _WEAK_EPSILON:
        risks.append(words["risk_epsilon"].format(epsilon=epsilon_text(report.epsilon_spent)))
    return (*risks, words["risk_simulated"])


def _ends(figure: Figure) -> dict[str, str]:
    return {name: _amount(getattr(figure, name)) for name in ("value", "low", "high")}


def _span(figure: Figure) -> str:
    ends = _ends(figure)
    return f"{ends['value']} [{ends['low']}, {ends['high']}]"


def _amount(value: float) -> str:
    """Whole above a hundred, else two digits that count; what is next to nothing is said to be below 0.01."""
    if 0 < abs(value) < 0.01:
        return "<0.01" if value > 0 else ">−0.01"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
    return text.replace("-", "−").replace(",", _THIN)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
