"""Owners as the unit of privacy: who they are, how they are drawn and clipped, and what a site refuses."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, Attach, JobMaker, start_for
from tests.client.rounds import GRAIN, PLAN, UNITS, CountingSource, NoLoss, by_owner, label_head, update
from yoriai.client.base.pieces import Rows
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.records.records import Record
from yoriai.client.records.units import owner_units, unit_count
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import training_plan
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.train import train_round
from yoriai.config import PrivacySection
from yoriai.errors import ConfigError, RecordError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.job_terms.noise import LocalNoise
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

BY_OWNER = PrivacySection(unit="owner")


def record(owner: str | None, number: int = 0) -> Record:
    return Record(prompt=f"record {number}", response=LABELS[number % 3], owner=owner, place=f"f line {number + 1}")


def test_records_are_grouped_by_owner_in_the_order_of_the_file() -> None:
    records = [record(owner, n) for n, owner in enumerate(["b", "a", "b", "c", "a", "b"])]
    assert owner_units(records, BY_OWNER) == ((0, 2, 5), (1, 4), (3,))
    assert owner_units(records, PrivacySection()) is None
    assert (unit_count(records, BY_OWNER), unit_count(records, PrivacySection())) == (3, 6)


def test_one_owner_written_in_two_ways_is_one_owner() -> None:
    records = [record("Mu\u0308ller"), record("M\u00fcller "), record("Muller")]
    assert owner_units(records, BY_OWNER) == ((0, 1), (2,))


@pytest.mark.parametrize("owner", [None, "", "  "])
def test_records_without_an_owner_are_refused_with_place_and_remedy(owner: str | None) -> None:
    with pytest.raises(RecordError, match=r"f line 2: no owner, as in 1 other records.*add the field") as caught:
        owner_units([record("a"), record(owner, 1), record(owner, 2)], BY_OWNER)
    assert "record 1" not in str(caught.value)
    assert owner_units([record(owner)], PrivacySection()) is None


def test_a_limit_takes_an_owners_first_records_and_looks_at_no_other_owner() -> None:
    records = [record(owner, n) for n, owner in enumerate(["b", "a", "b", "b", "a"])]
    limited = PrivacySection(unit="owner", records_per_owner=2)
    assert owner_units(records, limited) == ((0, 2), (1, 4))
    assert owner_units([r for r in records if r.owner == "b"], limited) == ((0, 1),)


def test_a_limit_on_records_per_owner_without_owners_is_refused(make_job: JobMaker) -> None:
    with pytest.raises(ConfigError, match="records_per_owner limits the records of an owner"):
        check_fit(make_job(privacy__records_per_owner=3))
    check_fit(make_job(privacy__records_per_owner=3, privacy__unit="owner"))


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_pieces_hold_every_record_of_a_drawn_owner_one_after_another(attach: Attach, size: int, filled: bool) -> None:
    records = by_owner(attach())
    pieces = list(records.pieces(np.array([0, 2]), lambda shape: Rows(size, filled)))
    rows = [unit for piece in pieces for unit in piece.units]
    assert sorted(rows) == [0, 0, 0, 2]
    assert len([unit for unit, _ in itertools.groupby(rows)]) == 2
    assert all(len(piece.batch.last) == size if filled else len(piece.units) for piece in pieces)
    assert all(len(piece.batch.last) <= size for piece in pieces)
    lengths = sorted(n for piece in pieces for n in (piece.batch.last + 1).tolist()[: len(piece.units)])
    assert lengths == sorted(len(records.examples[i].token_ids) for i in (0, 3, 4, 2))
    assert (records.unit_count, len(records)) == (3, 6)


def naive(model: AdaptedModel, rule: str, units: Sequence[Sequence[int]], clip_norm: float) -> np.ndarray:
    """The step by plain autograd on single records, added up by owner and clipped."""
    records, head = by_owner(model), label_head()
    model.load(start_for(model, rule))
    model.set_trainable(get_rule(rule).trainable(0))
    parameters = [p for _, p in sorted(model.factor_parameters().items()) if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for unit in units:
        vector = np.zeros_like(total)
        for index in unit:
            (batch,) = records.batches([index], 1)
            gradients = torch.autograd.grad(head.losses(head.hidden(model, batch), batch).sum(), parameters)
            vector += torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
        total += vector * min(1.0, clip_norm / np.linalg.norm(vector))
    return -total


@pytest.mark.parametrize("rule", ["core", "fedavg", "ffa"])
@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_private_step_is_that_of_a_loop_over_owners(attach: Attach, rule: str, size: int) -> None:
    model = attach(rule)
    found = update(model, rule, replace(PLAN, physical_batch_size=size), records=by_owner(model))
    np.testing.assert_allclose(found, naive(model, rule, UNITS, PLAN.clip_norm), rtol=1e-3, atol=GRAIN)


def without(units: Sequence[Sequence[int]], dropped: int) -> tuple[Sequence[int], ...]:
    return tuple(unit for number, unit in enumerate(units) if number != dropped)


@pytest.mark.parametrize("units", [UNITS, tuple((n,) for n in range(6))], ids=["owner", "record"])
@pytest.mark.parametrize("size", [2, 64])
def test_neighbours_move_the_clipped_sum_by_at_most_the_clip_norm(
    attach: Attach, units: Sequence[Sequence[int]], size: int
) -> None:
    """Without noise and at learning rate and divisor 1 the update is the clipped sum, with its sign turned."""
    model, plan = attach("core"), replace(PLAN, physical_batch_size=size)
    whole = update(model, "core", plan, records=by_owner(model, units))
    moved = [
        float(np.linalg.norm(whole - update(model, "core", plan, records=by_owner(model, without(units, dropped)))))
        for dropped in range(len(units))
    ]
    assert PLAN.clip_norm * 0.99 < max(moved) <= PLAN.clip_norm * (1 + 1e-4)


class Watched(CountingSource):
    """Notes how many uniforms were drawn as well."""

    def __init__(self) -> None:
        super().__init__()
        self.uniforms: list[int] = []

    def uniform(self, n: int) -> np.ndarray:
        self.uniforms.append(n)
        return super().uniform(n)


@pytest.mark.parametrize("unit", ["record", "owner"])
def test_neighbouring_data_sets_have_the_same_mechanism(make_job: JobMaker, session: ModelSession, unit: str) -> None:
    """Event, divisor and scale of the noise come from job and roster, never from the records that are there."""
    job = make_job(training__records_per_weight=7, training__local_steps=2, privacy__unit=unit)
    model, start = session.model(job), session.initial_adapter(job)
    whole = [record("abcd"[n % 4], n) for n in range(9)]
    neighbour = whole[:-1] if unit == "record" else [r for r in whole if r.owner != "a"]
    plans, events, draws, units = [], [], [], []
    for records in (whole, neighbour):
        plan, source = training_plan(job, 0, weight=3, noise=LocalNoise(1.5), physical_batch_size=8), Watched()
        done = train_round(model, start, session.prepare(records, job), NoLoss(), plan, source=source)
        plans.append(plan)
        events.append(done.event)
        draws.append(source.gaussians)
        units.append(source.uniforms)
    assert plans[0] == plans[1]
    assert plans[0].divisor == 0.5 * 3 * 7
    assert events == [SampledGaussian(0.5, 1.5, 2)] * 2
    assert draws[0] == draws[1]
    # The secret sample alone differs: one draw a unit and step.
    assert units == ([[9, 9], [8, 8]] if unit == "record" else [[4, 4], [3, 3]])


def test_the_noise_does_not_grow_with_an_owners_records(attach: Attach) -> None:
    """The same noise for the same stream, whether one owner has all records or each has one."""
    model = attach("core")

    def noise(units: Sequence[Sequence[int]]) -> np.ndarray:
        plan: TrainingPlan = replace(PLAN, noise=LocalNoise(2.0))
        source = CountingSource(b"same")
        source.uniform = np.zeros  # type: ignore[method-assign]
        return update(model, "core", plan, records=by_owner(model, units), head=NoLoss(), source=source)

    np.testing.assert_array_equal(noise(UNITS), noise(((0, 1, 2, 3, 4, 5),)))


def test_records_that_only_measure_need_no_owner(make_job: JobMaker, session: ModelSession) -> None:
    job = make_job(privacy__unit="owner")
    assert len(session.prepare([record(None)], job, for_training=False)) == 1
    with pytest.raises(RecordError, match="no owner"):
        session.prepare([record(None)], job)
