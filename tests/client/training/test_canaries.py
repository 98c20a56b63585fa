"""An audit's canaries are records like any other: drawn, clipped, summed and noised with the real ones."""

from dataclasses import replace

import numpy as np
import pytest

from tests.client.conftest import Attach, start_for
from tests.client.rounds import PLAN, CountingSource, Given, NoLoss, examples, gradients, label_head, prepared
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.train import train_round

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")


def released(model: AdaptedModel, canaries: Given | None, plan: TrainingPlan = PLAN, **more: object) -> np.ndarray:
    """The sum that one round releases, without noise and, unless a head is given, without gradients of records."""
    start, source = start_for(model, "core"), more.get("source", CountingSource(silent=True))
    head = more.get("head", NoLoss())
    done = train_round(model, start, prepared(model), head, plan, source=source, canaries=canaries)  # type: ignore[arg-type]
    return -done.update.flatten() * plan.divisor


def test_canaries_are_clipped_each_by_itself_in_the_order_of_the_update(attach: Attach) -> None:
    model = attach("core")
    rows = gradients(model, 3, 1.0) * np.array([[0.01], [1.0], [100.0]])
    expected = rows[0] + PLAN.clip_norm * (rows[1] + rows[2] / 100.0)
    np.testing.assert_allclose(released(model, Given(rows)), expected, atol=1e-6)


def test_canaries_add_to_the_gradients_of_the_real_records(attach: Attach) -> None:
    model, head = attach("core"), label_head()
    rows = gradients(model, 2, PLAN.clip_norm)
    both = released(model, Given(rows), head=head)
    np.testing.assert_allclose(both, released(model, None, head=head) + rows.sum(0), atol=1e-6)


def test_canaries_are_drawn_at_the_rate_of_the_plan(attach: Attach) -> None:
    model, canaries = attach("core"), Given(np.zeros((4000, 96)))
    released(model, canaries, replace(PLAN, sampling_rate=0.25))
    assert len(canaries.drawn) == pytest.approx(1000, abs=110)  # Four standard deviations.
    assert len(set(canaries.drawn)) == len(canaries.drawn)


def test_canaries_change_neither_the_noise_nor_its_event(attach: Attach) -> None:
    model, source = attach("core"), CountingSource()
    start = start_for(model, "core")
    done = train_round(model, start, prepared(model), NoLoss(), PLAN, source=source, canaries=Given(np.zeros((9, 96))))
    assert source.gaussians == [96]
    assert done.event == PLAN.event()


def test_more_canaries_than_a_piece_holds_give_the_same_sum(attach: Attach) -> None:
    model = attach("core")
    rows = gradients(model, 10, 1.0)
    whole = released(model, Given(rows))
    np.testing.assert_allclose(
        released(model, Given(rows), replace(PLAN, physical_batch_size=3)), whole, rtol=1e-5, atol=1e-7
    )


def test_without_canaries_every_draw_is_as_it_was(attach: Attach) -> None:
    model, source = attach("core"), CountingSource(silent=True)
    same = CountingSource(silent=True)
    plan = replace(PLAN, sampling_rate=0.5)
    left = released(model, None, plan, head=label_head(), source=source)
    right = released(model, Given(np.zeros((0, 96))), plan, head=label_head(), source=same)
    np.testing.assert_array_equal(left, right)
    assert len(examples()) == 6


def test_a_site_of_a_lower_rank_takes_canaries_of_its_block_alone(attach: Attach) -> None:
    model = attach("core")
    size = 6 * 2 * 2
    rows = np.eye(size)[:1]
    found = released(model, Given(rows), replace(PLAN, rank=2))
    assert np.count_nonzero(found) == 1
    assert np.linalg.norm(found) == pytest.approx(PLAN.clip_norm, rel=1e-5)
