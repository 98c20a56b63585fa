"""What a run may claim: a gain is said only where the test records show it, and the rest too.

A share of right answers is judged by the exact sign test, or two intervals (`yoriai.comparison`); any other measure by
the paired bootstrap interval of its change.
"""

from typing import Final

from yoriai.comparison import Verdict, apart, sign_test
from yoriai.simulations.report.metrics import LABELS, Metric, known_metrics, main_metric, never_exact
from yoriai.simulations.report.report import Change, Paired, Report, Score, SiteReport

# What a claim's sentence opens with.
CLAIM_KINDS: Final = ("Shown", "Not shown", "Measured", "Compared")
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


def verdict(before: Score | None, after: Score | None, paired: Paired | None = None) -> Verdict:
    """Whether `after` is shown to be better ("gain") or worse ("loss") than `before`.

    "open" where the test records show neither, "unmeasured" where the measure has no interval to judge by.
    """
    if paired is not None:
        return sign_test(paired.gained, paired.lost)
    if before is None or after is None or before.interval is None or after.interval is None:
        return "unmeasured"
    return apart(before.interval, after.interval)


def change_verdict(metric: Metric, change: Change | None) -> Verdict:
    """Whether a change's 95 % interval holds zero ("open"), or which way it points; "unmeasured" without one."""
    if change is None:
        return "unmeasured"
    if change.low <= 0 <= change.high:
        return "open"
    return "gain" if (change.low > 0) == metric.more_is_better else "loss"


def site_verdict(site: SiteReport, metric: Metric) -> Verdict:
    """Whether the federated adapter is shown to be better than the base at this site."""
    return metric_verdict(metric, (site.base, site.federated), site.paired, site.changes.get(metric.key))


def overall_verdict(report: Report, metric: Metric) -> Verdict:
    """Likewise over all sites."""
    scores = (report.overall["base"], report.overall.get("federated"))
    return metric_verdict(metric, scores, report.paired, _against_base(report, metric))


def metric_verdict(
    metric: Metric, scores: tuple[Score | None, Score | None], paired: Paired | None, change: Change | None = None
) -> Verdict:
    """Of a share by its right answers; of any other measure, or where they are not known, by its change."""
    found = verdict(*scores, paired) if metric.is_share else "unmeasured"
    return change_verdict(metric, change) if found == "unmeasured" else found


def claims(report: Report) -> tuple[str, ...]:
    """Sentences that the run bears out: gains shown, gains not shown, and how the other trainings compare."""
    federated = report.overall.get("federated")
    if federated is None:
        return ("The run stopped before the federated adapter was evaluated, so nothing is claimed.",)
    metric = main_metric(report)
    sentences = [_overall_claim(report, metric, federated)]
    sentences += _site_claims(report, metric)
    sentences += _majority_claims(report)
    sentences += _nearness_claims(report, federated)
    sentences += _comparison_claims(report, metric, federated)
    return tuple(sentences)


def _overall_claim(report: Report, metric: Metric, after: Score) -> str:
    before = report.overall["base"]
    change = f"over all sites, {metric.label} goes from {_shown(metric, before)} to {_shown(metric, after)}"
    if metric.interval_of(after) is None:
        return _change_claim(metric, change, _against_base(report, metric))
    outcome = verdict(before, after, report.paired)
    if outcome == "open":
        return f"Not shown: {change}; {_how(report.paired)} cannot tell this from chance."
    worse = "" if outcome == "gain" else ", which is worse"
    return f"Shown: {change}{worse}; {_why(report.paired)}."


def _against_base(report: Report, metric: Metric) -> Change | None:
    compared = report.against.get("base")
    return None if compared is None else compared.changes.get(metric.key)


def _change_claim(metric: Metric, text: str, change: Change | None) -> str:
    """Of a measure that is no share: judged by the paired interval of its change."""
    if change is None:
        return f"Measured: {text}; no interval is known, so no gain is claimed."
    interval = f"the change is {_told(change)} (95 %, paired bootstrap)"
    outcome = change_verdict(metric, change)
    if outcome == "open":
        return f"Not shown: {text}; {interval}, which may be none."
    return f"Shown: {text}{'' if outcome == 'gain' else ', which is worse'}; {interval}."


def _site_claims(report: Report, metric: Metric) -> list[str]:
    outcomes = {site.name: site_verdict(site, metric) for site in report.sites}
    sentences = []
    if gains := [name for name, outcome in outcomes.items() if outcome == "gain"]:
        sentences.append(f"Shown: a gain at {_listed(gains)}, each on its own test records.")
    if losses := [name for name, outcome in outcomes.items() if outcome == "loss"]:
        sentences.append(f"Shown: a loss at {_listed(losses)}, each on its own test records.")
    for site in report.sites:
        if outcomes[site.name] == "open" and site.federated is not None:
            sentences.append(
                f"Not shown: at {site.name} ({site.test_records} test records) {metric.label} goes from "
                f"{_shown(metric, site.base)} to {_shown(metric, site.federated)}; {_site_how(site, metric)} "
                "cannot tell this from chance."
            )
    return sentences


def below_majority(report: Report) -> list[str]:
    """Sites where the model is not shown to be above the answer that needs no model."""
    return [
        site.name
        for site in report.sites
        if site.majority is not None
        and site.majority.accuracy is not None
        and site.federated is not None
        and site.federated.interval is not None
        and site.federated.interval[0] <= site.majority.accuracy
    ]


def _majority_claims(report: Report) -> list[str]:
    """A model is worth something only above the answer that needs no model."""
    below = below_majority(report)
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
    exact = "; no answer of any model is word for word the expected one" if never_exact(report) else ""
    return [
        f"Measured: over all sites, {_listed(changes)}{exact}; no interval is known for these, so no gain is claimed."
    ]


def _comparison_claims(report: Report, metric: Metric, federated: Score) -> list[str]:
    outcomes = {"gain": "the federation is better", "loss": "the federation is worse", "open": "no difference is shown"}
    outcomes["unmeasured"] = "no interval is known, so no difference is claimed"
    sentences = []
    for training in _COMPARED:
        if (other := report.overall.get(training)) is not None:
            values = f"{LABELS[training]} {_shown(metric, other)}, federated {_shown(metric, federated)}"
            change = change_text(report, metric, training)
            told = f"{values} ({change})" if change else values
            sentences.append(f"Compared: {told}: {outcomes[against_verdict(report, metric, training)]}.")
    return sentences


def change_text(report: Report, metric: Metric, training: str) -> str:
    """The federated adapter's measure minus another training's, of a measure that has no interval by itself.

    Such as -0.017 [-0.029, -0.005], the 95 % interval; empty where it is not known.
    """
    compared = report.against.get(training)
    change = None if compared is None or metric.is_share else compared.changes.get(metric.key)
    return "" if change is None else _told(change)


def _told(change: Change) -> str:
    return f"{change.change:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def against_verdict(report: Report, metric: Metric, training: str) -> Verdict:
    """The federation against another training: by the records whose answer changed, or the change's interval."""
    compared = report.against.get(training)
    if compared is not None and metric.key == "accuracy" and compared.paired is not None:
        return sign_test(compared.paired.gained, compared.paired.lost)
    if compared is not None and metric.key in compared.changes:
        return change_verdict(metric, compared.changes[metric.key])
    return metric_verdict(metric, (report.overall[training], report.overall.get("federated")), None)


def _shown(metric: Metric, score: Score | None) -> str:
    text = "not measured" if metric.of(score) is None else metric.text_of(score)
    return f"{text} {metric.interval_text_of(score)}".rstrip()


def _how(paired: Paired | None) -> str:
    return "overlapping 95 % intervals" if paired is None else "the records whose answer changed"


def _site_how(site: SiteReport, metric: Metric) -> str:
    return "the 95 % interval of the change" if metric.interval_of(site.federated) is None else _how(site.paired)


def _why(paired: Paired | None) -> str:
    if paired is None:
        return "the 95 % intervals do not overlap"
    return f"{paired.gained} records became right and {paired.lost} wrong (exact sign test, 5 %)"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
