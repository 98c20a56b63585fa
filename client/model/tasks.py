"""Task heads: from final hidden states to one loss a record, and to what is counted when an adapter is measured.

- `classify` has a matrix that trains, on conditioned states of the frozen base (`head_model.py`); or it scores a
  prompt's last hidden state against one fixed vector a label: the mean output embedding of the
  label's tokens, minus what the untouched base says to an empty prompt. Only the base shapes the head, nothing of it
  trains, and one position and a small matrix carry the gradient.
- `lm` and `instruct` take next-token cross-entropy at the targets only (`token_losses.py`).
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.head_model import TEMPERATURE
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord
from yoriai.client.model.prepared import Batch
from yoriai.client.model.token_losses import token_losses
from yoriai.client.records.control_tokens import TextEncoder, Tokenizer
from yoriai.client.records.likeness import twins
from yoriai.client.records.token_bytes import token_bytes
from yoriai.errors import ConfigError


class TaskHead(Protocol):
    """What training and evaluation need to know of a task."""

    def hidden(self, model: FactorModel, batch: Batch) -> Tensor:
        """What the head reads of the model's tail, in a shape of its own."""
        ...

    def losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """One loss a record, in nats. What `hidden` gave -> (B,)."""
        ...

    def tally(self, hidden: Tensor, batch: Batch) -> Tally:
        """What a batch of test records adds to the counts."""
        ...


class LabelHead:
    """The `classify` head.

    Attributes:
        vectors: (L, H) one a label.
        prior: (L,) logits of the untouched base for the empty prompt.
    """

    def __init__(self, vectors: Tensor, prior: Tensor) -> None:
        self.vectors, self.prior = vectors, prior

    def hidden(self, model: FactorModel, batch: Batch) -> Tensor:
        """Each record's last position. (B, H)."""
        hidden: Tensor = model.tail(batch.entering, batch.last)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, H) -> (B, L)."""
        return hidden.float() @ self.vectors.T - self.prior

    def losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the label set. (B, H) -> (B,)."""
        return functional.cross_entropy(self.logits(hidden), batch.labels, reduction="none")

    def tally(self, hidden: Tensor, batch: Batch) -> Tally:
        """Loss, correct answers and the confusion of labels."""
        return answers(self.logits(hidden), batch.labels)


class TrainedHead:
    """The `classify` head whose matrix is what trains; the model's tail ends in its logits.

    The loss in training is that of the logits times the temperature, as where a student learns from soft targets: its
    gradient by the matrix is (p − y) xᵀ, of a size that does not depend on the temperature. Where every logit is zero,
    before the first step, it is −y xᵀ: p is the same for every label then, and what is the same in every row of the
    matrix changes no answer. So the first update is the sum of features by label, in which the coordinator sees what
    all records have in common (`damped` in strategies/server_opt.py).

    Args:
        labels: how many.
    """

    def __init__(self, labels: int) -> None:
        self.labels = labels

    def hidden(self, model: FactorModel, batch: Batch) -> Tensor:
        """Logits. (B, L)."""
        logits: Tensor = model.tail(batch.entering)
        return logits

    def losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the label set, times the temperature; see above for the first. (B, L) -> (B,)."""
        logits = hidden.float()
        cross_entropy = functional.cross_entropy(logits, batch.labels, reduction="none")
        untrained = -logits.gather(1, batch.labels[:, None])[:, 0]
        return TEMPERATURE * torch.where(logits.any(1), cross_entropy, untrained)

    def tally(self, hidden: Tensor, batch: Batch) -> Tally:
        """Loss, correct answers and the confusion of labels."""
        return answers(hidden.float(), batch.labels)


def answers(logits: Tensor, labels: Tensor) -> Tally:
    """What answering the likeliest label counts. (B, L) and (B,)."""
    predicted, size = logits.argmax(1), logits.shape[1]
    confusion = torch.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    columns = (losses, labels, predicted, logits.softmax(1).amax(1))
    return Tally(
        records=len(predicted),
        loss_sum=float(functional.cross_entropy(logits, labels, reduction="sum")),
        loss_units=len(predicted),
        correct=int((predicted == labels).sum()),
        answered=len(predicted),
        hits=(predicted == labels).cpu().numpy(),
        confusion=confusion.cpu().numpy(),
        per_record=PerRecord.classified(*(column.cpu().numpy() for column in columns)),
    )


class LanguageHead:
    """The `lm` and `instruct` head: next-token cross-entropy, averaged over a record's targets.

    Args:
        output_embedding: of the base, (V, H).
        cap: as `layers.output_logits`.
    """

    def __init__(self, output_embedding: Tensor, tokenizer: Tokenizer, cap: float | None = None) -> None:
        self._output_embedding, self._cap = output_embedding, cap
        self._token_bytes = torch.from_numpy(token_bytes(tokenizer))

    def hidden(self, model: FactorModel, batch: Batch) -> Tensor:
        """Every position. (B, T, H)."""
        hidden: Tensor = model.tail(batch.entering)
        return hidden

    def losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(B, T, H) -> (B,), zero for a record without targets."""
        return self._token_losses(hidden, batch).sum(1) / (batch.targets > 0).sum(1).clamp(min=1)

    def tally(self, hidden: Tensor, batch: Batch) -> Tally:
        """Loss a token, and the bytes that those tokens stand for."""
        token_losses, wanted = self._token_losses(hidden, batch), batch.targets > 0
        targets = batch.token_ids.gather(1, batch.targets).cpu()
        sizes = self._token_bytes[targets].where(wanted.cpu(), 0).sum(1)
        columns = (token_losses.double().sum(1), wanted.sum(1), sizes)
        return Tally(
            records=len(batch.last),
            loss_sum=float(token_losses.sum()),
            loss_units=int(wanted.sum()),
            target_bytes=int(sizes.sum()),
            per_record=PerRecord.predicted(*(column.cpu().numpy() for column in columns)),
        )

    def _token_losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Loss of every target, (B, K), zero where there is none; the state before a token predicts it.

        As many places a record as the batch has, and not as many rows in all as there are targets: the shape of the
        product with the vocabulary must not depend on which records are in the batch.
        """
        before = (batch.targets - 1).clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1])
        states = hidden.gather(1, before).float()
        wanted = batch.token_ids.gather(1, batch.targets)
        losses = token_losses(states.flatten(0, 1), self._output_embedding, wanted.flatten(), self._cap).view_as(wanted)
        return losses.where(batch.targets > 0, 0.0)


def label_tokens(encoder: TextEncoder, label: str) -> list[int]:
    """A label as a text would go on with it: in lower case, after a space."""
    return encoder.encode_text(" " + label.lower())


@torch.no_grad()
def label_vectors(output_embedding: Tensor, tokenizer: Tokenizer, labels: Sequence[str]) -> Tensor:
    """Mean output embedding of each label's tokens, lower case and with a leading space. (L, H)."""
    encoder = TextEncoder(tokenizer)
    means = [output_embedding[torch.tensor(label_tokens(encoder, label))].mean(0) for label in labels]
    return torch.stack(means).float()


def check_labels(tokenizer: Tokenizer, labels: Sequence[str]) -> None:
    """Raise ConfigError, naming places in task.labels alone, if two labels have the same vector, or look the same.

    A vector is a mean over tokens in lower case: upper case, the order of words and whole repetitions make no
    difference. Two labels look the same if Unicode form, spaces or characters of no width are all that differs.
    """
    places: dict[frozenset[tuple[int, int]], int] = {}
    encoder = TextEncoder(tokenizer)
    for place, label in enumerate(labels, start=1):
        counts = Counter(label_tokens(encoder, label))
        common = math.gcd(*counts.values())
        shares = frozenset((token, count // common) for token, count in counts.items())
        if (first := places.setdefault(shares, place)) != place:
            raise ConfigError(
                "the base cannot tell two labels apart",
                found=f"labels {first} and {place} of task.labels have the same tokens",
                expected="labels that differ in more than case or the order of their words",
                remedy="rename one of them in the records, or make them one",
            )
    if pairs := twins(labels):
        one, other = (labels.index(label) + 1 for label in pairs[0])
        raise ConfigError(
            "two labels look the same",
            found=f"labels {one} and {other} of task.labels differ in Unicode form, spaces or what is not seen",
            expected="each label written in one way",
            remedy="write them alike in the records, and list one of them",
        )


@torch.no_grad()
def untouched_logits(model: AdaptedModel, empty_prompt: Tensor, vectors: Tensor) -> Tensor:
    """The label logits (L,) of the bare base after the template with nothing in it; `empty_prompt` is (1, T) int64."""
    with model.untouched():
        hidden = model.final_hidden(model.prefix(empty_prompt))
    logits: Tensor = hidden[0, -1].float() @ vectors.T
    return logits
