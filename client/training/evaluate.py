"""Measure an adapter on test records."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.limits import EXACT_MATCH_RECORDS
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.measure import Tally
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.training.answer_scores import chrf, token_f1
from yoriai.client.training.answers import answers
from yoriai.strategies.adapter import AdapterState


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
        exact_match: also generate responses greedily, for `instruct` tasks: compared whole, and by how near they come;
            `answered` then is the number of responses generated, EXACT_MATCH_RECORDS at most.
        progress: called as (records done, records in all) before each batch and each generated response.
    """
    tell = progress or _untold
    pieces: list[Tally] = []
    with model.threads():
        model.load(adapter)
        for batch in records.batches(range(len(records)), physical_batch_size):
            tell(sum(piece.records for piece in pieces), len(records))
            pieces.append(head.tally(head.hidden(model, batch), batch))
    total = pieces[0] if pieces else Tally(records=0, loss_sum=0.0, loss_units=0)
    for piece in pieces[1:]:
        total = total + piece
    if total.per_record is not None:
        total = replace(total, per_record=total.per_record.placed(records.by_length(range(len(records)))))
    if exact_match and isinstance(model, AdaptedModel):
        total = _with_answers(total, model, records, tell)
    return total


def _with_answers(
    total: Tally, model: AdaptedModel, records: PreparedRecords, tell: Callable[[int, int], None]
) -> Tally:
    """The counts with those of the responses that the loaded adapter gives."""
    sample = [example for example in records.examples if example.loss_mask.any()][:EXACT_MATCH_RECORDS]
    found = answers(model, sample, tell)
    exact = np.array([answer.exact for answer in found], np.bool_)
    return replace(
        total,
        correct=int(exact.sum()),
        answered=len(sample),
        hits=exact,
        token_f1_sum=sum(token_f1(answer.given, answer.expected) for answer in found),
        chrf_sum=sum(chrf(answer.given, answer.expected) for answer in found),
    )


def _untold(_done: int, _total: int) -> None:
    """Nobody asked for progress."""
