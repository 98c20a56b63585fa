"""What routing brought on records whose labels are known: share kept, cost, accuracy of small, large and both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from yoriai.client.routing.router import Routed

POINTS: Final = 11
_MILLION: Final = 1e6


@dataclass(frozen=True)
class Price:
    """Of a million tokens, in and out, in whatever currency."""

    prompt: float
    answer: float

    def of(self, tokens: tuple[int, int]) -> float:
        """What an answer cost."""
        return (tokens[0] * self.prompt + tokens[1] * self.answer) / _MILLION


def summary(routed: Sequence[Routed], truths: Sequence[str] | None, price: Price) -> dict[str, Any]:
    """Of texts as they were routed; accuracy where the labels are known, None of no text."""
    counts = {where: sum(one.where == where for one in routed) for where in ("kept", "held", "large", "fault")}
    found: dict[str, Any] = {
        "texts": len(routed),
        **counts,
        "share_kept": round(counts["kept"] / max(1, len(routed)), 4),
        "cost": round(sum(price.of(one.tokens) for one in routed if one.tokens), 6),
        "faults": sorted({one.why for one in routed if one.where == "fault"}),
    }
    if truths is not None:
        right = [one.label == truth for one, truth in zip(routed, truths, strict=True)]
        kept = [good for good, one in zip(right, routed, strict=True) if one.where == "kept"]
        found |= {"accuracy": _share(right), "accuracy_of_kept": _share(kept)}
    return found


def curve(
    margins: Sequence[float],
    small: Sequence[bool],
    large: Sequence[Routed],
    truths: Sequence[str],
    price: Price,
) -> list[dict[str, float | None]]:
    """Cost against accuracy from keeping everything to sending everything, the least sure answers first.

    Args:
        margins: of the small model, by text.
        small: whether its label is right.
        large: what the large model answered to every text; where it did not answer, the small one's label stands.
    """
    order = np.argsort(np.asarray(margins), kind="stable")
    points = []
    for sent in np.linspace(0, len(order), POINTS).round().astype(int):
        out = set(order[:sent].tolist())
        right = [large[i].label == truths[i] if i in out else small[i] for i in range(len(order))]
        cost = sum(price.of(tokens) for i in out if (tokens := large[i].tokens))
        points.append({"sent": round(sent / max(1, len(order)), 4), "cost": round(cost, 6), "accuracy": _share(right)})
    return points


def _share(right: Sequence[bool]) -> float | None:
    return round(sum(right) / len(right), 4) if right else None
