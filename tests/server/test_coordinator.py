"""The coordinator: rounds that survive faulty sites, that resume to the same bits, and that weigh and count rightly."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.coordinators import asked
from tests.server.faulty import (
    BASE_DIGEST,
    RUN_ID,
    FakeSite,
    Fault,
    FaultyTransport,
    coordinator,
    federation,
    initial_adapter,
    small_job,
    update_of,
)
from yoriai import wire
from yoriai.config import job_digest, override
from yoriai.errors import CheckpointError, RoundError
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.server.round.site_sampling import sample_sites
from yoriai.strategies.adapter import AdapterState, weighted_mean, zeros_like
from yoriai.strategies.learning_rate_schedule import schedule_factor

INITIAL = initial_adapter()


def in_training(change: Callable[[wire.PlainUpdate], wire.Message | None]) -> Fault:
    """A fault that touches updates only."""

    def fault(request: wire.Message, reply: bytes) -> bytes | None:
        update = wire.decode(reply)
        if not isinstance(update, wire.PlainUpdate):
            return reply
        changed = change(update)
        return None if changed is None else wire.encode(changed)

    return fault


def with_update(make: Callable[[AdapterState], AdapterState]) -> Fault:
    def change(update: wire.PlainUpdate) -> wire.Message:
        payload = make(AdapterState.from_bytes(update.payload)).to_bytes()
        return update.model_copy(update={"payload": payload})

    return in_training(change)


def refusing(reason: str) -> Fault:
    return lambda request, _: wire.encode(wire.Refusal(run_id=request.run_id, site="c", reason=reason))


def only_training(fault: Fault) -> Fault:
    return lambda request, reply: fault(request, reply) if isinstance(request, wire.TrainRequest) else reply


def _wider(update: AdapterState) -> AdapterState:
    return AdapterState({name: np.pad(tensor, 1) for name, tensor in update.tensors.items()})


def _with_nan(update: AdapterState) -> AdapterState:
    return AdapterState({name: np.full_like(tensor, np.nan) for name, tensor in update.tensors.items()})


STRANGE = "the reply belongs to another site, round or run"
FAULTS: dict[str, tuple[Fault, str]] = {
    "dropped": (lambda request, reply: None, "no reply in time"),
    "late in training": (in_training(lambda update: None), "no reply in time"),
    "garbage": (lambda request, reply: b"SECRETSECRETSECRET", "bytes are not a Yoriai message"),
    "cut": (only_training(lambda request, reply: reply[:-1]), "damaged or cut short"),
    "empty": (only_training(lambda request, reply: b""), "cut short"),
    "another round": (in_training(lambda u: u.model_copy(update={"round_index": u.round_index + 1})), STRANGE),
    "another site": (in_training(lambda u: u.model_copy(update={"site": "a"})), STRANGE),
    "another run": (in_training(lambda u: u.model_copy(update={"run_id": "other"})), STRANGE),
    "accepts another run": (
        lambda request, reply: wire.encode(wire.Acceptance(run_id="other", site="c")),
        STRANGE,
    ),
    "accepts for another": (
        lambda request, reply: wire.encode(wire.Acceptance(run_id=request.run_id, site="a")),
        STRANGE,
    ),
    "wrong kind": (in_training(lambda u: wire.Acceptance(run_id=u.run_id, site=u.site)), "unexpected kind"),
    "an echo": (lambda request, reply: wire.encode(request), "unexpected kind"),
    "no adapter": (in_training(lambda u: u.model_copy(update={"payload": b"junk"})), "cannot be read"),
    "wrong shapes": (with_update(_wider), "not those that train in this round"),
    "a factor short": (with_update(lambda u: u.select(("A",))), "not those that train in this round"),
    "NaN": (with_update(_with_nan), "not finite"),
    "refuses the job": (refusing("policy forbids it"), "policy forbids it"),
    "refuses a round": (only_training(refusing("budget is used up")), "budget is used up"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_site_is_named_and_the_round_goes_on_without_it(name: str, tmp_path: Path) -> None:
    fault, reason = FAULTS[name]
    result = coordinator(small_job(), FaultyTransport(federation("abc"), {"c": fault}), tmp_path / "1").run(INITIAL)
    assert result.next_round == 3
    for record in result.rounds:
        assert record.answered == ("a", "b")
        ((site, found),) = record.refused
        assert site == "c"
        assert reason in found
        assert "SECRET" not in found
    without = coordinator(small_job(), FaultyTransport(federation("ab")), tmp_path / "2").run(INITIAL)
    assert result.adapter == without.adapter


@pytest.mark.parametrize("name", FAULTS)
def test_below_min_sites_the_round_is_lost_and_the_finished_rounds_are_stored(name: str, tmp_path: Path) -> None:
    fault, reason = FAULTS[name]
    job = small_job(federation__min_sites=3)
    transport = FaultyTransport(federation("abc"))
    stop_after = 1

    def spoil(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == stop_after:
            transport.faults["c"] = only_training(fault)

    with pytest.raises(RoundError, match="round 2 has too few sites") as caught:
        coordinator(job, transport, tmp_path).run(INITIAL, on_round=spoil)
    assert f"c: {reason}" in str(caught.value) or reason in str(caught.value)
    assert "SECRET" not in str(caught.value)
    stored = Registry(tmp_path).load()
    assert stored is not None
    assert stored.next_round == 1
    resumed = coordinator(job, FaultyTransport(federation("abc")), tmp_path).run(INITIAL)
    assert resumed.adapter == coordinator(job, FaultyTransport(federation("abc")), tmp_path / "x").run(INITIAL).adapter


def test_nobody_trains_when_too_few_accepted(tmp_path: Path) -> None:
    fakes = federation("abc")
    transport = FaultyTransport(fakes, {"b": FAULTS["refuses the job"][0], "c": FAULTS["dropped"][0]})
    with pytest.raises(RoundError, match=r"found 1 that accepted the job \(b: .*; c: no reply in time\)"):
        coordinator(small_job(), transport, tmp_path).run(INITIAL)
    assert fakes["a"].trained == []


def test_words_of_a_site_reach_a_log_short_and_printable(tmp_path: Path) -> None:
    transport = FaultyTransport(federation("abc"), {"c": refusing("\x1b[2Jgone\n" + "x" * 5000)})
    result = coordinator(small_job(), transport, tmp_path).run(INITIAL)
    ((_, reason),) = result.rounds[0].refused
    assert reason.startswith(" [2Jgone x")
    assert len(reason) == 300


class Forgetful(FakeSite):
    """Forgets the job once, before it trains round 1, as after a restart."""

    forgot = False

    def handle(self, data: bytes) -> bytes:
        message = asked(data)
        if isinstance(message, wire.TrainRequest) and message.round_index == 1 and not self.forgot:
            self.offers.clear()
            self.forgot = True
        return super().handle(data)


def test_site_that_forgot_the_job_gets_the_offer_again(tmp_path: Path) -> None:
    forgetful = Forgetful("c")
    transport = FaultyTransport(federation("abc", c=forgetful))
    result = coordinator(small_job(federation__rounds=2), transport, tmp_path / "1").run(INITIAL)
    assert [record.answered for record in result.rounds] == [("a", "b", "c")] * 2
    assert [stage for stage, _ in transport.stages] == ["offer", "train", "train", "offer", "train"]
    assert transport.stages[3:] == [("offer", ("c",)), ("train", ("c",))]
    plain = coordinator(small_job(federation__rounds=2), FaultyTransport(federation("abc")), tmp_path / "2")
    assert result.adapter == plain.run(INITIAL).adapter


def test_site_that_forgot_and_then_declines_is_named_with_the_later_reason(tmp_path: Path) -> None:
    def decline_second_offer(request: wire.Message, reply: bytes) -> bytes:
        if isinstance(request, wire.JobOffer) and len(forgetful.trained) == 1:
            return refusing("no longer")(request, reply) or b""
        return reply

    forgetful = Forgetful("c")
    transport = FaultyTransport(federation("abc", c=forgetful), {"c": decline_second_offer})
    result = coordinator(small_job(), transport, tmp_path).run(INITIAL)
    assert result.rounds[1].refused == (("c", "no longer"),)
    assert result.rounds[2].refused == (("c", "no longer"),)


def test_site_out_of_reach_is_named_and_comes_in_later(tmp_path: Path) -> None:
    transport = FaultyTransport(federation("abc"), unreachable={"c"})
    absent: list[dict[str, str]] = []
    result = coordinator(small_job(), transport, tmp_path).run(
        INITIAL, on_round=lambda _: transport.unreachable.clear(), on_offer=lambda found: absent.append(dict(found))
    )
    assert absent == [{"c": "not connected"}, {}]
    assert result.rounds[0].refused == (("c", "not connected"),)
    assert [record.answered for record in result.rounds[1:]] == [("a", "b", "c")] * 2


def test_site_outside_the_roster_is_not_asked(tmp_path: Path) -> None:
    transport = FaultyTransport(federation("abx"))
    coordinator(small_job(), transport, tmp_path, weights={"a": 1, "b": 1}).run(INITIAL)
    assert {site for _, sites in transport.stages for site in sites} == {"a", "b"}


def test_order_of_sites_changes_no_bit(tmp_path: Path) -> None:
    found = set()
    for number, order in enumerate(itertools.permutations("abcd")):
        weights = {site: 1 + "abcd".index(site) for site in order}
        transport = FaultyTransport(federation("".join(order)))
        job = small_job(federation__server_optimizer="adam", federation__rounds=2)
        found.add(coordinator(job, transport, tmp_path / str(number), weights=weights).run(INITIAL).adapter.digest())
    assert len(found) == 1


def test_weights_of_the_roster_give_the_mean(tmp_path: Path) -> None:
    def constant(value: float) -> Callable[[str, int, AdapterState], AdapterState]:
        return lambda site, index, start: AdapterState(
            {name: np.full_like(tensor, value) for name, tensor in start.tensors.items()}
        )

    fakes = {"a": FakeSite("a", constant(1.0)), "b": FakeSite("b", constant(5.0))}
    job = small_job(federation__rounds=1, federation__server_learning_rate=0.5)
    result = coordinator(job, FaultyTransport(fakes), tmp_path, weights={"a": 1, "b": 3}).run(INITIAL)
    for name, tensor in result.adapter.tensors.items():  # (1·1 + 3·5) / 4 = 4, and half of it is the step.
        np.testing.assert_allclose(tensor, INITIAL.tensors[name] + 2.0, rtol=0, atol=1e-6)
    entries = sum(tensor.size for tensor in INITIAL.tensors.values())
    assert result.rounds[0].update_norm == pytest.approx(4.0 * entries**0.5)


def test_optimizer_goes_on_from_round_to_round(tmp_path: Path) -> None:
    def ones(site: str, index: int, start: AdapterState) -> AdapterState:
        return AdapterState({name: np.ones_like(tensor) for name, tensor in start.tensors.items()})

    job = small_job(federation__server_optimizer="momentum", federation__server_momentum=0.5)
    fakes = {name: FakeSite(name, ones) for name in "ab"}
    adapter = coordinator(job, FaultyTransport(fakes), tmp_path).run(INITIAL).adapter
    for name, tensor in adapter.tensors.items():  # Steps of 1, 1.5 and 1.75.
        np.testing.assert_allclose(tensor, INITIAL.tensors[name] + 4.25, rtol=0, atol=1e-5)


def test_missing_site_is_left_out_of_the_weights(tmp_path: Path) -> None:
    transport = FaultyTransport(federation("abc"), {"b": lambda request, reply: None})
    result = coordinator(small_job(federation__rounds=1), transport, tmp_path, weights={"a": 1, "b": 7, "c": 3})
    mean = weighted_mean({"a": (1, update_of("a", 0, INITIAL)), "c": (3, update_of("c", 0, INITIAL))})
    expected = {name: INITIAL.tensors[name] + tensor for name, tensor in mean.tensors.items()}
    adapter = result.run(INITIAL).adapter
    for name, tensor in expected.items():
        np.testing.assert_allclose(adapter.tensors[name], tensor, rtol=0, atol=1e-6)


def test_bytes_counted_are_those_that_moved(tmp_path: Path) -> None:
    transport = FaultyTransport(federation("abc", c=Forgetful("c")), {"b": FAULTS["late in training"][0]})
    result = coordinator(small_job(), transport, tmp_path).run(INITIAL)
    for site in "abc":
        assert sum(record.bytes_down[site] for record in result.rounds) == transport.sent[site]
        assert sum(record.bytes_up[site] for record in result.rounds) == transport.received.get(site, 0)
    assert result.rounds[0].bytes_down["a"] > result.rounds[2].bytes_down["a"] + len(INITIAL.to_bytes())


@pytest.mark.parametrize("optimizer", ["none", "momentum", "adam"])
@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_resume_gives_the_bits_of_the_uninterrupted_run(optimizer: str, stop_after: int, tmp_path: Path) -> None:
    job = small_job(
        federation__server_optimizer=optimizer, federation__schedule="cosine", federation__participation=0.5
    )
    whole = coordinator(job, FaultyTransport(federation("abcdef")), tmp_path / "whole").run(INITIAL)

    def stop(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == stop_after:
            raise KeyboardInterrupt

    interrupted = coordinator(job, FaultyTransport(federation("abcdef")), tmp_path / "cut")
    if stop_after:
        with pytest.raises(KeyboardInterrupt):
            interrupted.run(INITIAL, on_round=stop)
    # The adapter given on resume is not used when one is stored.
    other = INITIAL if stop_after == 0 else zeros_like(INITIAL)
    resumed = coordinator(job, FaultyTransport(federation("abcdef")), tmp_path / "cut").run(other)
    assert resumed.adapter == whole.adapter
    assert resumed.lanes == whole.lanes
    assert [r.round_index for r in resumed.rounds] == [0, 1, 2]
    assert [r.answered for r in resumed.rounds] == [r.answered for r in whole.rounds]
    assert [r.adapter_digest for r in resumed.rounds] == [r.adapter_digest for r in whole.rounds]


class Committed(FakeSite):
    """Signs its ledger anew with every message, as it were."""

    count = 0

    def handle(self, data: bytes) -> bytes:
        reply = wire.decode(super().handle(data))
        Committed.count += 1
        return wire.encode(reply.model_copy(update={"ledger_head": f"{self.name}{Committed.count}"}))


def test_newest_commitment_of_each_site_is_stored_and_given_back_to_it_alone_after_a_resume(tmp_path: Path) -> None:
    def stop(checkpoint: Checkpoint) -> None:
        raise KeyboardInterrupt

    fakes: dict[str, FakeSite] = {"a": Committed("a"), "b": Committed("b"), "c": FakeSite("c")}
    with pytest.raises(KeyboardInterrupt):
        coordinator(small_job(), FaultyTransport(fakes), tmp_path).run(INITIAL, on_round=stop)
    assert [fakes[site].offers[0].ledger_head for site in "abc"] == ["", "", ""]
    stored = Registry(tmp_path).load()
    assert stored is not None
    # Two sites, an offer and a round each: the newest are the third and the fourth.
    assert sorted(stored.ledger_heads) == ["a", "b"]
    assert {int(head[1:]) for head in stored.ledger_heads.values()} == {Committed.count - 1, Committed.count}
    coordinator(small_job(), FaultyTransport(fakes), tmp_path).run(INITIAL)
    assert [fakes[site].offers[1].ledger_head for site in "abc"] == [*stored.ledger_heads.values(), ""]


def test_finished_run_asks_nothing_of_a_site(tmp_path: Path) -> None:
    first = coordinator(small_job(), FaultyTransport(federation("ab")), tmp_path).run(INITIAL)
    transport = FaultyTransport(federation("ab"))
    again = coordinator(small_job(), transport, tmp_path).run(INITIAL)
    assert transport.stages == []
    assert again == first


@pytest.mark.parametrize("key", ["training.learning_rate", "federation.seed", "privacy.clip_norm"])
def test_another_jobs_folder_is_refused(key: str, tmp_path: Path) -> None:
    coordinator(small_job(), FaultyTransport(federation("ab")), tmp_path).run(INITIAL)
    other = override(small_job(), {key: 3 if key.endswith("seed") else 0.25})
    with pytest.raises(CheckpointError, match="belongs to another job"):
        coordinator(other, FaultyTransport(federation("ab")), tmp_path).run(INITIAL)


def test_another_base_is_refused_on_resume(tmp_path: Path) -> None:
    coordinator(small_job(), FaultyTransport(federation("ab")), tmp_path).run(INITIAL)
    other = coordinator(small_job(), FaultyTransport(federation("ab")), tmp_path)
    other._base_digest = "cd" * 32
    with pytest.raises(CheckpointError, match="belongs to another job"):
        other.run(INITIAL)


def test_another_run_of_the_same_job_is_refused(tmp_path: Path) -> None:
    Registry(tmp_path).save(Checkpoint("run-2", job_digest(small_job(), BASE_DIGEST), 0, INITIAL))
    assert RUN_ID != "run-2"
    with pytest.raises(CheckpointError, match="belongs to another job"):
        coordinator(small_job(), FaultyTransport(federation("ab")), tmp_path).run(INITIAL)


def test_job_digest_ignores_speed_and_deadlines_and_nothing_else() -> None:
    job = small_job()
    digest = job_digest(job, BASE_DIGEST)
    elsewhere = {"speed.threads": 7, "speed.device": "cpu", "deadlines.train_s": 7.0}
    assert job_digest(override(job, elsewhere), BASE_DIGEST) == digest
    changes: dict[str, object] = {
        "name": "other",
        "base.model": "other",
        "lora.rank": 3,
        "task.max_tokens": 7,
        "training.local_steps": 9,
        "privacy.epsilon": 1.0,
        "federation.rounds": 9,
        "secure_aggregation.bits": 8,
        "evaluation.every": 3,
        "personal.rounds": 2,
    }
    heads_alone = {"head", "public"}  # Of a job whose head trains; see tests/client/session/test_task_defaults.py.
    assert {key.partition(".")[0] for key in changes} | {"schema", "speed", "deadlines"} | heads_alone == set(
        job.model_dump(by_alias=True)
    )
    digests = {job_digest(override(job, {key: value}), BASE_DIGEST) for key, value in changes.items()}
    assert len(digests | {digest, job_digest(job, "cd" * 32)}) == len(changes) + 2


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    ],
)
def test_schedule_factor(schedule: str, values: list[float]) -> None:
    assert [schedule_factor(schedule, index, 4) for index in range(4)] == pytest.approx(values)


def test_participation_asks_that_share_and_never_fewer_than_min_sites(tmp_path: Path) -> None:
    for share, least, expected in ((0.5, 2, 4), (0.1, 3, 3), (1.0, 2, 8)):
        job = small_job(federation__participation=share, federation__min_sites=least)
        result = coordinator(job, FaultyTransport(federation("abcdefgh")), tmp_path / str(share)).run(INITIAL)
        assert [len(record.answered) for record in result.rounds] == [expected] * 3


def test_sampling_passes_over_sites_that_declined(tmp_path: Path) -> None:
    job = small_job(federation__participation=0.5, federation__rounds=20)
    transport = FaultyTransport(federation("abcd"), {"c": FAULTS["refuses the job"][0]})
    result = coordinator(job, transport, tmp_path).run(INITIAL)
    assert all(len(record.answered) == 2 for record in result.rounds)


def test_sampling_is_a_function_of_seed_and_round_and_takes_every_site_alike() -> None:
    sites = [f"site{i}" for i in range(10)]
    drawn = [sample_sites(0, index, sites, 3) for index in range(1000)]
    assert drawn == [sample_sites(0, index, list(reversed(sites)), 3) for index in range(1000)]
    assert drawn != [sample_sites(1, index, sites, 3) for index in range(1000)]
    counts = [sum(site in chosen for chosen in drawn) for site in sites]
    assert all(240 <= count <= 360 for count in counts)  # 300 expected, standard deviation 14.5.
    assert all(chosen == sorted(set(chosen)) for chosen in drawn)
