"""All measures of a task side by side, before and after, where its main one does not tell enough.

A long answer is hardly ever given word for word, so exact match may stay at 0 while answers come nearer; loss and bits
per byte are two readings of the same text. A classifier's accuracy needs no such table.
"""

from dataclasses import dataclass

from yoriai.simulations.report.metrics import Metric, known_metrics
from yoriai.simulations.report.report import Report, Score


@dataclass(frozen=True)
class ScoreRow:
    """One site, or all of them: before and after of each measure, as text."""

    name: str
    cells: tuple[tuple[str, str], ...]


def shown_metrics(report: Report) -> tuple[Metric, ...]:
    """The measures of the task that the base was scored by, in its order; none for a classifier."""
    if report.task.kind == "classify":
        return ()
    base = report.overall["base"]
    return tuple(metric for metric in known_metrics(report.task.metrics) if metric.of(base) is not None)


def score_rows(report: Report) -> tuple[ScoreRow, ...]:
    """One row a site and the last for all; none where there is nothing to show beside the main measure."""
    metrics = shown_metrics(report)
    if len(metrics) < 2:
        return ()
    sites = [_row(site.name, metrics, site.base, site.federated) for site in report.sites]
    return (*sites, _row("all sites", metrics, report.overall["base"], report.overall.get("federated")))


def _row(name: str, metrics: tuple[Metric, ...], before: Score, after: Score | None) -> ScoreRow:
    return ScoreRow(name, tuple((_text(metric, before), _text(metric, after)) for metric in metrics))


def _text(metric: Metric, score: Score | None) -> str:
    value = metric.of(score)
    return "–" if value is None else f"{value:.2f}"
