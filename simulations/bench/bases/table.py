"""`bench bases` as tables: the bases, the tasks on them by score and site, and what is advised."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
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
    """A row a base: size, and that of its file in each type."""
    bases: Sequence[Mapping[str, Any]] = document["bases"]
    rows = []
    for name, one in zip(_names(document), bases, strict=True):
        sizes = (f"{size / 1e6:,.0f} MB" for size in one["bytes"].values())
        rows.append([name, f"{one['parameters'] / 1e6:,.0f} M", *sizes])
    return [["base", "parameters", *(f"{kind} file" for kind in bases[0]["bytes"])], *rows]


def language_rows(document: Mapping[str, Any]) -> Rows:
    """Bits a byte of general texts: a row a language, a column a base."""
    bits = [one["bits_per_byte"] for one in document["bases"]]
    rows = [[language, *(f"{of_base[language]:.2f}" for of_base in bits)] for language in bits[0]]
    return [["bits a byte", *_names(document)], *rows]


def task_rows(document: Mapping[str, Any]) -> Rows:
    """A row a task and base: its score before and after, and what an answer costs."""
    head = ["task", "base", "epsilon", "before", "trained", "core s / 1,000 answers", "cost"]
    return [head, *(_task_row(task, name, one) for task, name, one in _each(document))]


def kept_rows(document: Mapping[str, Any]) -> Rows:
    """A row a task and base: what rounding and distilling keep of the score."""
    rows = [
        [
            task,
            name,
            *(_rounded(one["rounded"][kind]) for kind in KINDS),
            _score(one["distilled"]) if "distilled" in one else "–",
        ]
        for task, name, one in _each(document)
    ]
    return [["task", "base", *KINDS, "distilled"], *rows]


def site_rows(document: Mapping[str, Any]) -> Rows:
    """A row a task and site: its score on each base, before and after."""
    rows = []
    for task in document["advice"]:
        of_bases = [base["tasks"][task]["sites"] for base in document["bases"]]
        for site in of_bases[0]:
            scores = (f"{_score(one[site]['base'])} → {_score(one[site]['federated'])}" for one in of_bases)
            rows.append([task, site, f"{of_bases[0][site]['base']['records']}", *scores])
    return [["task", "site", "records", *_names(document)], *rows]


def _each(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for task in document["advice"]:
        for name, base in zip(_names(document), document["bases"], strict=True):
            yield task, name, base["tasks"][task]


def _names(document: Mapping[str, Any]) -> list[str]:
    """Of files and folders what they are called themselves, if that tells them apart."""
    whole = [base["name"] for base in document["bases"]]
    short = [PurePath(name).name.removesuffix(".gguf") if PurePath(name).is_absolute() else name for name in whole]
    return short if len(set(short)) == len(short) else whole


def _task_row(task: str, name: str, one: Mapping[str, Any]) -> list[str]:
    thousand = one["thousand_answers"]
    cost = f"{thousand['cost']:.4f}" if "cost" in thousand else "–"
    scores = _score(one["base"]), _interval(one["federated"])
    return [task, name, epsilon_text(one["epsilon"]), *scores, f"{thousand['core_seconds']:.0f}", cost]


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
