"""The one-page answer: worth going on or not, why, and what joining would add. Pure.

The rule, in this order, with "shown" as in every report (exact sign test at 5 % on the same test records):

    mend the records first   test records leak into training, so that no score can be believed
    no                       not even without privacy is the model shown to beat the base and the commonest label
    join others              it is, without privacy, but alone with privacy it is not
    yes                      alone with privacy it is shown to beat both

Where training is not shown to beat naive Bayes with as much privacy, the answer says so in its first line: then a model
brings nothing yet, whatever it was compared with above.

What joining adds is measured, not supposed: a quarter of the records alone against four quarters together, at the same
epsilon.
"""

from dataclasses import dataclass
from typing import Final, Literal

from yoriai.comparison import sign_test
from yoriai.simulations.poc.sanity import Sanity
from yoriai.simulations.poc.trial import FEWEST_TRAIN, PARTS, Trial
from yoriai.simulations.report.report import Change, Report

Decision = Literal["yes", "join", "no", "mend", "more"]
DECISIONS: Final[dict[Decision, str]] = {
    "yes": "Worth going on.",
    "join": "Worth going on together with others: alone, privacy costs too much with this many records.",
    "no": "Not worth going on with these records and this base.",
    "mend": "Mend the records first; then ask again.",
    "more": "There is nothing to try yet.",
}
_COUNTED: Final = "So far, counting words does as well with no model at all."
_TO_BEAT: Final = ("base", "majority")
# Times the records that were tried: as far beyond them a learning curve is believed.
_AS_FAR: Final = 10


@dataclass(frozen=True)
class Answer:
    """The decision, and the sentences that bear it out."""

    decision: Decision
    reasons: tuple[str, ...]
    joining: str
    missing: str
    counted: bool = False

    @property
    def headline(self) -> str:
        """The decision in words, and whether counting words comes as far as training (`counted`)."""
        good = self.decision in ("yes", "join") and self.counted
        return f"{DECISIONS[self.decision]} {_COUNTED}" if good else DECISIONS[self.decision]


def no_trial(sanity: Sanity, why: str) -> Answer:
    """The answer where nothing could be tried."""
    joining = "What joining would add cannot be said without a trial."
    missing = f"A trial takes {FEWEST_TRAIN} training records with labels or more."
    return Answer("mend" if sanity.leaks else "more", (why, *sanity.warnings()), joining, missing)


def answer(sanity: Sanity, trial: Trial) -> Answer:
    """Decide by the rule above."""
    with_privacy, without = beats(trial.alone), beats(trial.alone_open)
    if sanity.leaks > sanity.test / 20:
        decision: Decision = "mend"
    elif not without:
        decision = "no"
    else:
        decision = "yes" if with_privacy else "join"
    counting = _counting(trial)
    reasons = (
        f"Alone at epsilon {trial.epsilon:g}: {_scores(trial.alone)}; {_word(with_privacy)}.",
        f"Alone without privacy: {_scores(trial.alone_open)}; {_word(without)}.",
        *counting,
        *sanity.warnings(),
    )
    return Answer(decision, reasons, _joining(trial), _missing(trial, sanity.train), counted=bool(counting))


def beats(report: Report) -> bool:
    """Whether the trained model is shown to be better than the base and than the commonest label."""
    pairs = [compared.paired for name in _TO_BEAT if (compared := report.against.get(name)) is not None]
    return len(pairs) == len(_TO_BEAT) and all(
        pair is not None and sign_test(pair.gained, pair.lost) == "gain" for pair in pairs
    )


def _scores(report: Report) -> str:
    names = (("federated", "right"), ("base", "the base without training"), ("majority", "the commonest label"))
    parts = [f"{_accuracy(report, name)} {word}" for name, word in names]
    return ", ".join(parts)


def _accuracy(report: Report, name: str) -> str:
    score = report.overall.get(name)
    return "–" if score is None or score.accuracy is None else f"{score.accuracy:.2f}"


def _word(shown: bool) -> str:
    return "shown to be better than both" if shown else "not shown to be better than both"


def _counting(trial: Trial) -> tuple[str, ...]:
    """What needs no model, beside the trained one with as much privacy; a sentence where the model adds nothing."""
    found = []
    for report, name, privacy in (
        (trial.alone, "naive_bayes_private", f"at epsilon {trial.epsilon:g}"),
        (trial.alone_open, "naive_bayes_own", "without privacy"),
    ):
        compared = report.against.get(name)
        if compared is None or compared.paired is None:
            continue
        outcome = sign_test(compared.paired.gained, compared.paired.lost)
        if outcome != "gain":
            what = "is shown to be worse" if outcome == "loss" else "is not shown to beat that"
            found.append(f"Counting words {privacy}, with no model at all: {_accuracy(report, name)}; training {what}.")
    return tuple(found)


def _joining(trial: Trial) -> str:
    """One part alone against all parts together."""
    compared = trial.together.against.get("local")
    change = None if compared is None else compared.changes.get("accuracy")
    part = trial.train // PARTS
    alone, together = _accuracy(trial.together, "local"), _accuracy(trial.together, "federated")
    text = (
        f"{PARTS} sites of {part} records each, as a trial: alone {alone}, together with shared noise {together}, "
        f"both at epsilon {trial.epsilon:g}"
    )
    if change is None:
        return f"{text}; no interval is known, so nothing is claimed."
    interval = _interval(change)
    if change.low > 0:
        return f"{text}: joining adds {interval}. Real partners differ from each other more than parts of one site do."
    return f"{text}: {interval}, so it is not shown that joining adds anything at this size."


def _interval(change: Change) -> str:
    return f"{100 * change.change:+.0f} points [{100 * change.low:+.0f}, {100 * change.high:+.0f}]"


def _missing(trial: Trial, have: int) -> str:
    """How many records the private curve lacks, where it does not reach too far beyond what was tried.

    Args:
        have: training records that there are, of which the trial may have used a part.
    """
    curve = trial.curve
    if curve.needed is None:
        return "The learning curve is not shown to rise with more records, so none are called missing."
    needed, low, high = curve.needed
    if needed > _AS_FAR * trial.train:
        return (
            f"With privacy alone, more records are shown to help, here or at partners. How many are missing a curve "
            f"over {trial.train} cannot say: it would be more than {_rounded(min(low, _AS_FAR * trial.train))}."
        )
    span = f"within 3 points of what such records can give takes {_rounded(needed)} [{_rounded(low)}, {_rounded(high)}]"
    if not (missing := curve.missing(have)):
        return f"With privacy alone, {span}: there are enough."
    return f"With privacy alone, {span}: about {_rounded(missing)} are missing, here or at partners."


def _rounded(value: float) -> str:
    """Two digits: more would say more than a curve knows."""
    return f"{float(f'{value:.2g}'):,.0f}"
