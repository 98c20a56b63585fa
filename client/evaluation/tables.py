"""What both `yoriai evaluate` and `yoriai site evaluate` print: labels, languages, calibration; fits 80 columns."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from rich.markup import escape
from rich.table import Table

from yoriai.client.evaluation.by_label import LabelChange
from yoriai.client.evaluation.by_language import LanguageChange
from yoriai.client.evaluation.calibration import Calibration
from yoriai.client.evaluation.side_by_side import p_value
from yoriai.client.model.measure import Tally
from yoriai.terminal import RULED

MEASURES: Final = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "macro_f1": "macro-F1",
    "loss": "loss",
    "bits_per_byte": "bits per byte",
}
HOW: Final = (
    "95 % paired bootstrap on the same test records, ? = it holds zero; p: exact sign test on the\n"
    "records whose answer changed"
)
_SHOWN_LABELS: Final = 5


class Ends(Protocol):
    """A change with its interval: a report's, or one that was just worked out."""

    @property
    def change(self) -> float:
        """The change itself."""

    @property
    def low(self) -> float:
        """The lower end."""

    @property
    def high(self) -> float:
        """The upper end."""


def ruled(first: str, headings: Sequence[str]) -> Table:
    """A table with a name in the first column and figures in the others."""
    table = Table(box=RULED, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold", vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return table


def change_text(change: Ends | None) -> str:
    """A change with its interval; a question mark where that holds zero. It is no markup."""
    if change is None:
        return "–"
    open_mark = " ?" if change.low <= 0 <= change.high else ""
    return f"{change.change:+.3f} [{change.low:+.3f}, {change.high:+.3f}]{open_mark}"


def changed_cells(change: Ends | None, counts: tuple[int, int] | None) -> tuple[str, str, str, str]:
    """A change, answers gained and lost, and the exact p."""
    if counts is None:
        return escape(change_text(change)), "", "", ""
    return escape(change_text(change)), f"{counts[0]}", f"{counts[1]}", f"{p_value(*counts):.2g}"


def labels_table(labels: Sequence[LabelChange]) -> Table:
    """The labels that gained and lost most, each with its counts."""
    table = ruled("label", ("records", "right before", "after", "gained", "lost", ""))
    words = {"gain": "shown", "loss": "shown, worse", "open": "?", "unmeasured": ""}
    chosen = list(labels)
    if len(chosen) > 2 * _SHOWN_LABELS:
        chosen = chosen[:_SHOWN_LABELS] + chosen[-_SHOWN_LABELS:]
    for one in chosen:
        counts = (one.records, one.right_before, one.right_after, one.gained, one.lost)
        table.add_row(escape(one.label), *map(str, counts), words[one.verdict])
    return table


def languages_table(languages: Sequence[LanguageChange]) -> Table:
    """Each language by the first measure that its answers have."""
    name = next((key for key in ("accuracy", "bits_per_byte") if _has(languages, key)), "loss")
    table = ruled("language", ("records", f"{MEASURES[name]} before", "after", "change", "p"))
    for one in languages:
        values = (_value(one.before, name), _value(one.after, name))
        change, p = change_text(one.against.changes.get(name)), one.against.p
        table.add_row(
            escape(one.language) + (" (a guess)" if one.guessed else ""),
            str(one.records),
            *(f"{value:.3f}" for value in values),
            escape(change),
            "" if p is None else f"{p:.2g}",
        )
    return table


def calibration_lines(found: Calibration) -> Iterator[str]:
    """The error, and the bins that hold an answer."""
    yield f"calibration    ECE {found.error:.3f} over {len(found.bins)} bins of equal width; confidence:"
    for one in found.bins:
        if one.records:
            yield (
                f"  {one.low:.1f} to {one.high:.1f}: {one.records} answers, "
                f"sure {one.confidence or 0:.2f}, right {one.accuracy or 0:.2f}"
            )


def _has(languages: Sequence[LanguageChange], name: str) -> bool:
    return all(getattr(one.before, name) is not None for one in languages)


def _value(tally: Tally, name: str) -> float:
    value: float = getattr(tally, name)
    return value
