"""What was measured of each test record, so that two models can be compared on the same ones. numpy only."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PerRecord:
    """Arrays of shape (records,), in the order of the records, whatever order they were measured in.

    Attributes:
        losses: nats, summed over `units` (1 for classify, target tokens otherwise).
        units, target_bytes: of each record's target; bytes are 0 for classify.
        expected, given: label numbers, -1 where the task has no labels.
        confidence: probability that the model gave its answer; 0 where the task has no labels.
    """

    losses: Floats
    units: Ints
    target_bytes: Ints
    expected: Ints
    given: Ints
    confidence: Floats

    @classmethod
    def classified(cls, losses: Any, expected: Any, given: Any, confidence: Any) -> Self:
        """Of records with a label each; arrays, or what makes them, of shape (records,)."""
        expected = np.asarray(expected, np.int64)
        ones, given = np.ones(len(expected), np.int64), np.asarray(given, np.int64)
        return cls(np.asarray(losses, np.float64), ones, 0 * ones, expected, given, np.asarray(confidence, np.float64))

    @classmethod
    def predicted(cls, losses: Any, units: Any, target_bytes: Any) -> Self:
        """Of records whose target is text; arrays, or what makes them, of shape (records,)."""
        losses = np.asarray(losses, np.float64)
        none = np.full(len(losses), -1, np.int64)
        counts = (np.asarray(units, np.int64), np.asarray(target_bytes, np.int64))
        return cls(losses, *counts, none, none.copy(), np.zeros(len(losses)))

    def __len__(self) -> int:
        return len(self.losses)

    def __add__(self, other: "PerRecord") -> "PerRecord":
        return PerRecord(*(np.concatenate([a, b]) for a, b in zip(self._arrays(), other._arrays(), strict=True)))

    def placed(self, order: list[int]) -> "PerRecord":
        """Back in the order of the records, where row i was measured of record `order[i]`."""
        back = np.argsort(np.array(order, np.int64))
        return PerRecord(*(array[back] for array in self._arrays()))

    def taken(self, rows: Ints) -> "PerRecord":
        """Some of the records, in this order."""
        return PerRecord(*(array[rows] for array in self._arrays()))

    @property
    def has_labels(self) -> bool:
        """Whether these are answers of a classifier."""
        return bool(len(self)) and bool((self.expected >= 0).all())

    @property
    def right(self) -> NDArray[np.bool_]:
        """(records,) whether the label is right."""
        return np.asarray(self.given == self.expected)

    def to_json(self) -> dict[str, list[float]]:
        """Lists by name; floats to six digits behind the point."""
        return {field.name: np.round(getattr(self, field.name), 6).tolist() for field in fields(self)}

    @classmethod
    def from_json(cls, stored: dict[str, list[float]]) -> Self:
        """What `to_json` gave. Raises KeyError, ValueError or TypeError if it is not that."""
        floats = {"losses", "confidence"}
        arrays: dict[str, Any] = {
            f.name: np.array(stored[f.name], np.float64 if f.name in floats else np.int64) for f in fields(cls)
        }
        if len({len(array) for array in arrays.values()}) != 1:
            raise ValueError("arrays of unequal lengths")
        return cls(**arrays)

    def _arrays(self) -> list[NDArray[Any]]:
        return [getattr(self, field.name) for field in fields(self)]
