"""What one model changes against another on the same test records, with an interval. numpy only.

Paired bootstrap: test records are drawn again with replacement, as many as there are at each site, and both models are
measured on the same draw; the 95 % interval runs from the 2.5th to the 97.5th percentile of the difference over 2,000
draws (Efron and Tibshirani 1993, chapter 13; the draws are of records, which are what varies, so both models see them
alike). It holds for whatever is a function of sums over records: accuracy, exact match, macro-F1, loss, bits per byte.

It assumes that test records are drawn independently; where several are of one owner it is too narrow. Below 20 records
no interval is given: percentiles of so few are too narrow as well.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord

RESAMPLES: Final = 2000
FEWEST_RECORDS: Final = 20
MORE_IS_BETTER: Final[Mapping[str, bool]] = {
    "accuracy": True,
    "exact_match": True,
    "macro_f1": True,
    "loss": False,
    "bits_per_byte": False,
}
_AT_ONCE: Final = 4_000_000  # Entries of a block of draws.
_SEED: Final = 20  # Public: the same records give the same interval.

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A measure of the second model minus that of the first, with its 95 % interval."""

    change: float
    low: float
    high: float


@dataclass(frozen=True)
class _Measure:
    """A function of sums over records: `columns` (records, C) are added up, `value` is that of sums (draws, C)."""

    columns: Floats
    value: Callable[[Floats], Floats]


def changes(before: Sequence[Tally], after: Sequence[Tally]) -> dict[str, Change]:
    """Each measure's change, of all sites together; nothing where it is not known which record was which.

    Args:
        before, after: one a site, in the same order; their records are the same.
    """
    found: dict[str, Change] = {}
    drawn: dict[tuple[int, ...], list[NDArray[np.int64]]] = {}  # Most measures are of the same records.
    old, new = [_measures(tally) for tally in before], [_measures(tally) for tally in after]
    for name in MORE_IS_BETTER:
        if not old or not all(name in site for site in (*old, *new)):
            continue
        pairs = [(a[name], b[name]) for a, b in zip(old, new, strict=True)]
        sizes = tuple(len(a.columns) for a, _ in pairs)
        if sizes == tuple(len(b.columns) for _, b in pairs) and sum(sizes) >= FEWEST_RECORDS:
            if sizes not in drawn:
                drawn[sizes] = draws(sizes)
            found[name] = _change(pairs, drawn[sizes])
    return found


def paired_counts(before: Sequence[Tally], after: Sequence[Tally]) -> tuple[int, int] | None:
    """Labels that became right, and wrong, over all sites; None where it is not known which record was which."""
    gained = lost = 0
    for old, new in zip(before, after, strict=True):
        one, other = old.per_record, new.per_record
        if one is None or other is None or len(one) != len(other) or not (one.has_labels and other.has_labels):
            return None
        gained += int((~one.right & other.right).sum())
        lost += int((one.right & ~other.right).sum())
    return gained, lost


def draws(sizes: Sequence[int], resamples: int = RESAMPLES) -> list[NDArray[np.int64]]:
    """How often each record is drawn, as blocks of (some draws, records); each stratum keeps its size."""
    generator, total = np.random.default_rng(_SEED), sum(sizes)
    rows = max(1, _AT_ONCE // max(1, total))
    blocks = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        parts = [generator.multinomial(size, np.full(size, 1 / size), count) for size in sizes if size]
        blocks.append(np.concatenate(parts, axis=1))
    return blocks


def _change(pairs: Sequence[tuple[_Measure, _Measure]], blocks: Sequence[NDArray[np.int64]]) -> Change:
    """The change of one measure, its interval over draws as `draws` gives them."""
    value = pairs[0][0].value
    old = np.concatenate([a.columns for a, _ in pairs])
    new = np.concatenate([b.columns for _, b in pairs])

    def difference(times: NDArray[Any]) -> Floats:
        return value(times @ new) - value(times @ old)

    whole = float(difference(np.ones((1, len(old))))[0])
    drawn = np.concatenate([difference(block.astype(np.float64)) for block in blocks])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Change(whole, float(low), float(high))


def _measures(tally: Tally) -> dict[str, _Measure]:
    """What can be measured of a tally, record by record."""
    found = {}
    record = tally.per_record
    if record is not None and len(record):
        found["loss"] = _Measure(np.stack([record.losses, record.units], 1), _ratio)
        if record.target_bytes.any():
            bits = record.losses / math.log(2)
            found["bits_per_byte"] = _Measure(np.stack([bits, record.target_bytes], 1), _ratio)
        if record.has_labels:
            found["accuracy"] = _shares(record.right)
            found["macro_f1"] = _Measure(_by_label(record, tally), _macro_f1)
    if tally.hits is not None and (record is None or not record.has_labels):
        found["exact_match"] = _shares(tally.hits)
    return found


def _shares(hits: NDArray[np.bool_]) -> _Measure:
    return _Measure(np.stack([hits.astype(np.float64), np.ones(len(hits))], 1), _ratio)


def _ratio(sums: Floats) -> Floats:
    """(draws, 2) -> (draws,); nan where nothing was drawn that counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def _by_label(record: PerRecord, tally: Tally) -> Floats:
    """Whether each record is a right answer, an occurrence and an answer of each label. (records, 3 L)."""
    labels = int(max(record.expected.max(), record.given.max())) + 1
    size = labels if tally.confusion is None else len(tally.confusion)
    truth, given = np.eye(size)[record.expected], np.eye(size)[record.given]
    return np.concatenate([truth * given, truth, given], axis=1)


def _macro_f1(sums: Floats) -> Floats:
    """(draws, 3 L) -> (draws,): mean F1 over the labels that occur in a draw, as `Tally.macro_f1`."""
    right, occurring, answered = np.split(sums, 3, axis=1)
    f1 = 2 * right / np.maximum(occurring + answered, 1)
    present = occurring > 0
    return np.asarray((f1 * present).sum(1) / present.sum(1))
