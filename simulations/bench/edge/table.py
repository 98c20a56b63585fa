"""`bench edge` as tables, for the screen and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

Rows = list[list[str]]
NOT_COVERED: Final = (
    "Times are llama.cpp's own, one request at a time, without what a server or a network adds. Memory is the largest "
    "resident size of its process, Python's 30 MB included. Of few records a language, some points are chance."
)


def machine_rows(document: Mapping[str, Any]) -> Rows:
    """A row a file: sizes, memory, times with the adapter on."""
    head = [
        "base",
        "file",
        "adapter",
        "peak memory",
        "first token p50 / p95",
        "each token p50 / p95",
        "tokens/s",
        "joules",
    ]
    return [head, *([_name(one), *_machine(one)] for one in document["files"])]


def _machine(one: Mapping[str, Any]) -> list[str]:
    times = one["times"]["adapted"]
    return [
        f"{one['model_bytes'] / 1e6:.0f} MB",
        f"{one['adapter_bytes'] / 1e6:.1f} MB",
        f"{one['peak_memory_bytes'] / 1e6:.0f} MB",
        _pair(times["first_token_p50_ms"], times["first_token_p95_ms"]),
        _pair(times["token_p50_ms"], times["token_p95_ms"]),
        "–" if times["tokens_per_s"] is None else f"{times['tokens_per_s']:.0f}",
        "not told" if one["joules"] is None else f"{one['joules']:.0f}",
    ]


def language_rows(document: Mapping[str, Any]) -> Rows:
    """A row a language: for each file, right answers and bits a byte, base and adapted."""
    files: Sequence[Mapping[str, Any]] = document["files"]
    head = ["language", "records"]
    for one in files:
        head += [f"{_name(one)}: right, base → adapted", "bits a byte"]
    names = [row["language"] for row in files[0]["languages"] if row["adapted"]]
    return [head, *(_language(name, files) for name in names)]


def _language(name: str, files: Sequence[Mapping[str, Any]]) -> list[str]:
    cells: list[str] = []
    answered = 0
    for one in files:
        base, adapted = (
            next(row for row in one["languages"] if row["language"] == name and row["adapted"] is on)
            for on in (False, True)
        )
        answered = adapted["answered"]
        cells.append(f"{base['correct']} → {adapted['correct']}" if answered else "–")
        cells.append(
            " → ".join("–" if r["bits_per_byte"] is None else f"{r['bits_per_byte']:.2f}" for r in (base, adapted))
        )
    return [name, str(answered) if answered else "texts alone", *cells]


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['type']}, as it came" if one["quantisation"] == "own" else str(one["type"])


def _pair(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.1f} / {high:.1f} ms"


def markdown(rows: Rows) -> str:
    """A table."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
