"""How near an export answers to the adapted model, against how far the adapter itself moved the base.

    kl = mean over positions of KL(adapted || export),    own_effect = mean of KL(adapted || base)

An export whose kl is as large as own_effect is worth no more than the base without the adapter. Where the program that
runs it can switch the adapter off, the measure is what it says then: a base in 4 bits is off its own weights already,
with or without an adapter, and the export is not to blame for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from yoriai.errors import AdapterError

Logs = NDArray[np.float64]  # (positions, vocabulary), log-probabilities in nats


@dataclass(frozen=True)
class Fidelity:
    """What was measured of an export on public texts, all of one position each.

    Attributes:
        positions: texts.
        kl, own_effect: as above, nats.
        kl_without: the export's with its adapter switched off; None where that cannot be.
        top1: share of positions with the adapted model's likeliest token.
        own_top1: the bare base's.
        labels: share of texts with the adapted model's label; None for other tasks.
    """

    positions: int
    kl: float
    own_effect: float
    kl_without: float | None
    top1: float
    own_top1: float
    labels: float | None = None

    @property
    def relative(self) -> float | None:
        """kl as a share of the adapter's own effect; None for an adapter without any."""
        return self.kl / self.own_effect if self.own_effect > 0 else None

    def check(self) -> None:
        """Raise AdapterError unless the export is nearer to the adapted model than what does without the adapter."""
        without = self.own_effect if self.kl_without is None else self.kl_without
        if self.kl < without:
            return
        raise AdapterError(
            "the export is no nearer to the adapted model than the base without its adapter",
            found=f"a divergence of {self.kl:.2e} on {self.positions} public texts",
            expected=f"less than {without:.2e}",
            remedy="export with --format gguf --type f16, or --format merged",
        )


def compare(adapted: Logs, base: Logs, exported: Logs, without: Logs | None = None) -> Fidelity:
    """All at the same positions. `without` is the export with its adapter switched off."""
    return Fidelity(
        positions=len(adapted),
        kl=divergence(adapted, exported),
        own_effect=divergence(adapted, base),
        kl_without=None if without is None else divergence(adapted, without),
        top1=_agreement(adapted, exported),
        own_top1=_agreement(adapted, base),
    )


def divergence(one: Logs, other: Logs) -> float:
    """Mean over positions of KL(one || other), nats; rounding can take it a little below zero, which is zero."""
    return max(0.0, float((np.exp(one) * (one - other)).sum(1).mean()))


def _agreement(one: Logs, other: Logs) -> float:
    return float((one.argmax(1) == other.argmax(1)).mean())


@torch.no_grad()
def log_probabilities(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> Logs:
    """What transformers' model says after each prompt, one at a time: (prompts, vocabulary)."""
    rows = []
    for ids in prompts:
        logits = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0, -1]
        rows.append(logits.double().log_softmax(-1).cpu().numpy())
    return np.stack(rows)


def label_scores(logs: Logs, label_tokens: Sequence[Sequence[int]], prior: Sequence[float]) -> Logs:
    """A classifier's scores from next-token log-probabilities: (positions, labels), up to a number a position.

    A label's vector is the mean of its tokens' output embeddings, so its score is the mean of their logits.

    Args:
        label_tokens: of each label.
        prior: of each label, as task.json has it.
    """
    columns = [logs[:, list(tokens)].mean(1) for tokens in label_tokens]
    scores: Logs = np.stack(columns, 1) - np.asarray(prior)
    return scores
