"""The last screen of a run: the table per site and in all, what it shows, and where the files are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from yoriai.comparison import Verdict
from yoriai.privacy.dp.wording import accountant_name, epsilon_text, terms
from yoriai.simulations.report.claims import change_text, claims, overall_verdict, site_verdict
from yoriai.simulations.report.html import (
    headline,
    personal_rows,
    size_text,
    small_text,
)
from yoriai.simulations.report.metrics import LABELS, Metric, main_metric
from yoriai.simulations.report.report import PERSONAL, TRAININGS, Report, Score, SiteReport
from yoriai.simulations.report.scores import score_rows, shown_metrics
from yoriai.terminal import RULED

_SCORES_LEGEND: Final = "base → federated; of loss and bits per byte less is better, of the others more"
# Below this width the columns stand closer and their headings are cut short.
_ROOMY: Final = 98
_CHANGE_STYLE: Final[dict[Verdict, str]] = {"gain": "green", "loss": "red", "open": "dim", "unmeasured": ""}
# The verdict is a sign as well as a colour, for terminals and eyes without colour.
_CHANGE_SIGN: Final[dict[Verdict, str]] = {"gain": " ", "loss": "!", "open": "?", "unmeasured": " "}
_CLAIM_STYLE: Final = {"Shown": "bold green", "Not shown": "bold yellow"}


def print_report(report: Report, console: Console, files: Sequence[Path] = ()) -> None:
    """Print the last screen; `files` are listed at its end, as `write_report` returned them."""
    metric = main_metric(report)
    parts: list[RenderableType] = [Text(headline(report), style="bold"), *_warnings(report), Text()]
    parts.append(site_table(report, metric, width=console.width))
    parts.append(Text(_legend(report, metric), style="dim"))
    if every := score_table(report):
        parts += [Text(), every, Text(_SCORES_LEGEND, style="dim")]
    if own := personal_table(report, metric):
        parts += [Text(), own]
        if report.privacy.noise != "none":
            parts.append(Text(_personal_legend(report), style="dim"))
    if extra := comparison_table(report, metric):
        parts += [Text(), extra]
    sentences = [*claims(report), *(f"Note: {note}" for note in report.notes)]
    parts += [Text(), *(_sentence(line) for line in sentences), Text()]
    for name, licence in ((report.base.name, report.base.licence), (report.data.title, report.data.licence)):
        parts.append(Text(f"{name}, licence: {licence}", style="dim"))
    parts += [Text(str(path), overflow="fold") for path in files]
    console.print(Group(*parts), highlight=False)


def site_table(report: Report, metric: Metric, *, width: int) -> Table:
    """One row a site and one for all; fits 80 columns."""
    roomy = width >= _ROOMY
    table = Table(box=RULED, padding=(0, 0, 0, 1 if roomy else 0), pad_edge=False, show_edge=False)
    # Only this column may wrap, so that a long name never costs a figure.
    table.add_column("site", overflow="fold", vertical="bottom")
    with_majority = metric.of(report.overall.get("majority")) is not None
    majority, federated, epsilon = ("majority", "federated", "epsilon") if roomy else ("maj.", "fed.", "eps")
    headings = ["train", "test", *([majority] if with_majority else []), "base", federated, "change"]
    for heading in [*headings, epsilon, "delta", "up", "down", "time"]:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for site in report.sites:
        table.add_row(*_site_cells(site, metric, with_majority=with_majority))
    table.add_section()
    table.add_row(*_total_cells(report, metric, with_majority=with_majority), style="bold")
    return table


def _site_cells(site: SiteReport, metric: Metric, *, with_majority: bool) -> list[RenderableType]:
    return [
        escape(site.name),
        f"{site.train_records}",
        f"{site.test_records}",
        *([metric.text_of(site.majority)] if with_majority else []),
        metric.text_of(site.base),
        metric.text_of(site.federated),
        _change(site.base, site.federated, metric, site_verdict(site, metric)),
        *_privacy_cells(site.epsilon, site.delta),
        size_text(site.bytes_up),
        size_text(site.bytes_down),
        _clock(site.seconds),
    ]


def _total_cells(report: Report, metric: Metric, *, with_majority: bool) -> list[RenderableType]:
    base, after, sites = report.overall["base"], report.overall.get("federated"), report.sites
    return [
        "all sites",
        f"{sum(site.train_records for site in sites)}",
        f"{sum(site.test_records for site in sites)}",
        *([metric.text_of(report.overall.get("majority"))] if with_majority else []),
        metric.text_of(base),
        metric.text_of(after),
        _change(base, after, metric, overall_verdict(report, metric)),
        *_privacy_cells(report.epsilon_spent, report.privacy.delta if report.epsilon_spent is not None else None),
        size_text(sum(site.bytes_up for site in sites)),
        size_text(sum(site.bytes_down for site in sites)),
        _clock(report.seconds["total"]),
    ]


def _privacy_cells(epsilon: float | None, delta: float | None) -> tuple[str, str]:
    return (epsilon_text(epsilon), "-" if delta is None else small_text(delta))


def _change(before: Score | None, after: Score | None, metric: Metric, outcome: Verdict) -> Text:
    old, new = metric.of(before), metric.of(after)
    if old is None or new is None:
        return Text("")
    return Text(f"{new - old:+.{metric.digits}f}{_CHANGE_SIGN[outcome]}", style=_CHANGE_STYLE[outcome])


def _clock(seconds: float) -> str:
    """41s, 6:43 or 2:06:43, to spare columns."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"


def _legend(report: Report, metric: Metric) -> str:
    less = "" if metric.more_is_better else " (less is better)"
    text = f"{metric.label}{less} on each site's test records"
    if report.privacy.noise != "none":
        told = terms(report.privacy.unit, report.privacy.accountant)
        text = f"{text}; epsilon {told}; that of all sites is the largest of any"
    if report.privacy.noise == "distributed":
        sites = f"{report.privacy.colluding} of a round's sites"
        text = f"{text}; the sites share the noise: it holds against the coordinator together with up to {sites}"
    outcomes = [site_verdict(site, metric) for site in report.sites]
    return f"{text}; ? = the test records do not show it to be more than chance" if "open" in outcomes else text


def score_table(report: Report) -> Table | None:
    """Every measure of the task, base → federated, where the main one is not all; fits 80 columns."""
    rows = score_rows(report)
    if not rows:
        return None
    table = Table(box=RULED, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("site", overflow="fold", vertical="bottom")
    for metric in shown_metrics(report):
        table.add_column(metric.label, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        is_total = row is rows[-1]
        if is_total:
            table.add_section()
        cells = [f"{before} → {after}" for before, after in row.cells]
        table.add_row(escape(row.name), *cells, style="bold" if is_total else "")
    return table


def personal_table(report: Report, metric: Metric) -> Table | None:
    """The shared adapter against each site's own, and the price of both, if a site has one; fits 80 columns."""
    rows = personal_rows(report, metric)
    if not rows:
        return None
    table = Table(box=RULED, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("site", overflow="fold", vertical="bottom")
    private = report.privacy.noise != "none"
    prices = [("eps job", "job"), ("eps own", "own"), ("eps both", "together")] if private else []
    columns = [("federated", "federated"), ("personal", "personal"), ("change", "change")]
    columns += [("gained", "gained"), ("lost", "lost"), *prices]
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        if row is rows[-1]:
            table.add_section()
        cells = [_personal_cell(row, key) for _, key in columns]
        is_total = row is rows[-1]
        table.add_row("all sites" if is_total else escape(row["name"]), *cells, style="bold" if is_total else "")
    return table


def _personal_legend(report: Report) -> str:
    privacy, both = report.privacy, report.accountant_together
    together = f"; of both, by {accountant_name(both)}" if both else ""
    return f"epsilon {terms(privacy.unit, privacy.accountant)}{together}"


def _personal_cell(row: Mapping[str, Any], key: str) -> Text:
    style = _CHANGE_STYLE[row["verdict"]] if key == "change" else ""
    value = row[key]
    text = "–" if value is None else value if isinstance(value, str) else epsilon_text(value)
    return Text(text, style=style)


def comparison_table(report: Report, metric: Metric) -> Table | None:
    """All trainings over all sites' test records, if others than the federation were measured."""
    if not set(report.overall) - {"majority", "base", "federated", PERSONAL}:
        return None
    table = Table(box=RULED, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("compared over all sites")
    table.add_column(metric.label, justify="right")
    table.add_column("95 % interval" if metric.is_share else "federated less it, 95 %", justify="right")
    for name in TRAININGS:
        if (score := report.overall.get(name)) is not None:
            style = "bold" if name == "federated" else ""
            interval = metric.interval_text_of(score) or change_text(report, metric, name)
            table.add_row(LABELS[name], metric.text_of(score), escape(interval), style=style)
    return table


def _warnings(report: Report) -> list[RenderableType]:
    lines = []
    if report.status != "done":
        lines.append(f"This run is {'not complete' if report.status == 'partial' else 'interrupted'}.")
    if report.privacy.noise == "none":
        lines.append("Differential privacy is off: no noise was added, and single records may be recoverable.")
    if not report.privacy.secure_aggregation:
        lines.append("Secure aggregation is off: the coordinator could read single updates.")
    return [Text(line, style="bold red") for line in lines]


def _sentence(line: str) -> Table:
    """The sentence, hanging beside its dash."""
    text = Text(line, overflow="fold")  # A name of a script without spaces may be cut in two; no letter is lost.
    for kind, style in _CLAIM_STYLE.items():
        if line.startswith(f"{kind}:"):
            text.stylize(style, 0, len(kind) + 1)
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row("-", text)
    return grid
