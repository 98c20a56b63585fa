"""Measure an adapter on test records."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.measure import Tally
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.strategies.adapter import AdapterState

# Greedy decoding is slow without a GPU, so at most this many responses are generated for exact match.
EXACT_MATCH_RECORDS = 64


@torch.no_grad()
def evaluate(
    model: FactorModel,
    adapter: AdapterState,
    records: PreparedRecords,
    head: TaskHead,
    *,
    physical_batch_size: int,
    exact_match: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tally:
    """Count losses and right answers of `adapter` on `records`.

    Args:
        exact_match: also generate responses greedily and compare them whole, for `instruct` tasks; `answered` then
            is the number of responses generated, EXACT_MATCH_RECORDS at most.
        progress: called as (records done, records in all) before each batch and each generated response.
    """
    tell = progress or _untold
    model.load(adapter)
    model.tail.eval()
    pieces: list[Tally] = []
    for batch in records.batches(range(len(records)), physical_batch_size):
        tell(sum(piece.records for piece in pieces), len(records))
        pieces.append(head.tally(head.hidden(model, batch), batch))
    total = pieces[0] if pieces else Tally(records=0, loss_sum=0.0, loss_units=0)
    for piece in pieces[1:]:
        total = total + piece
    if exact_match and isinstance(model, AdaptedModel):
        sample = [example for example in records.examples if example.loss_mask.any()][:EXACT_MATCH_RECORDS]
        matches = 0
        for done, example in enumerate(sample):
            tell(done, len(sample))
            matches += _answers_exactly(model, example.token_ids.tolist(), example.loss_mask.tolist())
        total = replace(total, correct=matches, answered=len(sample))
    return total


def _untold(_done: int, _total: int) -> None:
    """Nobody asked for progress."""


def _answers_exactly(model: AdaptedModel, token_ids: Sequence[int], loss_mask: Sequence[bool]) -> bool:
    """Whether greedy decoding from the prompt gives the first response, token for token up to where generation ends.

    What a chat template puts behind that end (ChatML a line end) is learnt, and never generated.
    """
    start = loss_mask.index(True)
    stop = next((i for i in range(start, len(loss_mask)) if not loss_mask[i]), len(loss_mask))
    ends = model.base.end_tokens
    stop = next((i + 1 for i in range(start, stop) if token_ids[i] in ends), stop)
    wanted = list(token_ids[start:stop])
    prompt = torch.tensor([token_ids[:start]], device=model.base.device)
    generated = model.peft_model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(wanted),
        do_sample=False,
        pad_token_id=model.base.tokenizer.pad_token_id,
    )
    return bool(generated[0, start:].tolist() == wanted)
