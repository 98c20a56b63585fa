"""The measures of a report: which one leads, their names, and how their figures are written."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from yoriai.simulations.report.report import Report, Score

# Name in the report, name for readers, whether more is better; the first that a score has is what is shown.
_METRICS: Final = (
    ("accuracy", "accuracy", True),
    ("exact_match", "exact match", True),
    ("token_f1", "token F1", True),
    ("chrf", "chrF", True),
    ("bits_per_byte", "bits per byte", False),
    ("loss", "loss", False),
)
LABELS: Final = {
    "majority": "commonest label",
    "base": "base before",
    "naive_bayes_own": "naive Bayes on own records",
    "naive_bayes_all": "naive Bayes on what none may pool",
    "naive_bayes_private": "naive Bayes, same epsilon",
    "local": "each site alone",
    "federated": "federated",
    "federated_local_noise": "federated, local noise",
    "federated_no_privacy": "federated, no privacy",
    "central": "all at one place",
    "central_no_privacy": "all at one place, no privacy",
}


@dataclass(frozen=True)
class Metric:
    """The measure that a report leads with."""

    key: str
    label: str
    more_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether it counts right answers; only such a measure has an interval of its own."""
        return self.key in ("accuracy", "exact_match")

    @property
    def digits(self) -> int:
        """That are shown after the point: bits and nats move by hundredths where a share of records moves by tenths."""
        return 3 if self.key in ("bits_per_byte", "loss") else 2

    def of(self, score: Score | None) -> float | None:
        """This metric of a score, if it was measured."""
        value: float | None = None if score is None else getattr(score, self.key)
        return value

    def text_of(self, score: Score | None) -> str:
        """It in digits, or an en dash where it was not measured."""
        value = self.of(score)
        return "–" if value is None else f"{value:.{self.digits}f}"

    def interval_of(self, score: Score | None) -> tuple[float, float] | None:
        """Its 95 % interval, if it has one."""
        return score.interval if score is not None and self.is_share else None

    def interval_text_of(self, score: Score | None) -> str:
        """Such as [0.50, 0.61], or nothing."""
        interval = self.interval_of(score)
        return "" if interval is None else f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def known_metrics(names: Iterable[str]) -> list[Metric]:
    """Those of a report's metrics that are shown, in its order."""
    known = {key: Metric(key, label, better) for key, label, better in _METRICS}
    return [known[name] for name in names if name in known]


def main_metric(report: Report) -> Metric:
    """The first of the task's metrics that is a known one and that the base was scored by.

    Where no model gives a single answer word for word, that is bits per byte: an exact match of 0.00 on either side
    would say nothing of what was learnt.
    """
    base, every = report.overall["base"], known_metrics(key for key, _, _ in _METRICS)
    asked = ("bits_per_byte",) if never_exact(report) else report.task.metrics
    for metric in [*known_metrics(asked), *every]:
        if metric.of(base) is not None:
            return metric
    return every[-1]  # The loss.


def never_exact(report: Report) -> bool:
    """Whether answers were compared whole, and none of any model is the expected one."""
    compared = report.overall["base"].exact_match is not None
    return compared and not any(score.exact_match for score in report.overall.values())
