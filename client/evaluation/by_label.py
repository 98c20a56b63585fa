"""Which labels gained and lost: right answers of each before and after, on the same test records. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yoriai.client.model.per_record import PerRecord
from yoriai.comparison import Verdict, sign_test


@dataclass(frozen=True)
class LabelChange:
    """One label of the test records.

    Attributes:
        records: test records that have it.
        right_before, right_after: of them.
        gained, lost: of them, wrong before and right after, and the other way round.
        answered_before, answered_after: how often it was answered at all.
        verdict: by the exact sign test at 5 %, for this label by itself.
    """

    label: str
    records: int
    right_before: int
    right_after: int
    gained: int
    lost: int
    answered_before: int
    answered_after: int
    verdict: Verdict


def label_changes(before: PerRecord, after: PerRecord, labels: Sequence[str]) -> tuple[LabelChange, ...]:
    """The labels that occur among the test records, the largest gain in records first, and the largest loss last."""
    found = []
    for number, label in enumerate(labels):
        own = before.expected == number
        if not own.any():
            continue
        old, new = before.right[own], after.right[own]
        gained, lost = int((~old & new).sum()), int((old & ~new).sum())
        found.append(
            LabelChange(
                label=label,
                records=int(own.sum()),
                right_before=int(old.sum()),
                right_after=int(new.sum()),
                gained=gained,
                lost=lost,
                answered_before=int(np.sum(before.given == number)),
                answered_after=int(np.sum(after.given == number)),
                verdict=sign_test(gained, lost),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.lost - one.gained, one.label)))
