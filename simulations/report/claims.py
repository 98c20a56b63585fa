"""What a run may claim: a gain is said only where the test records show it (`yoriai.comparison`), and the rest too."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from yoriai.comparison import Verdict, apart, sign_test
from yoriai.simulations.report.report import Paired, Report, Score

# Name in the report, name for readers, whether more is better; the first that a score has is what is shown.
_METRICS: Final = (
    ("accuracy", "accuracy", True),
    ("exact_match", "exact match", True),
    ("token_f1", "token F1", True),
    ("chrf", "chrF", True),
    ("bits_per_byte", "bits per byte", False),
    ("loss", "loss", False),
)
# What a claim's sentence opens with.
CLAIM_KINDS: Final = ("Shown", "Not shown", "Measured", "Compared")
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
_COMPARED: Final = (
    "naive_bayes_own",
    "naive_bayes_private",
    "naive_bayes_all",
    "local",
    "federated_local_noise",
    "central",
    "federated_no_privacy",
    "central_no_privacy",
)


@dataclass(frozen=True)
class Metric:
    """The measure that a report leads with."""

    key: str
    label: str
    more_is_better: bool

    def of(self, score: Score | None) -> float | None:
        """This metric of a score, if it was measured."""
        value: float | None = None if score is None else getattr(score, self.key)
        return value


def known_metrics(names: Iterable[str]) -> list[Metric]:
    """Those of a report's metrics that are shown, in its order."""
    known = {key: Metric(key, label, better) for key, label, better in _METRICS}
    return [known[name] for name in names if name in known]


def main_metric(report: Report) -> Metric:
    """The first of the task's metrics that is a known one and that the base was scored by."""
    base, every = report.overall["base"], known_metrics(key for key, _, _ in _METRICS)
    for metric in [*known_metrics(report.task.metrics), *every]:
        if metric.of(base) is not None:
            return metric
    return every[-1]  # The loss.


def verdict(before: Score | None, after: Score | None, paired: Paired | None = None) -> Verdict:
    """Whether `after` is shown to be better ("gain") or worse ("loss") than `before`.

    "open" where the test records show neither, "unmeasured" where the measure has no interval to judge by.
    """
    if paired is not None:
        return sign_test(paired.gained, paired.lost)
    if before is None or after is None or before.interval is None or after.interval is None:
        return "unmeasured"
    return apart(before.interval, after.interval)


def claims(report: Report) -> tuple[str, ...]:
    """Sentences that the run bears out: gains shown, gains not shown, and how the other trainings compare."""
    federated = report.overall.get("federated")
    if federated is None:
        return ("The run stopped before the federated adapter was evaluated, so nothing is claimed.",)
    metric = main_metric(report)
    sentences = [_overall_claim(report, metric, federated)]
    if federated.interval is not None:
        sentences += _site_claims(report, metric)
        sentences += _majority_claims(report)
    sentences += _nearness_claims(report, federated)
    sentences += _comparison_claims(report, metric, federated)
    return tuple(sentences)


def _overall_claim(report: Report, metric: Metric, after: Score) -> str:
    before = report.overall["base"]
    change = f"over all sites, {metric.label} goes from {_shown(metric, before)} to {_shown(metric, after)}"
    if after.interval is None:
        return f"Measured: {change}; no interval is known for this measure, so no gain is claimed."
    outcome = verdict(before, after, report.paired)
    if outcome == "open":
        return f"Not shown: {change}; {_how(report.paired)} cannot tell this from chance."
    worse = "" if outcome == "gain" else ", which is worse"
    return f"Shown: {change}{worse}; {_why(report.paired)}."


def _site_claims(report: Report, metric: Metric) -> list[str]:
    outcomes = {site.name: verdict(site.base, site.federated, site.paired) for site in report.sites}
    sentences = []
    if gains := [name for name, outcome in outcomes.items() if outcome == "gain"]:
        sentences.append(f"Shown: a gain at {_listed(gains)}, each on its own test records.")
    if losses := [name for name, outcome in outcomes.items() if outcome == "loss"]:
        sentences.append(f"Shown: a loss at {_listed(losses)}, each on its own test records.")
    for site in report.sites:
        if outcomes[site.name] == "open" and site.federated is not None:
            sentences.append(
                f"Not shown: at {site.name} ({site.test_records} test records) {metric.label} goes from "
                f"{_shown(metric, site.base)} to {_shown(metric, site.federated)}; {_how(site.paired)} "
                "cannot tell this from chance."
            )
    return sentences


def _majority_claims(report: Report) -> list[str]:
    """A model is worth something only above the answer that needs no model."""
    below = [
        site.name
        for site in report.sites
        if site.majority is not None
        and site.majority.accuracy is not None
        and site.federated is not None
        and site.federated.interval is not None
        and site.federated.interval[0] <= site.majority.accuracy
    ]
    if not below:
        return []
    return [f"Not shown: an advantage over always giving the commonest label at {_listed(below)}."]


def _nearness_claims(report: Report, after: Score) -> list[str]:
    """How near answers come to the expected ones, which exact match does not see."""
    before = report.overall["base"]
    measured = [one for one in known_metrics(("token_f1", "chrf")) if None not in (one.of(before), one.of(after))]
    if not measured:
        return []
    changes = [f"{one.label} goes from {one.of(before):.2f} to {one.of(after):.2f}" for one in measured]
    return [f"Measured: over all sites, {_listed(changes)}; no interval is known for these, so no gain is claimed."]


def _comparison_claims(report: Report, metric: Metric, federated: Score) -> list[str]:
    outcomes = {"gain": "the federation is better", "loss": "the federation is worse", "open": "no difference is shown"}
    outcomes["unmeasured"] = "no interval is known, so no difference is claimed"
    sentences = []
    for training in _COMPARED:
        if (other := report.overall.get(training)) is not None:
            values = f"{LABELS[training]} {_shown(metric, other)}, federated {_shown(metric, federated)}"
            sentences.append(f"Compared: {values}: {outcomes[verdict(other, federated)]}.")
    return sentences


def _shown(metric: Metric, score: Score | None) -> str:
    value = metric.of(score)
    text = "not measured" if value is None else f"{value:.2f}"
    if score is None or score.interval is None:
        return text
    return f"{text} [{score.interval[0]:.2f}, {score.interval[1]:.2f}]"


def _how(paired: Paired | None) -> str:
    return "overlapping 95 % intervals" if paired is None else "the records whose answer changed"


def _why(paired: Paired | None) -> str:
    if paired is None:
        return "the 95 % intervals do not overlap"
    return f"{paired.gained} records became right and {paired.lost} wrong (exact sign test, 5 %)"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
