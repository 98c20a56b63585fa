"""The report as one self-contained page for manager, engineer and data protection officer: no script, nothing fetched.

On paper it is two sheets: the manager's, and one with what was shown, the sites and the guarantee.

Every text from a run (site names, reasons, notes) is escaped by the template engine; the page's own policy forbids
scripts and outside resources as well, should one slip through.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import JsonValue

from yoriai.comparison import Verdict
from yoriai.privacy.dp.wording import accountant_name, epsilon_text, terms
from yoriai.simulations.report.claims import (
    CLAIM_KINDS,
    change_text,
    claims,
    metric_verdict,
    overall_verdict,
    site_verdict,
)
from yoriai.simulations.report.figures import Drawing, draw
from yoriai.simulations.report.manager import manager_page
from yoriai.simulations.report.metrics import LABELS, Metric, main_metric
from yoriai.simulations.report.report import PERSONAL, TRAININGS, Paired, Privacy, Report, Score
from yoriai.simulations.report.scores import score_rows, shown_metrics

PAGE_FILE = "report.html"


def page_files(report: Report, language: str = "en") -> list[tuple[str, bytes]]:
    """`report.html` and `figures/<key>.png`, each as (path relative to the run's folder, content)."""
    drawings = draw(report)
    page = render_html(report, drawings, language).encode()
    return [(PAGE_FILE, page), *((f"figures/{one.key}.png", one.png) for one in drawings)]


def render_html(report: Report, drawings: tuple[Drawing, ...], language: str = "en") -> str:
    """The page's text; the manager's part is in the language, the rest in English."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["size"] = size_text
    environment.filters["time"] = time_text
    environment.filters["small"] = small_text
    environment.filters["epsilon"] = epsilon_text
    template = (resources.files("yoriai.simulations") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    metric = main_metric(report)
    return environment.from_string(template).render(
        report=report,
        metric=metric,
        manager=manager_page(report, language),
        has_majority=metric.of(report.overall.get("majority")) is not None,
        has_counting="naive_bayes_own" in report.overall,
        has_intervals=metric.interval_of(report.overall["base"]) is not None,
        result=result_text(report),
        price=price_text(report),
        claims=[_split_claim(sentence) for sentence in claims(report)],
        drawings=drawings,
        rows=_rows(report, metric),
        personal=personal_rows(report, metric),
        comparisons=_comparisons(report, metric),
        metrics=shown_metrics(report),
        scores=score_rows(report),
        terms=terms(report.privacy.unit, report.privacy.accountant),
        terms_together=terms(report.privacy.unit, report.accountant_together),
        accountant=accountant_name(report.privacy.accountant or ""),
        refusals=[(one.round, refusal) for one in report.rounds for refusal in one.refused],
        meanings=meanings(report, metric),
        job=job_text(report.job),
    )


def headline(report: Report) -> str:
    """What happened and what it cost: two or three sentences."""
    return f"{result_text(report)} {price_text(report)}"


def result_text(report: Report) -> str:
    """The main measure before and after, beside the answer that needs no model."""
    metric, overall = main_metric(report), report.overall
    before, after = metric.of(overall["base"]), metric.of(overall.get("federated"))
    if before is None or after is None:
        return "The run stopped before its adapter was measured."
    majority = metric.of(overall.get("majority"))
    aside = "" if majority is None else f" (always giving the commonest label: {majority:.2f})"
    start = f"{metric.label[0].upper()}{metric.label[1:]} over {len(report.sites)} sites"
    shown = metric.text_of(overall["base"]), metric.text_of(overall.get("federated"))
    return f"{start}: {shown[0]} before, {shown[1]} after{aside}."


def price_text(report: Report) -> str:
    """The privacy spent, with everything that a bare epsilon leaves open."""
    privacy, spent = report.privacy, report.epsilon_spent
    if spent is None:
        return "No privacy guarantee was given."
    at = f"ε = {epsilon_text(spent)} at δ = {small_text(privacy.delta or 0.0)}"
    price = f"Privacy spent: {at} {terms(privacy.unit, privacy.accountant)}."
    if report.epsilon_together is None:
        return price
    both = f"ε = {epsilon_text(report.epsilon_together)} {terms(privacy.unit, report.accountant_together)}"
    return f"{price} Together with a site's own adapter: {both}."


_MEASURES = {
    "accuracy": "Accuracy is the share of test records, never trained on, whose label the model gets right",
    "exact_match": "Exact match is the share of test records, never trained on, that the model answers word for word",
    "token_f1": "Token F1 is the F1 score of an answer's words, in any order, against those of the expected answer",
    "chrf": "ChrF says how many of the expected answer's short character strings an answer has, and has no others",
    "bits_per_byte": "Bits per byte says how badly the model predicts test text it never trained on: less is better",
    "loss": "Loss says how badly the model predicts test text it never trained on: less is better",
}


def meanings(report: Report, metric: Metric) -> tuple[str, str, str]:
    """The three sentences that tell a reader outside the field what the numbers are."""
    interval = "; the range in brackets is its 95 % interval, which is wide where a site has few test records"
    measure = f"{_MEASURES[metric.key]}{interval if metric.is_share else ''}."
    unit, spent = report.privacy.unit, report.epsilon_spent or 0.0
    bound = f"Epsilon bounds how much one {unit}, added or removed, can change what anybody learns from the adapter"
    if report.privacy.noise == "none":
        return (
            measure,
            f"{bound}; here no noise was added, so nothing bounds it, and single {unit}s may be recoverable.",
            "Use such a run to compare, and never on records that must stay confidential.",
        )
    covered = "training record" if unit == "record" else "owner with all of their training records"
    return (
        measure,
        f"{bound}: smaller protects more, {epsilon_text(spent)} is the most that any site spent over the whole job, "
        f"and delta ({small_text(report.privacy.delta or 0.0)}) is the small slack in probability that it allows.",
        f"{_against(report.privacy)}; it covers one {covered} at one site, and costs add up where several sites hold "
        f"the same {unit} or later jobs use it again.",
    )


def _against(privacy: Privacy) -> str:
    """Against whom the bound holds."""
    if privacy.noise == "distributed":
        return (
            "The sites shared the noise, so the bound holds for whoever sees no more than the opened sums, and against "
            f"the coordinator together with up to {privacy.colluding} of a round's sites"
        )
    return (
        "Each site added its own noise before any update left it, so the bound holds against the coordinator and the "
        "other sites too"
    )


def _split_claim(sentence: str) -> tuple[str, str]:
    """("Shown", "Accuracy goes ...") so that the page can set the verdict apart."""
    for kind in CLAIM_KINDS:
        if sentence.startswith(f"{kind}: "):
            rest = sentence.removeprefix(f"{kind}: ")
            return kind, rest[0].upper() + rest[1:]
    return "Note", sentence


def _rows(report: Report, metric: Metric) -> list[dict[str, object]]:
    """One row a site, and the last for all."""
    rows = [
        _row(site.name, (site.majority, site.base, site.federated), metric, site_verdict(site, metric))
        | {"train": site.train_records, "test": site.test_records, "epsilon": site.epsilon}
        | {"up": site.bytes_up, "down": site.bytes_down, "seconds": site.seconds}
        for site in report.sites
    ]
    scores = (report.overall.get("majority"), report.overall["base"], report.overall.get("federated"))
    whole = _row("All sites", scores, metric, overall_verdict(report, metric))
    whole |= {"epsilon": report.epsilon_spent, "seconds": report.seconds["total"]}
    whole |= {"train": sum(site.train_records for site in report.sites)}
    whole |= {"test": sum(site.test_records for site in report.sites)}
    whole |= {"up": sum(site.bytes_up for site in report.sites), "down": sum(site.bytes_down for site in report.sites)}
    return [*rows, whole]


def personal_rows(report: Report, metric: Metric) -> list[dict[str, Any]]:
    """Shared against personal: one row a site and the last for all; none where no site has an adapter of its own."""
    if PERSONAL not in report.overall:
        return []
    rows = [
        _personal_row(site.name, (site.federated, site.personal), metric, site.paired_personal)
        | {"job": site.epsilon, "own": site.epsilon_personal, "together": site.epsilon_together}
        for site in report.sites
    ]
    scores = (report.overall.get("federated"), report.overall[PERSONAL])
    own = max((site.epsilon_personal for site in report.sites if site.epsilon_personal is not None), default=None)
    whole = _personal_row("All sites", scores, metric, report.paired_personal)
    return [*rows, whole | {"job": report.epsilon_spent, "own": own, "together": report.epsilon_together}]


def _personal_row(
    name: str, scores: tuple[Score | None, Score | None], metric: Metric, paired: Paired | None
) -> dict[str, Any]:
    before, after = scores
    outcome = metric_verdict(metric, scores, paired)
    return {
        "name": name,
        "federated": metric.text_of(before),
        "personal": metric.text_of(after),
        "personal_interval": metric.interval_text_of(after),
        "change": _change_text(before, after, metric, outcome),
        "verdict": outcome,
        "gained": "–" if paired is None else f"{paired.gained}",
        "lost": "–" if paired is None else f"{paired.lost}",
    }


def _row(
    name: str, scores: tuple[Score | None, Score, Score | None], metric: Metric, outcome: Verdict
) -> dict[str, object]:
    majority, before, after = scores
    return {
        "name": name,
        "majority": metric.text_of(majority),
        "base": metric.text_of(before),
        "base_interval": metric.interval_text_of(before),
        "federated": metric.text_of(after),
        "federated_interval": metric.interval_text_of(after),
        "change": _change_text(before, after, metric, outcome),
        "verdict": outcome,
    }


def _change_text(before: Score | None, after: Score | None, metric: Metric, outcome: Verdict) -> str:
    """With a sign that says without colour what the grey says with it; nothing where one was not measured."""
    old, new = metric.of(before), metric.of(after)
    if old is None or new is None:
        return ""
    change = f"{new - old:+.{metric.digits}f}".replace("-", "−")
    return f"{change} ?" if outcome == "open" else change


def _comparisons(report: Report, metric: Metric) -> list[dict[str, str]]:
    extra = set(report.overall) - {"majority", "base", "federated", PERSONAL}
    if not extra:
        return []
    return [
        {
            "key": name,
            "name": LABELS[name],
            "value": metric.text_of(score),
            "interval": metric.interval_text_of(score) or change_text(report, metric, name),
        }
        for name in TRAININGS
        if (score := report.overall.get(name)) is not None
    ]


def size_text(size_bytes: int) -> str:
    """Decimal units, as network people count: 2.9 MB."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    digits = 1 if value < 9.95 and unit != "B" else 0
    return f"{value:.{digits}f} {unit}"


def time_text(seconds: float) -> str:
    """Seconds up to two minutes, then minutes and seconds, then hours and minutes."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def job_text(job: Mapping[str, JsonValue]) -> str:
    """The job as TOML for reading; keys without a value are left out, since TOML has no null."""
    import tomli_w

    filled = _without_null(dict(job))
    return tomli_w.dumps(filled).strip() if isinstance(filled, dict) else ""


def _without_null(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_null(one) for one in value if one is not None]
    return value


def small_text(value: float) -> str:
    """1e-5, not 1e-05."""
    return f"{value:g}".replace("e-0", "e-")
