"""What was found, for people and for programs."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Final

from yoriai.privacy.dp.wording import terms
from yoriai.simulations.bench.rules.run import Found, Result
from yoriai.simulations.experiment.machine import machine, versions
from yoriai.simulations.report.html import size_text

_NAMES = {
    "local": "alone",
    "federated_local_noise": "local noise",
    "central": "one place",
    "central_rdp": "one place, RDP",
    "central_no_privacy": "one place",
    "base": "untouched base",
    "majority": "commonest label",
    "naive_bayes_own": "naive Bayes, own",
    "naive_bayes_all": "naive Bayes, all",
}
NOT_COVERED: Final = (
    f"Epsilon is that of one training, {terms('record', 'pld')}. The search for settings is not covered by it: each of "
    "its trainings looked at the records too, and on private records each would be charged."
)
_TITLES = ("", "epsilon", "setting", "accuracy", "up", "down", "s", "error")


def as_json(found: Found, command: str, combine_seconds: dict[str, float]) -> dict[str, Any]:
    """Everything, with the machine and the versions; accuracies by seed."""
    asked = found.asked
    return {
        "command": command,
        "machine": machine(),
        "versions": versions(),
        "data": asked.data,
        "seeds": asked.seeds,
        "not_covered": NOT_COVERED,
        "scale": vars(asked.scale),
        "results": [_result(result) for result in found.results],
        "trained_nothing": {name: _spread(values) for name, values in found.trained_nothing.items()},
        "combine_seconds": combine_seconds,
    }


def rows(results: Iterable[dict[str, Any]], trained_nothing: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a result, from its JSON form; the titles come first."""
    table: list[tuple[str, ...]] = [_TITLES]
    for result in results:
        private = result["epsilon"] is not None
        federated = result["kind"] == "federated"
        error = result["product_error"]
        table.append(
            (
                result["rule"] if federated else f"{result['rule']}, {_NAMES[result['kind']]}",
                f"{result['epsilon']:g}" if private else "none",
                _setting(result["setting"], private=private),
                _accuracy(result["accuracy"]),
                size_text(result["bytes_up"]) if federated else "",
                size_text(result["bytes_down"]) if federated else "",
                f"{result['seconds']:.1f}" if federated else "",
                f"{error[0]:.0e}" if error else "",
            )
        )
    blank = ("",) * (len(_TITLES) - 4)
    for name, accuracy in trained_nothing.items():
        table.append((_NAMES[name], "", "", _accuracy(accuracy), *blank))
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The rows as a table of a Markdown page; numbers to the right."""
    head, *body = table
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *body)) + "\n"


def _result(result: Result) -> dict[str, Any]:
    finals = result.finals
    errors = [final.product_error for final in finals if final.product_error]
    return {
        "kind": result.kind,
        "rule": result.rule,
        "epsilon": result.epsilon,
        "setting": vars(result.setting),
        "accuracy": _spread([final.accuracy for final in finals]),
        "bytes_up": finals[0].bytes_up,
        "bytes_down": finals[0].bytes_down,
        "seconds": statistics.median(final.seconds for final in finals),
        "product_error": max(errors) if errors else None,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, and each seed's own."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "by_seed": list(values),
    }


def _setting(setting: dict[str, Any], *, private: bool) -> str:
    """Optimiser and learning rate (the sites' own with none), and a clip norm other than 1."""
    clip = f" clip {setting['clip_norm']:g}" if private and setting["clip_norm"] != 1 else ""
    return f"{setting['optimizer']} {setting['learning_rate']:.3g}{clip}"


def _accuracy(spread: dict[str, Any]) -> str:
    return f"{spread['mean']:.3f}" + (f" ± {spread['sd']:.3f}" if spread["sd"] is not None else "")
