"""What a base says to a classify task by its labels' own words, without any training.

The state of a prompt's last position times each label's vector, minus the same of the untouched base for the template
with nothing in it: what a head of label vectors (`tasks.LabelHead`) says while its adapter is zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from torch import Tensor

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.pieces import filled
from yoriai.client.base.states import FrozenStates, places
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.head_model import HeadModel
from yoriai.client.model.measure import Tally
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import answers, label_vectors
from yoriai.client.records.encoding import Example, encode
from yoriai.client.records.records import Record
from yoriai.config import TaskSection


class LabelWords:
    """A base that answers with its labels' words, with whatever is attached to it.

    Args:
        base: on its device.
        labels: two with equal tokens have one vector, and the first of them is answered.
        prior: (L,) logits of the untouched base for the empty prompt.
    """

    def __init__(self, base: BaseModel, labels: Sequence[str], prior: Tensor) -> None:
        self._device, self._prior = base.device, prior.to(base.device)
        self._read = FrozenStates(base, places(("last",), int(base.model.config.num_hidden_layers)))
        self._vectors = label_vectors(base.model.get_output_embeddings().weight, base.tokenizer, labels)

    @classmethod
    def untouched(cls, base: BaseModel, task: TaskSection) -> "LabelWords":
        """Of a base that nothing is attached to, which gives its prior itself."""
        found = cls(base, task.labels, torch.zeros(len(task.labels)))
        found._prior = found.of_examples([empty_prompt(base, task)])[0]
        return found

    @torch.no_grad()
    def logits(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T) int64, padded at the end, and (B,) tokens of each -> (B, L) float32."""
        return self.of_states(self._read(token_ids, lengths))

    def of_states(self, states: Tensor) -> Tensor:
        """Of states at the last position after the last layer, (B, H) -> (B, L)."""
        return states @ self._vectors.T - self._prior

    def of_examples(self, examples: Sequence[Example]) -> Tensor:
        """All at once. -> (B, L) float32."""
        longest = max(len(example.token_ids) for example in examples)
        ids = filled([example.token_ids for example in examples], longest)
        lengths = torch.tensor([len(example.token_ids) for example in examples])
        return self.logits(ids.to(self._device), lengths.to(self._device))


def empty_prompt(base: BaseModel, task: TaskSection) -> Example:
    """The template of a classify task with nothing in it, in tokens."""
    nothing = [Record(prompt="", response=task.labels[0])]
    return encode(nothing, base.tokenizer, task, context_tokens=base.context_tokens).examples[0]


def base_tally(
    model: FactorModel,
    words: LabelWords,
    records: PreparedRecords,
    *,
    physical_batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tally:
    """Count the answers of the untouched base, in the order of `evaluate.evaluate`.

    Args:
        model: of a job whose head trains, which leaves the base bare; where what it keeps of a record will do, that is
            used.
        words: of the model's base, untouched.
        progress: called as (records done, records in all) before each batch.
    """
    order = records.by_length(range(len(records)))
    states = _last_states(model, records)
    if states is not None:
        return _placed(
            answers(words.of_states(states[order]), torch.tensor([records.examples[i].label for i in order])), order
        )
    pieces = [Tally(records=0, loss_sum=0.0, loss_units=0)]
    for batch in records.batches(range(len(records)), physical_batch_size):
        if progress is not None:
            progress(sum(piece.records for piece in pieces), len(records))
        pieces.append(answers(words.logits(batch.token_ids, batch.last + 1), batch.labels))
    return _placed(reduce(add, pieces[1:] or pieces), order)


def _placed(tally: Tally, order: list[int]) -> Tally:
    """With what was measured of each record in the order of the records."""
    return tally if tally.per_record is None else replace(tally, per_record=tally.per_record.placed(order))


def _last_states(model: FactorModel, records: PreparedRecords) -> Tensor | None:
    """The last position's of every record, (n, H), where a head keeps them."""
    kept = records.kept_states()
    if not kept or not isinstance(model, HeadModel):
        return None
    found = model.last_states(torch.cat(kept))
    return None if found is None else found.to(model.base.device)
