"""A site's own adapter: what trains and what stands still, what it costs, and when it may be trained at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import LABELS, JobMaker, start_for
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site import personal as module
from yoriai.client.site.personal import PersonalTraining, personal_event, personal_run_id, train_personal
from yoriai.client.training.evaluate import evaluate
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.train import LocalUpdate
from yoriai.config import JobConfig
from yoriai.errors import BudgetError, ConfigError, PolicyError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.job_terms.noise import LocalNoise
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.strategies.adapter import AdapterState, difference
from yoriai.strategies.rule import built_in_rules, get_rule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

RECORDS = [Record(prompt=f"order {n % 3}", response=LABELS[n % 3]) for n in range(9)]
PLAIN = {"privacy__noise": "none", "training__sampling_rate": 1.0}
OWN = {"personal__rounds": 3, "personal__epsilon": 2.0}
RUN = "run-1/personal"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger that a job of one round was charged to already."""
    with Ledger.open(tmp_path / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as opened:
        opened.reserve("run-1", 0, SampledGaussian(0.5, 1.0, 1))
        opened.mark_released("run-1", 0)
        yield opened


def training(bench: ModelSession, job: JobConfig, records: list[Record] | None = None) -> PersonalTraining:
    """From a shared adapter none of whose factors is zero."""
    shared = start_for(bench.model(job), job.federation.rule)
    return PersonalTraining("run-1", job, shared, bench.prepare(records or RECORDS, job), weight=1)


def trained(
    bench: ModelSession, job: JobConfig, ledger: Ledger, records: list[Record] | None = None, **more: Any
) -> AdapterState:
    return train_personal(training(bench, job, records), bench, ledger, source=SeededSource(b"x"), **more)


def own_charges(ledger: Ledger) -> list[bool]:
    """Whether each charge of the personal run was released."""
    return [charge.released for charge in ledger.charges() if charge.job_id == RUN]


def forbidden(*_: object, **__: object) -> LocalUpdate:
    raise AssertionError("a gradient was computed")


def test_without_privacy_the_loss_on_the_sites_own_records_falls(
    session: ModelSession, make_job: JobMaker, ledger: Ledger
) -> None:
    job = make_job(**PLAIN, personal__rounds=8, personal__learning_rate=0.2)
    own = training(session, job)

    def loss(adapter: AdapterState) -> float:
        model, head = session.model(job), session.head(job)
        return evaluate(model, adapter, own.records, head, physical_batch_size=8).loss

    before = loss(own.shared)
    assert loss(train_personal(own, session, ledger, source=SeededSource(b"x"))) < before - 0.01


def test_without_privacy_the_ledger_is_not_touched(session: ModelSession, make_job: JobMaker, ledger: Ledger) -> None:
    before = ledger.charges()
    trained(session, make_job(**PLAIN, **OWN), ledger)
    assert ledger.charges() == before


@pytest.mark.parametrize("rule", [rule.name for rule in built_in_rules()])
def test_factors_that_do_not_train_stay_bit_for_bit_and_the_others_move(
    session: ModelSession, make_job: JobMaker, ledger: Ledger, rule: str
) -> None:
    job = make_job(**PLAIN, personal__rounds=2, federation__rule=rule)
    own = training(session, job)
    after = train_personal(own, session, ledger, source=SeededSource(b"x"))
    moving = {factor for index in range(2) for factor in get_rule(rule).trainable(index)}
    for name, tensor in own.shared.tensors.items():
        assert (after.tensors[name].tobytes() == tensor.tobytes()) == (name.rpartition(":")[2] not in moving), name


def test_factors_that_take_turns_have_an_adam_each_whose_steps_fall_linearly(
    session: ModelSession, make_job: JobMaker, ledger: Ledger
) -> None:
    job = make_job(**PLAIN, personal__rounds=2, personal__learning_rate=0.02, federation__rule="rolora")
    own = training(session, job)
    moved = difference(train_personal(own, session, ledger, source=SeededSource(b"x")), own.shared)
    # The first step of an Adam is the learning rate in every entry whose gradient is not tiny.
    for factor, step in (("B", 0.02), ("A", 0.01)):
        largest = np.abs(moved.select((factor,)).flatten()).max()
        assert largest == pytest.approx(step, rel=1e-3), factor


def test_two_sites_get_adapters_of_their_own(session: ModelSession, make_job: JobMaker, ledger: Ledger) -> None:
    job = make_job(**PLAIN, **OWN)
    others = [replace(record, response=LABELS[0]) for record in RECORDS]
    assert trained(session, job, ledger) != trained(session, job, ledger, others)


def test_a_site_of_lower_rank_moves_its_own_directions_only(
    session: ModelSession, make_job: JobMaker, ledger: Ledger
) -> None:
    own = replace(training(session, make_job(**PLAIN, **OWN)), rank=2)
    moved = difference(train_personal(own, session, ledger, source=SeededSource(b"x")), own.shared).select(("R",))
    for tensor in moved.tensors.values():
        assert tensor[:2, :2].any()
        assert not tensor[2:].any()
        assert not tensor[:, 2:].any()


def test_it_is_a_run_of_its_own_in_the_ledger_within_its_own_epsilon(
    session: ModelSession, make_job: JobMaker, ledger: Ledger
) -> None:
    before = ledger.spent()
    trained(session, make_job(**OWN), ledger)
    assert personal_run_id("run-1") == RUN
    assert own_charges(ledger) == [True]
    assert 1.9 < ledger.spent_for(RUN) <= 2.0
    assert ledger.spent() > before
    assert ledger.outstanding(RUN) == 0


def test_the_rounds_add_the_noise_that_is_charged_for_all_of_them(
    session: ModelSession, make_job: JobMaker, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[TrainingPlan] = []
    real = module.train_round

    def spying(*values: Any, **named: Any) -> LocalUpdate:
        assert own_charges(ledger) == [False]  # Charged before a gradient, released after the last.
        plans.append(values[4])
        return real(*values, **named)

    monkeypatch.setattr(module, "train_round", spying)
    job = make_job(**OWN, training__local_steps=2)
    trained(session, job, ledger)
    event = personal_event(job)
    assert event is not None
    assert event == ledger.charges()[-1].event
    assert event.steps == sum(plan.local_steps for plan in plans) == 6
    assert {(plan.noise.multiplier, plan.sampling_rate) for plan in plans} == {(event.noise_multiplier, 0.5)}


def test_a_budget_that_is_too_small_refuses_before_a_gradient(
    session: ModelSession, make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train_round", forbidden)
    with Ledger.open(tmp_path / "small.sqlite", dataset="north", epsilon_budget=1.5, delta=1e-5) as small:
        with pytest.raises(BudgetError, match=r"of 1\.5 is left"):
            trained(session, make_job(**OWN), small)
        assert small.charges() == []


def test_an_interrupted_training_starts_over_on_the_same_charge(
    session: ModelSession, make_job: JobMaker, ledger: Ledger
) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    job = make_job(**OWN)
    with pytest.raises(KeyboardInterrupt):
        trained(session, job, ledger, progress=stop)
    assert own_charges(ledger) == [False]
    again = trained(session, job, ledger)
    assert own_charges(ledger) == [True]
    assert again.factors() == ("A", "R", "U")


def test_a_released_adapter_is_not_trained_again(
    session: ModelSession, make_job: JobMaker, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(**OWN)
    trained(session, job, ledger)
    monkeypatch.setattr(module, "train_round", forbidden)
    with pytest.raises(BudgetError, match="released its personal adapter already"):
        trained(session, job, ledger)
    assert own_charges(ledger) == [True]


def test_a_training_that_fails_is_paid_for(
    session: ModelSession, make_job: JobMaker, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> LocalUpdate:
        raise TrainingError("training diverged")

    monkeypatch.setattr(module, "train_round", failing)
    with pytest.raises(TrainingError, match="diverged"):
        trained(session, make_job(**OWN), ledger)
    assert own_charges(ledger) == [True]
    assert ledger.outstanding(RUN) == 0


def test_less_noise_than_was_charged_is_refused(
    session: ModelSession, make_job: JobMaker, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.train_round

    def quieter(*values: Any, **named: Any) -> LocalUpdate:
        plan = replace(values[4], noise=LocalNoise(values[4].noise.multiplier / 2))
        return real(*values[:4], plan, **named)

    monkeypatch.setattr(module, "train_round", quieter)
    with pytest.raises(TrainingError, match="other noise"):
        trained(session, make_job(**OWN), ledger)


def test_an_open_charge_does_not_serve_other_privacy_settings(
    session: ModelSession, make_job: JobMaker, ledger: Ledger
) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(session, make_job(**OWN), ledger, progress=stop)
    with pytest.raises(PolicyError, match="other privacy settings"):
        trained(session, make_job(**OWN | {"personal__epsilon": 4.0}), ledger)
    assert own_charges(ledger) == [False]


def test_a_job_without_personal_rounds_trains_none(session: ModelSession, make_job: JobMaker, ledger: Ledger) -> None:
    assert personal_event(make_job()) is None
    with pytest.raises(ConfigError, match=r"personal\.rounds"):
        trained(session, make_job(), ledger)
