"""What is counted when an adapter meets test records, and the scores that the counts give. numpy only."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from yoriai.client.model.per_record import PerRecord

Count = TypeVar("Count", int, float, NDArray[np.int64], PerRecord)


@dataclass(frozen=True, eq=False)
class Tally:
    """Additive counts over test records, so that sites and batches can be put together.

    Attributes:
        records: how many.
        loss_sum: nats, over `loss_units` (records for classify, target tokens otherwise).
        correct: right labels, or exact matches of a generated response; None where nothing was answered.
        answered: answers that `correct` counts among.
        confusion: (L, L) counts, true label by row; classify only.
        hits: (answered,) whether each answer was right, in the order of evaluation, which is the same for every
            adapter.
        target_bytes: UTF-8 bytes of the target tokens; 0 for classify.
        token_f1_sum, chrf_sum: over the responses generated, each between 0 and 1; None where none was.
        per_record: the same record by record, in the order of the records; None where that was not kept.
    """

    records: int
    loss_sum: float
    loss_units: int
    correct: int | None = None
    answered: int = 0
    confusion: NDArray[np.int64] | None = None
    hits: NDArray[np.bool_] | None = None
    target_bytes: int = 0
    token_f1_sum: float | None = None
    chrf_sum: float | None = None
    per_record: PerRecord | None = None

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            records=self.records + other.records,
            loss_sum=self.loss_sum + other.loss_sum,
            loss_units=self.loss_units + other.loss_units,
            correct=_added(self.correct, other.correct),
            answered=self.answered + other.answered,
            confusion=_added(self.confusion, other.confusion),
            hits=None if self.hits is None or other.hits is None else np.concatenate([self.hits, other.hits]),
            target_bytes=self.target_bytes + other.target_bytes,
            token_f1_sum=_added(self.token_f1_sum, other.token_f1_sum),
            chrf_sum=_added(self.chrf_sum, other.chrf_sum),
            per_record=_added(self.per_record, other.per_record),
        )

    def counts(self) -> dict[str, float | None]:
        """The counts that are plain numbers, by name."""
        return {
            "records": self.records,
            "loss_sum": self.loss_sum,
            "loss_units": self.loss_units,
            "correct": self.correct,
            "answered": self.answered,
            "target_bytes": self.target_bytes,
            "token_f1_sum": self.token_f1_sum,
            "chrf_sum": self.chrf_sum,
        }

    @property
    def loss(self) -> float:
        """Nats a record (classify) or a token."""
        return self.loss_sum / self.loss_units if self.loss_units else math.nan

    @property
    def accuracy(self) -> float | None:
        """Share of right answers."""
        return None if self.correct is None or not self.answered else self.correct / self.answered

    @property
    def token_f1(self) -> float | None:
        """Mean over the responses generated."""
        return None if self.token_f1_sum is None or not self.answered else self.token_f1_sum / self.answered

    @property
    def chrf(self) -> float | None:
        """Mean over the responses generated."""
        return None if self.chrf_sum is None or not self.answered else self.chrf_sum / self.answered

    @property
    def bits_per_byte(self) -> float | None:
        """Loss in bits over the bytes of the targets."""
        return self.loss_sum / math.log(2) / self.target_bytes if self.target_bytes else None

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 over the labels that occur among the test records; a label never predicted scores 0."""
        if self.confusion is None:
            return None
        right = np.diag(self.confusion).astype(np.float64)
        occurring = self.confusion.sum(1)
        denominator = occurring + self.confusion.sum(0)
        present = occurring > 0
        return float((2 * right[present] / denominator[present]).mean()) if present.any() else None


def _added(first: Count | None, second: Count | None) -> Count | None:
    """None where one of them was not counted."""
    return None if first is None or second is None else first + second


def majority_tally(train_labels: list[int], test_labels: list[int], label_count: int) -> Tally:
    """What always answering the commonest training label would score; its loss is that of the training frequencies.

    Each label's count starts at 1, so that a label unseen in training does not cost an infinite loss.
    """
    counts = np.bincount(np.array(train_labels, np.int64), minlength=label_count) + 1
    log_shares = np.log(counts / counts.sum())
    commonest = int(counts.argmax())
    confusion = np.zeros((label_count, label_count), np.int64)
    for label in test_labels:
        confusion[label, commonest] += 1
    truth = np.array(test_labels, np.int64)
    shares = np.exp(log_shares)
    return Tally(
        records=len(test_labels),
        loss_sum=float(-log_shares[test_labels].sum()) if test_labels else 0.0,
        loss_units=len(test_labels),
        correct=test_labels.count(commonest),
        answered=len(test_labels),
        confusion=confusion,
        per_record=PerRecord.classified(
            -log_shares[truth], truth, truth * 0 + commonest, shares[truth * 0 + commonest]
        ),
    )
