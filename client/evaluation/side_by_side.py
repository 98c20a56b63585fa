"""One model against others on the same test records: changes with their intervals, and exact tests. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from scipy import stats

from yoriai.client.evaluation.calibration import BINS
from yoriai.client.model.measure import Tally
from yoriai.client.model.paired import FEWEST_RECORDS, RESAMPLES, Change, changes, paired_counts

METHOD: Final = {
    "interval": "95 %, paired bootstrap over records within sites, percentiles",
    "resamples": RESAMPLES,
    "fewest_records": FEWEST_RECORDS,
    "test": "exact two-sided sign test on the records whose answer changed (McNemar)",
    "calibration_bins": BINS,
}


@dataclass(frozen=True)
class Against:
    """What one model changes against another.

    Attributes:
        changes: by measure, the one model minus the other; see `client.model.paired`.
        gained, lost: answers that are right only with the one model, and only with the other; None where answers are
            not right or wrong, or it is not known which was which.
    """

    changes: Mapping[str, Change]
    gained: int | None
    lost: int | None

    @property
    def p(self) -> float | None:
        """Of the exact sign test on the answers that changed; None without them."""
        return None if self.gained is None or self.lost is None else p_value(self.gained, self.lost)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = None if self.p is None else {"gained": self.gained, "lost": self.lost, "p": self.p}
        return {"paired": counts, "changes": {key: asdict(change) for key, change in self.changes.items()}}


def against(before: Sequence[Tally], after: Sequence[Tally]) -> Against:
    """Compare two models that answered the same records.

    Args:
        before, after: one a site, in the same order.
    """
    gained, lost = changed_answers(before, after) or (None, None)
    return Against(changes(before, after), gained, lost)


def changed_answers(before: Sequence[Tally], after: Sequence[Tally]) -> tuple[int, int] | None:
    """Answers that became right, and wrong: labels, or responses that are compared whole; None where neither is known.

    Args:
        before, after: one a site, in the same order.
    """
    if (counts := paired_counts(before, after)) is not None:
        return counts
    gained = lost = 0
    for old, new in zip(before, after, strict=True):
        if old.hits is None or new.hits is None or len(old.hits) != len(new.hits):
            return None
        gained += int((new.hits & ~old.hits).sum())
        lost += int((old.hits & ~new.hits).sum())
    return gained, lost


def p_value(gained: int, lost: int) -> float:
    """Two-sided exact p of the sign test; 1 where no answer changed."""
    changed = gained + lost
    return float(stats.binomtest(gained, changed).pvalue) if changed else 1.0
