"""A site against a coordinator that may be hostile: what it refuses, what it charges, and what never leaves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import JobMaker
from tests.client.offices import MARKER, Office, accepted, charge_and_size, noise_for, refused, site_records, updated
from yoriai import wire
from yoriai.base_digest import of_weights
from yoriai.client.offer.costing import CostWorker
from yoriai.client.offer.offer_bounds import check_bounds
from yoriai.client.offer.policy import check_membership
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site import round_trainer as module
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.config import PolicySection
from yoriai.errors import AdapterError, LedgerError, PolicyError, TrainingError
from yoriai.privacy.dp.accounting import Accountant, Cost, Events, SampledGaussian, cost
from yoriai.privacy.dp.events import merged
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.core import Core
from yoriai.strategies.rank_block import block_size, restricted_to_block

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

NOISE_FREE = {"privacy__noise": "none"}


@pytest.fixture
def office(session: ModelSession, tmp_path: Path) -> Iterator[Office]:
    policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True)
    with Ledger.open(tmp_path / "ledger.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
        yield Office(session, ledger, policy)


def test_an_honest_job_runs_to_its_end_within_its_own_epsilon(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    for index in range(3):
        update = updated(office.train(job, index))
        assert update.factors() == ("R",)
        update.check_finite()
    assert office.charges() == [(0, True), (1, True), (2, True)]
    assert 0 < office.ledger.spent() <= job.privacy.epsilon


@pytest.mark.parametrize(
    ("policy", "settings", "changes", "reason"),
    [
        ({"min_sites": 3}, {}, {}, "too few sites"),
        ({}, {"federation__min_sites": 1}, {}, "too few sites"),
        ({"base_digests": ("0" * 64,)}, {}, {}, "not one of policy.base_digests"),
        ({}, {}, {"base_digest": "0" * 64}, "another base model"),
        ({}, {"base__digest": "0" * 64}, {}, "another base model"),
        ({}, NOISE_FREE, {}, "forbids jobs without differential privacy"),
        ({"allow_no_privacy": True}, NOISE_FREE, {"noise_multiplier": 1.0}, "promises no noise"),
        ({"delta": 1e-6}, {}, {}, "above the site's own"),
        ({}, {}, {"roster": wire.Roster(serial=1, weights={"south": 1, "east": 1})}, "not in the roster"),
        ({}, {}, {"roster": wire.Roster(serial=1, weights={"north": 1, "south": 256})}, "a weight that none may have"),
        ({}, {}, {"roster": {"serial": 1, "weights": {"north": 0, "south": 1}}}, "malformed"),
        ({}, {}, {"roster": {"serial": 1, "weights": {"north": -3, "south": 1}}}, "malformed"),
        ({}, {"federation__rule": "krum"}, {"payload": b""}, "the job's rule is not built in"),
        ({}, {"lora__rank": 99}, {"payload": b""}, "rank"),
        ({}, {}, {"payload": b"not an adapter"}, "cannot be read"),
        ({}, {"task__labels": ()}, {}, "needs its labels"),
    ],
)
def test_a_job_against_the_rules_is_refused_and_nothing_is_promised(
    office: Office, make_job: JobMaker, policy: dict[str, Any], settings: dict[str, Any], changes: dict[str, Any],
    reason: str,
) -> None:  # fmt: skip
    office.policy = PolicySection(**{"epsilon_budget": 20.0, "allow_plain_updates": True, **policy})
    office.rebuild()
    job = make_job(**settings)
    refused(office.offer(job, **changes), reason)
    assert office.ledger.outstanding(office.run) == 0
    reply = office.train(make_job())
    refused(reply, "not known here")
    assert isinstance(reply, wire.Refusal)
    assert reply.unknown_job
    assert office.charges() == []


def test_labels_that_the_base_cannot_tell_apart_are_refused_and_hold_no_budget(
    office: Office, make_job: JobMaker
) -> None:
    refused(office.offer(make_job(task__labels=("pump", "PUMP"))), "the base cannot tell two labels apart")
    assert office.run not in office.ledger.open_plans()
    assert office.ledger.outstanding(office.run) == 0
    assert office.charges() == []


def test_a_site_whose_tokenizer_differs_is_refused_with_what_differs(office: Office, make_job: JobMaker) -> None:
    ours = office.bench.base.digest
    other = of_weights(ours) + "0" * 64
    refused(office.offer(make_job(), base_digest=other), "another base model: its tokenizer or chat template differs")
    refused(office.offer(make_job(base__digest=other)), "another base model: its tokenizer or chat template differs")
    assert office.ledger.outstanding(office.run) == 0
    office.policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, base_digests=(other,))
    office.rebuild()
    refused(office.offer(make_job()), "not one of policy.base_digests")
    # The half that an earlier version wrote cannot take the other half's place in the policy.
    refused(office.offer(make_job(), base_digest=of_weights(ours)), "not one of policy.base_digests")


def test_what_an_earlier_version_wrote_of_a_base_is_honoured(office: Office, make_job: JobMaker) -> None:
    weights = of_weights(office.bench.base.digest)
    office.policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, base_digests=(weights,))
    office.rebuild()
    job = make_job(base__digest=weights)
    accepted(office.offer(job, base_digest=weights))
    updated(office.train(job, 0))


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (None, "its offer holds none"),
        (0.0, "noise_multiplier"),
        (-1.0, "noise_multiplier"),
        (float("nan"), "malformed"),
        (float("inf"), "malformed"),
        (0.02, "does not keep what the job promises"),
    ],
)
def test_noise_that_is_none_or_nonsense_or_too_little_is_refused(
    office: Office, make_job: JobMaker, noise: float | None, reason: str
) -> None:
    refused(office.offer(make_job(), noise_multiplier=noise), reason)
    assert office.ledger.outstanding(office.run) == 0


def test_noise_just_below_what_the_job_needs_is_refused_though_the_budget_would_bear_it(
    office: Office, make_job: JobMaker
) -> None:
    job = make_job()
    calibrated = noise_for(job)
    assert calibrated is not None
    refused(office.offer(job, noise_multiplier=calibrated * 0.98), "at most 8 (privacy.epsilon)")
    accepted(office.offer(job, noise_multiplier=calibrated))


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({"federation__rounds": 90_000, "training__local_steps": 12}, {}, "training.local_steps is outside"),
        ({"privacy__spare_rounds": 10_000, "training__local_steps": 100}, {}, "training.local_steps is outside"),
        ({}, {"noise_multiplier": 0.0099}, "noise_multiplier is outside what any site takes; found 0.0099"),
        ({}, {"noise_multiplier": 1.1e6}, "expected 0.01 to 1000000; calibrate it"),
        ({"lora__rank": 33}, {}, "lora.rank is outside what any site takes; found 33; expected at most 32"),
        ({"task__labels": tuple(map(str, range(1001)))}, {}, "task.labels, in number, is outside"),
        ({"task__template": "{prompt}" + "x" * 2**17}, {}, "the job's own text, in bytes, is outside"),
        ({}, {"roster": wire.Roster(serial=1, weights={f"s{n}": 1 for n in range(4097)})}, "the roster, in sites, is"),
    ],
)
def test_an_offer_that_would_cost_a_site_too_much_is_refused_by_name_before_its_cost_is_worked_out(
    office: Office, make_job: JobMaker, settings: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    def never(*_: object) -> Cost:
        raise AssertionError

    office.ledger.costing = never
    refused(office.offer(make_job(**settings), **{"noise_multiplier": 1.0, "payload": b"", **changes}), reason)


def test_a_job_of_a_million_steps_is_within_the_bounds_and_one_of_a_step_more_is_not(make_job: JobMaker) -> None:
    def check(rounds: int, spare: int, steps: int) -> None:
        job = make_job(federation__rounds=rounds, privacy__spare_rounds=spare, training__local_steps=steps)
        roster = wire.Roster(serial=1, weights={"north": 2, "south": 1})
        offer = wire.JobOffer.model_construct(job=job.model_dump(mode="json"), roster=roster, noise_multiplier=1.0)
        check_bounds("north", job, offer, width=32)

    check(90_000, 10_000, 10)
    with pytest.raises(PolicyError, match="found 1000001; expected at most 1000000"):
        check(9_900, 1, 101)


def test_an_offer_whose_cost_cannot_be_added_up_within_the_limits_is_refused_by_name_and_nothing_is_held(
    office: Office, make_job: JobMaker
) -> None:
    office.ledger.costing = CostWorker("north", timeout_s=0.0)
    refused(office.offer(make_job()), "cannot be added up within this site's limits; found no answer after 0 s")
    assert office.ledger.outstanding(office.run) == 0
    office.ledger.costing = cost
    accepted(office.offer(make_job()))


def test_a_round_asks_for_no_cost_that_its_offer_did_not_ask_for(office: Office, make_job: JobMaker) -> None:
    asked = []

    def asking(events: Events, delta: float, accountant: Accountant) -> Cost:
        asked.append((merged(events), delta, accountant))
        return cost(events, delta, accountant)

    office.ledger.costing = asking
    accepted(office.offer(make_job()))
    offered = set(asked)
    asked.clear()
    assert isinstance(office.train(make_job()), wire.PlainUpdate)
    assert set(asked) <= offered
    assert asked


def test_spare_rounds_count_towards_what_the_job_promises(office: Office, make_job: JobMaker) -> None:
    noise = noise_for(make_job(privacy__spare_rounds=0))
    refused(office.offer(make_job(privacy__spare_rounds=5), noise_multiplier=noise), "does not keep")


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("privacy", "clip_norm", float("inf")),
        ("privacy", "clip_norm", 0.0),
        ("privacy", "epsilon", float("nan")),
        ("privacy", "delta", 1.0),
        ("training", "sampling_rate", 1.5),
        ("training", "sampling_rate", 0.0),
        ("training", "local_steps", 0),
        ("training", "learning_rate", float("inf")),
        ("training", "records_per_weight", 0),
        ("federation", "rounds", -1),
        ("privacy", "unknown", 1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(
    office: Office, make_job: JobMaker, table: str, key: str, value: object
) -> None:
    settings = make_job().model_dump(mode="json", by_alias=True)
    settings[table][key] = value
    refused(office.offer(make_job(), job=settings), f"the offered job is malformed; found faults in {table}.{key}")


def test_a_delta_too_large_for_the_public_bound_on_records_is_refused(office: Office, make_job: JobMaker) -> None:
    office.policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, delta=0.5, max_records=8)
    office.rebuild()
    refused(office.offer(make_job(privacy__delta=1 / 8), noise_multiplier=20.0), "not below 1 / policy.max_records")
    accepted(office.offer(make_job(privacy__delta=1 / 9), noise_multiplier=20.0))


@pytest.mark.parametrize(
    ("policy", "settings", "reason"),
    [
        ({"kinds": ("lm", "instruct")}, {}, "found task.kind = classify; expected lm or instruct (policy.kinds)"),
        ({"labels": ("cabin", "brake")}, {}, "found 1 of 2 missing, the first: 'brake'"),
        ({"max_tokens": 127}, {}, "found task.max_tokens = 128; expected at most 127 (policy.max_tokens)"),
        ({}, {"task__kind": "auto", "task__labels": ()}, "still auto"),
        ({}, {"task__template": "x" * 127 + "{prompt}"}, "leaves no room for a prompt"),
    ],
)
def test_a_job_that_the_public_word_on_the_records_rules_out_is_refused(
    office: Office, make_job: JobMaker, policy: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    office.policy = office.policy.model_copy(update=policy)
    office.rebuild()
    refused(office.offer(make_job(**settings)), reason)
    assert office.ledger.outstanding(office.run) == 0


def test_a_job_that_the_public_word_on_the_records_covers_is_taken(office: Office, make_job: JobMaker) -> None:
    said = {"kinds": ("classify",), "labels": ("pump", "cabin"), "max_tokens": 128, "max_records": 99_999}
    office.policy = office.policy.model_copy(update=said)
    office.rebuild()
    accepted(office.offer(make_job()))


@pytest.mark.parametrize("weight", [0, -3, 256])
def test_a_weight_that_none_may_have_is_refused_whatever_the_envelope_lets_through(
    make_job: JobMaker, weight: int
) -> None:
    roster = wire.Roster.model_construct(serial=1, weights={"north": weight, "south": 1})
    offer = wire.JobOffer.model_construct(run_id="r", job={}, roster=roster, base_digest="", noise_multiplier=None)
    with pytest.raises(PolicyError, match="a weight that none may have"):
        check_membership("north", PolicySection(), make_job(), offer)


def test_a_job_beyond_the_budget_is_refused_before_anything_trains(
    office: Office, make_job: JobMaker, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path / "small.sqlite", dataset="north", epsilon_budget=4.0, delta=1e-5) as ledger:
        office.ledger = ledger
        office.rebuild()
        before = (tmp_path / "small.sqlite").read_bytes()
        refused(office.offer(make_job()), "of 4 is left")
        assert (tmp_path / "small.sqlite").read_bytes() == before
        refused(office.train(make_job()), "not known here")


@pytest.mark.parametrize(
    "data",
    [b"", b"YORI", b"HTTP/1.1 200 OK\r\n\r\n", b"YORI\x00\x01\x00\x00\x00\x02[]", b"YORI\x00\x09\x00\x00\x00\x02{}"],
)
def test_bytes_that_are_no_message_are_refused(office: Office, data: bytes) -> None:
    refused(wire.decode(office.site.handle(data)), "message")


def test_messages_that_a_site_sends_itself_are_refused(office: Office) -> None:
    refused(office.send(wire.Acceptance(run_id="r", site="south")), "acceptance")


@pytest.mark.parametrize(
    ("settings", "log"),
    [
        ({"task__labels": ("cabin",)}, "5 of 8 records do not fit and count as zero (a label outside the set: 5)"),
        ({"task__max_tokens": 17, "task__too_long": "refuse"}, "longer than 17 tokens: 8"),
        ({"task__kind": "lm", "task__labels": ()}, "does not fit task.kind = lm: 8"),
    ],
)
def test_records_that_do_not_fit_are_counted_in_the_sites_own_log_only(
    office: Office, make_job: JobMaker, settings: dict[str, Any], log: str
) -> None:
    """Counts of labels and lengths, and file names, are the site's own; a job could be made to ask for each."""
    job = make_job(**settings)
    accepted(office.offer(job))
    assert len(office.log) == 1
    assert log in office.log[0]
    assert "train.jsonl line" in office.log[0]
    assert MARKER not in office.log[0].replace(f"/home/{MARKER}/", "")
    updated(office.train(job))
    assert office.charges() == [(0, True)]


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, MemoryError])
def test_an_unexpected_error_gives_its_type_and_its_place_but_not_its_text(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    job = make_job()
    accepted(office.offer(job))

    def fail(*_: object, **__: object) -> None:
        raise error(f"could not read {MARKER}")

    monkeypatch.setattr(module, "train_round", fail)
    refused(office.train(job), f"internal error: {error.__name__}")
    assert len(office.log) == 1
    assert "test_site.py" in office.log[0]
    assert MARKER not in office.log[0]


def test_a_failure_during_training_is_charged(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it failed is seen outside, and may depend on the records; asked again for nothing, it would add up."""
    job = make_job()
    accepted(office.offer(job))

    def fail(*_: object, **__: object) -> None:
        raise TrainingError("training diverged")

    monkeypatch.setattr(module, "train_round", fail)
    for _ in range(4):
        refused(office.train(job), "training diverged")
    assert office.charges() == [(0, True)] * 4
    refused(office.train(job), "every round of run run-1 is used")


def test_a_model_that_computes_no_numbers_stops_the_round_before_a_record_is_looked_at(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))
    start = office.bench.initial_adapter(job)
    monkeypatch.setattr(module, "train_round", lambda *_, **__: pytest.fail("a record was looked at"))
    diverged = start.merged_with(
        AdapterState({name: np.full_like(t, 3e38) for name, t in start.select(("R",)).tensors.items()})
    )
    refused(office.train(job, state=diverged), "is too large")
    assert office.charges() == []
    monkeypatch.undo()
    updated(office.train(job))  # The same reservation serves, since nothing was made of the records.
    assert office.charges() == [(0, True)]


def test_an_adapter_with_values_that_are_not_finite_is_refused_uncharged(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    start = office.bench.initial_adapter(job)
    spoilt = {name: np.full_like(t, np.nan) for name, t in start.select(("R",)).tensors.items()}
    refused(office.train(job, state=start.merged_with(AdapterState(spoilt))), "not finite")
    assert office.charges() == []


def test_without_privacy_a_loss_that_is_not_a_number_is_refused_without_data(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, allow_no_privacy=True)
    office.rebuild()
    job = make_job(**NOISE_FREE, training__sampling_rate=1.0)
    accepted(office.offer(job))
    head = office.bench.head(job)
    losses = head.losses
    monkeypatch.setattr(head, "losses", lambda hidden, batch: losses(hidden, batch) * float("nan"))
    refused(office.train(job), "the loss of a record is not a number")
    monkeypatch.undo()
    updated(office.train(job))
    assert office.charges() == []


def test_an_interrupted_round_leaves_its_reservation_open(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train_round", interrupt)
    with pytest.raises(KeyboardInterrupt):
        office.train(job)
    assert office.charges() == [(0, False)]
    monkeypatch.undo()
    office.rebuild()
    accepted(office.offer(job))
    updated(office.train(job))
    assert office.charges() == [(0, True)]


def test_the_release_is_on_disk_before_the_reply_is_built(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))
    seen: list[list[tuple[int, bool]]] = []
    to_bytes = AdapterState.to_bytes

    def watched(state: AdapterState) -> bytes:
        seen.append(office.charges())
        return to_bytes(state)

    adapter = office.bench.initial_adapter(job)
    request = wire.TrainRequest(
        run_id=office.run, round_index=0, adapter_digest=adapter.digest(), payload=adapter.to_bytes()
    )
    monkeypatch.setattr(AdapterState, "to_bytes", watched)
    updated(office.send(request))
    assert seen == [[(0, True)]]


def test_the_charge_is_on_disk_before_training_begins(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))
    train_round, seen = module.train_round, []

    def watched(*arguments: Any, **more: Any) -> Any:
        seen.append(office.charges())
        return train_round(*arguments, **more)

    monkeypatch.setattr(module, "train_round", watched)
    updated(office.train(job))
    assert seen == [[(0, False)]]


def test_no_update_leaves_when_the_ledger_cannot_be_written(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(office.ledger, "mark_released", fail)
    refused(office.train(job), "internal error: OSError")


def test_noise_other_than_was_charged_never_leaves(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))
    train_round = module.train_round
    monkeypatch.setattr(
        module,
        "train_round",
        lambda *a, **k: replace(train_round(*a, **k), event=SampledGaussian(0.5, 0.1)),
    )
    refused(office.train(job), "other noise than was charged")


def test_a_released_round_is_charged_anew_with_new_noise_and_only_so_often(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    office.site._trainer._hooks = SiteHooks()  # The system's own noise.
    updates = [updated(office.train(job)) for _ in range(4)]  # Three rounds and the spare one.
    assert len({update.digest() for update in updates}) == 4
    assert office.charges() == [(0, True)] * 4
    spent = office.ledger.spent()
    assert spent <= job.privacy.epsilon
    for index in (0, 1):
        reply = refused(office.train(job, index), "every round of run run-1 is used")
        assert reply.used_up
    assert not refused(office.train(job, 7), "the job has no such round").used_up
    assert office.ledger.spent() == spent


@pytest.mark.parametrize("index", [3, 10**6])
def test_a_round_that_the_job_does_not_have_is_refused_uncharged(
    office: Office, make_job: JobMaker, index: int
) -> None:
    job = make_job()
    accepted(office.offer(job))
    refused(office.train(job, index), "the job has no such round")
    assert office.charges() == []


def test_offering_a_run_again_does_not_renew_its_rounds(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    for _ in range(4):
        updated(office.train(job))
    office.ledger.finish(office.run)
    office.rebuild()
    accepted(office.offer(job))
    refused(office.train(job, 1), "every round of run run-1 is used")


def test_a_ledger_that_counts_for_another_unit_is_refused(office: Office) -> None:
    office.policy = office.policy.model_copy(update={"unit": "owner"})
    with pytest.raises(LedgerError, match="another unit than its policy"):
        office.rebuild()


def test_a_run_cannot_go_on_with_other_noise(office: Office, make_job: JobMaker) -> None:
    """Each setting alone would keep the job's epsilon; the two together would not."""
    job = make_job()
    accepted(office.offer(job))
    updated(office.train(job))
    noise = noise_for(job)
    assert noise is not None
    refused(office.offer(job, noise_multiplier=noise * 1.001), "charged for rounds with other privacy settings")
    refused(office.offer(make_job(federation__rounds=30)), "charged for rounds with other privacy settings")
    accepted(office.offer(job))


def test_a_job_offered_again_with_more_rounds_is_refused_though_nothing_was_charged(
    office: Office, make_job: JobMaker
) -> None:
    job = make_job()
    accepted(office.offer(job))
    refused(office.offer(make_job(federation__rounds=30), noise_multiplier=noise_for(job)), "does not keep")
    assert isinstance(office.train(job), wire.PlainUpdate)  # A refused offer leaves the earlier one as it is.


def test_an_adapter_other_than_its_digest_says_is_refused_uncharged(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    adapter = office.bench.initial_adapter(job)
    request = wire.TrainRequest(run_id=office.run, round_index=0, adapter_digest="0" * 64, payload=adapter.to_bytes())
    refused(office.send(request), "not the one that its digest names")
    assert office.charges() == []


def test_a_request_of_another_run_or_after_a_restart_asks_for_the_offer(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    office.rebuild()
    for run in ("run-1", "run-2"):
        office.run = run
        reply = office.train(job)
        assert isinstance(reply, wire.Refusal)
        assert reply.unknown_job
    accepted(office.offer(job))
    updated(office.train(job))


def test_a_job_whose_model_was_replaced_meanwhile_asks_for_the_offer(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    accepted(office.offer(job))
    office.bench.model(make_job(lora__rank=2))
    reply = office.train(job)
    assert isinstance(reply, wire.Refusal)
    assert reply.unknown_job
    accepted(office.offer(job))
    updated(office.train(job))


def test_what_a_site_says_does_not_depend_on_one_record(office: Office, make_job: JobMaker) -> None:
    """Neighbouring data sets: the same acceptance, the same charge, an update of the same size."""
    job = make_job()
    one, other = (charge_and_size(office, job, site_records(count), f"run-{count}") for count in (8, 7))
    assert one == other


def test_a_job_without_privacy_runs_where_the_policy_allows_it_and_charges_nothing(
    office: Office, make_job: JobMaker
) -> None:
    office.policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True, allow_no_privacy=True)
    office.rebuild()
    job = make_job(**NOISE_FREE)
    accepted(office.offer(job))
    updated(office.train(job))
    assert office.charges() == []


def test_settings_that_do_not_go_together_are_refused(office: Office, make_job: JobMaker) -> None:
    """core has no axis of features to smooth along."""
    refused(office.offer(make_job(training__lowpass=True)), "training.lowpass")
    assert office.ledger.outstanding(office.run) == 0


def test_an_adapter_that_the_rule_does_not_lead_to_is_refused_uncharged(office: Office, make_job: JobMaker) -> None:
    """Under ffa the factor A stands still; another one would be the coordinator's own choice."""
    job = make_job(federation__rule="ffa")
    accepted(office.offer(job))
    start = office.bench.initial_adapter(job)
    other = start.merged_with(AdapterState({n: t + 1 for n, t in start.select(("A",)).tensors.items()}))

    def asked(state: AdapterState, factors: tuple[str, ...]) -> wire.Message:
        digest, payload = state.digest(), state.select(factors).to_bytes()
        return office.send(wire.TrainRequest(run_id=office.run, round_index=0, adapter_digest=digest, payload=payload))

    refused(asked(other, ("A", "B")), "changes factors that stand still under the rule ffa")
    assert office.charges() == []
    updated(asked(start, ("B",)))


def test_an_adapter_that_the_rules_own_check_rejects_is_refused_uncharged(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    accepted(office.offer(job))
    seen: list[tuple[AdapterState, AdapterState]] = []

    def verify(_: Core, offered: AdapterState, state: AdapterState) -> None:
        seen.append((offered, state))
        raise AdapterError("no honest step leads there")

    monkeypatch.setattr(Core, "verify", verify)
    start = office.bench.initial_adapter(job)
    moved = start.merged_with(AdapterState({n: t + 1 for n, t in start.select(("R",)).tensors.items()}))
    refused(office.train(job, state=moved), "no honest step leads there")
    assert seen == [(start, moved)]
    assert office.charges() == []


def test_a_site_of_lower_rank_sends_an_update_that_is_zero_beyond_it(office: Office, make_job: JobMaker) -> None:
    job = make_job()
    roster = wire.Roster(serial=1, weights={"north": 2, "south": 1}, ranks={"north": 2})
    accepted(office.offer(job, roster=roster))
    update = updated(office.train(job))
    assert restricted_to_block(update, 2) == update
    assert np.count_nonzero(update.flatten()) == block_size(update, 2)


def test_a_site_keeps_to_the_bound_on_its_update(office: Office, make_job: JobMaker) -> None:
    job = make_job(federation__update_norm_bound=0.01)
    accepted(office.offer(job))
    assert np.linalg.norm(updated(office.train(job)).flatten().astype(float)) == pytest.approx(0.01, rel=1e-5)


def test_a_rule_of_another_package_is_not_even_imported_unless_the_policy_names_it(
    office: Office, make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can send an offer could otherwise choose which installed package runs beside keys and records."""
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[yoriai.rules]\nother = stranger_rule_module\n")
    (tmp_path / "stranger_rule_module.py").write_text("raise RuntimeError('a path on this machine')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    payload = office.bench.initial_adapter(make_job()).to_bytes()
    job = make_job(federation__rule="other")
    refused(office.offer(job, payload=payload), "the job's rule is not built in, and policy.rules does not name it")
    office.policy = office.policy.model_copy(update={"rules": ("other",)})
    office.rebuild()
    reply = office.offer(job, payload=payload)
    refused(reply, "fails to load; found RuntimeError")
    assert isinstance(reply, wire.Refusal)
    assert "a path on this machine" not in reply.reason


def test_a_run_cannot_take_the_name_of_a_personal_training(office: Office, make_job: JobMaker) -> None:
    for mark in ("/personal", "/counts"):
        office.run = f"run-1{mark}"
        refused(office.offer(make_job()), f"a run's id holds {mark}, which is kept for the site's own charges")
    assert not office.ledger.outstanding("run-1/personal")
