"""What a site measured of an adapter, in a sentence: counts, intervals, whether the records show it, and the loss."""

from collections.abc import Mapping
from typing import Any

from yoriai.comparison import Verdict, apart, sign_test, wilson_interval

_WORDS: Mapping[Verdict, str] = {
    "gain": "better, and shown",
    "loss": "worse, and shown",
    "open": "not shown: these test records do not tell the two apart",
    "unmeasured": "not judged: there are no counts of right answers",
}


def sentence(evaluation: Mapping[str, Any]) -> str:
    """An evaluation as `read_evaluation` gives it."""
    before, after = evaluation["before"], evaluation["after"]
    parts = [_right(before, after), _WORDS[verdict(evaluation)] + _changed(evaluation), _loss(before, after)]
    return "; ".join(part for part in parts if part)


def verdict(evaluation: Mapping[str, Any]) -> Verdict:
    """Whether the adapter is shown to be better than the base on this site's test records."""
    before, after, paired = evaluation["before"], evaluation["after"], evaluation.get("paired")
    if paired is not None:
        return sign_test(paired["gained"], paired["lost"])
    if not (_is_counted(before) and _is_counted(after)):
        return "unmeasured"
    return apart(*(wilson_interval(score["correct"], score["answered"]) for score in (before, after)))


def _is_counted(score: Mapping[str, Any]) -> bool:
    return bool(score.get("correct") is not None and score.get("answered"))


def _right(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if not (_is_counted(before) and _is_counted(after)):
        return f"{after.get('records', 0)} test records"

    def told(score: Mapping[str, Any]) -> str:
        low, high = wilson_interval(score["correct"], score["answered"])
        return f"{score['correct']} of {score['answered']} right (95 %: {low:.0%} to {high:.0%})"

    return f"base {told(before)}, adapted {told(after)}"


def _changed(evaluation: Mapping[str, Any]) -> str:
    paired = evaluation.get("paired")
    return f" ({paired['gained']} became right, {paired['lost']} wrong)" if paired is not None else ""


def _loss(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    values = [score.get("loss") for score in (before, after)]
    return "" if None in values else f"loss {values[0]:.3g} → {values[1]:.3g}"
