"""The proof of concept as one page, made to be printed on one sheet: no script, nothing fetched, all text escaped."""

from importlib import resources
from typing import TYPE_CHECKING, Any

from yoriai.simulations.poc.trial import Trial
from yoriai.simulations.report.report import Change, Report

if TYPE_CHECKING:
    from yoriai.simulations.poc.proof import Proof


def render(proof: "Proof") -> str:
    """The page's text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = (resources.files("yoriai.simulations") / "templates" / "poc.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        proof=proof,
        sanity=proof.sanity,
        answer=proof.answer,
        trial=proof.trial,
        rows=_rows(proof.trial) if proof.trial else [],
        curve=_curve(proof.trial) if proof.trial else [],
        labels=list(proof.sanity.labels.items())[:8],
    )


def _rows(trial: Trial) -> list[dict[str, str]]:
    """One row a training; the base and what needs no model first."""
    private = f"epsilon {trial.epsilon:g}"
    return [
        _row("Commonest label", "–", trial.alone, "majority"),
        _row("Base without training", "–", trial.alone, "base"),
        *_counted(trial, private),
        _row("Alone", private, trial.alone, "federated"),
        _row("Alone", "none", trial.alone_open, "federated"),
        _row("Four parts, each alone", private, trial.together, "local"),
        _row("Four parts together", private, trial.together, "federated"),
        _row("Four parts together", "none", trial.together_open, "federated"),
    ]


def _counted(trial: Trial, private: str) -> list[dict[str, str]]:
    """Naive Bayes alone; with privacy where its noise could be worked out."""
    rows = [_row("Counting words alone", "none", trial.alone, "naive_bayes_own")]
    if "naive_bayes_private" in trial.alone.overall:
        rows.insert(0, _row("Counting words alone", private, trial.alone, "naive_bayes_private"))
    return rows


def _row(name: str, privacy: str, report: Report, training: str) -> dict[str, str]:
    score, compared = report.overall.get(training), report.against.get("base")
    interval = "" if score is None or score.interval is None else f"{score.interval[0]:.2f} to {score.interval[1]:.2f}"
    change = compared.changes.get("accuracy") if compared is not None and training == "federated" else None
    return {
        "name": name,
        "privacy": privacy,
        "accuracy": "–" if score is None or score.accuracy is None else f"{score.accuracy:.2f}",
        "interval": interval,
        "change": "" if change is None else _change(change),
    }


def _change(change: Change) -> str:
    return f"{change.change:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"


def _curve(trial: Trial) -> list[dict[str, Any]]:
    """Accuracy by number of records, as bars of a width in percent."""
    return [
        {"size": size, "private": private, "open": without}
        for size, private, without in zip(
            trial.curve.sizes, trial.curve.accuracy, trial.curve_open.accuracy, strict=True
        )
    ]
