"""A site's step on a GPU: `make test-gpu`. Without one each of these is skipped."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.client.conftest import Attach, start_for
from tests.client.rounds import GRAIN, PLAN, examples, label_head, prepared, update
from tests.privacy.clipped_rows import Kept
from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai.client.base.base_model import BaseModel, choose_device, wrap_base
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import LabelHead
from yoriai.client.training.gradients import RoundGradients
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.strategies.rule import get_rule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.fixture
def on_gpu() -> BaseModel:
    tokenizer = tiny_tokenizer()
    return wrap_base("tiny", tiny_llama(tokenizer), tokenizer, device=choose_device("cuda:0"))


def head() -> LabelHead:
    on_cpu = label_head()
    return LabelHead(on_cpu.vectors.cuda(), on_cpu.prior.cuda())


@pytest.mark.parametrize("rule", ["core", "fedavg"])
def test_a_step_is_that_of_the_cpu_as_far_as_bfloat16_goes(attach: Attach, on_gpu: BaseModel, rule: str) -> None:
    expected = update(attach(rule), rule, PLAN)
    model = attach(rule, on=on_gpu)
    found = update(model, rule, PLAN, head=head())
    assert np.linalg.norm(found - expected) <= 0.05 * np.linalg.norm(expected) + GRAIN


@pytest.mark.parametrize("rule", ["core", "fedavg"])
def test_not_a_bit_of_a_gradient_depends_on_the_others(attach: Attach, on_gpu: BaseModel, rule: str) -> None:
    model = attach(rule, on=on_gpu)
    plan = replace(PLAN, factors=get_rule(rule).trainable(0))

    def rows(chosen: Sequence[int]) -> set[bytes]:
        kept = Kept()
        records = PreparedRecords(model, [examples(12)[i] for i in chosen], known={})
        RoundGradients.at(model, start_for(model, rule), records, head(), plan).batch(SystemSource(), rows=kept)
        return set(kept.rows)

    everyone = rows(range(12))
    for left_out in range(12):
        assert rows([i for i in range(12) if i != left_out]) < everyone


def test_where_memory_runs_out_pieces_shrink_and_the_batch_does_not(attach: Attach, on_gpu: BaseModel) -> None:
    model = attach("fedavg", on=on_gpu)
    records = prepared(model, examples(64))
    whole = update(model, "fedavg", PLAN, records=records, head=head())
    smaller = attach("fedavg", on=on_gpu)
    held = torch.cuda.memory_allocated() + 3 * 2**20
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(held / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = update(smaller, "fedavg", PLAN, records=prepared(smaller, examples(64)), head=head())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found, whole, rtol=0.02, atol=10 * GRAIN)
