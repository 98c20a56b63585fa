"""`bench bases` as tables: the bases, the tasks on them, and what is advised."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from yoriai.comparison import wilson_interval
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.simulations.bench.bases.rounding import KINDS

Rows = list[list[str]]
NOT_COVERED: Final = (
    "Scores have 95 % intervals (Wilson); bases are compared on the same test records by the exact sign test. Rounded: "
    "the base's matrices as a GGUF file of that type has them, and the share of answers that stay. Distilled: the head "
    "goes on with the next larger base's labels of records that neither has trained on."
)


def base_rows(document: Mapping[str, Any]) -> Rows:
    """A row a base: size, and bits a byte of general texts by language."""
    bases: Sequence[Mapping[str, Any]] = document["bases"]
    languages = list(bases[0]["bits_per_byte"])
    head = ["base", "parameters", *(f"{kind} file" for kind in bases[0]["bytes"]), *languages]
    rows = []
    for one in bases:
        sizes = (f"{size / 1e6:,.0f} MB" for size in one["bytes"].values())
        bits = (f"{one['bits_per_byte'][language]:.2f}" for language in languages)
        rows.append([one["name"], f"{one['parameters'] / 1e6:,.0f} M", *sizes, *bits])
    return [head, *rows]


def task_rows(document: Mapping[str, Any]) -> Rows:
    """A row a task and base."""
    head = ["task", "base", "epsilon", "untrained", "trained", *KINDS, "distilled", "core s / 1,000 answers", "cost"]
    rows = []
    for task in document["advice"]:
        for base in document["bases"]:
            one = base["tasks"][task]
            thousand = one["thousand_answers"]
            rows.append(
                [
                    task,
                    base["name"],
                    epsilon_text(one["epsilon"]),
                    _score(one["base"]),
                    _interval(one["federated"]),
                    *(_rounded(one["rounded"][kind]) for kind in KINDS),
                    _score(one["distilled"]) if "distilled" in one else "–",
                    f"{thousand['core_seconds']:.0f}",
                    f"{thousand['cost']:.4f}" if "cost" in thousand else "–",
                ]
            )
    return [head, *rows]


def advice_lines(document: Mapping[str, Any]) -> list[str]:
    """What is advised, task by task, with its evidence."""
    lines = []
    for task, found in document["advice"].items():
        lines += [f"{task}: take {found['base']}", *(f"  {line}" for line in found["evidence"])]
    return lines


def _score(one: Mapping[str, Any]) -> str:
    return f"{one['correct'] / one['records']:.2f}"


def _interval(one: Mapping[str, Any]) -> str:
    low, high = wilson_interval(one["correct"], one["records"])
    return f"{_score(one)} [{low:.2f}, {high:.2f}]"


def _rounded(one: Mapping[str, Any]) -> str:
    return f"{_score(one)} ({one['same'] / one['records']:.0%} same)"
