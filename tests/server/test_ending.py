"""Every job has an ending: early by its operator's word or because its rounds are used up, and safe at each step."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.server.faulty import RUN_ID, Fault, FaultyTransport, initial_adapter, small_job
from tests.server.keepers import KNOWN, Keeper, coordinator, keepers
from yoriai import wire
from yoriai.errors import RoundError
from yoriai.privacy.statements.delivery import DeliveryStatement, read_delivery
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.manifest import summary_of
from yoriai.server.round.registry import Checkpoint, Registry

INITIAL = initial_adapter()
LONG = small_job(federation__rounds=5)


def used_up(since: int) -> Fault:
    """A site whose rounds are all used from this one on."""

    def fault(request: wire.Message, reply: bytes) -> bytes:
        if isinstance(request, wire.TrainRequest) and request.round_index >= since:
            words = {"run_id": request.run_id, "site": wire.decode(reply).site, "reason": "every round is used"}  # type: ignore[attr-defined]
            return wire.encode(wire.Refusal(**words, used_up=True))
        return reply

    return fault


def ended(transport: FaultyTransport, folder: Path, asked: Callable[[], bool] | None = None) -> Checkpoint:
    return coordinator(transport, folder, job=LONG).run(INITIAL, end_asked=asked)


def statement_to(keeper: Keeper) -> DeliveryStatement:
    (message,) = keeper.deliveries
    return read_delivery(message.statement.encode(), KNOWN.key.public_key)


def test_used_up_rounds_end_a_run_with_the_adapter_of_the_last_stored_one(tmp_path: Path) -> None:
    fakes = keepers("abc")
    result = ended(FaultyTransport(fakes, dict.fromkeys("abc", used_up(2))), tmp_path)
    assert (result.next_round, sorted(result.delivered)) == (2, ["a", "b", "c"])
    assert result.ended_early.startswith("a, b, c have used every round, the spare ones too")
    assert result.adapter.digest() == result.rounds[1].adapter_digest
    for keeper in fakes.values():
        statement = statement_to(keeper)
        assert (statement.rounds, statement.adapter_digest) == (2, result.adapter.digest())


def test_a_run_goes_on_as_long_as_enough_sites_have_a_round_left(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("abc"), {"c": used_up(1)})
    result = ended(transport, tmp_path)
    assert (result.next_round, result.ended_early) == (5, "")
    assert [record.answered for record in result.rounds] == [("a", "b", "c"), *[("a", "b")] * 4]
    assert all(record.refused == (("c", "every round is used"),) for record in result.rounds[1:])
    # It is asked once, and then no more.
    assert [sites for stage, sites in transport.stages if stage == "train"][2:] == [("a", "b")] * 3


def test_used_up_rounds_of_too_many_sites_end_a_run_even_where_others_are_away(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("abc"), {"a": used_up(1), "b": used_up(1)}, unreachable={"c"})
    result = ended(transport, tmp_path)
    assert (result.next_round, result.ended_early[:4]) == (1, "a, b")


def test_another_refusal_ends_no_run(tmp_path: Path) -> None:
    def refuse(request: wire.Message, reply: bytes) -> bytes:
        if isinstance(request, wire.TrainRequest):
            return wire.encode(wire.Refusal(run_id=RUN_ID, site=wire.decode(reply).site, reason="every round is used"))  # type: ignore[attr-defined]
        return reply

    with pytest.raises(RoundError, match="too few sites"):
        ended(FaultyTransport(keepers("ab"), dict.fromkeys("ab", refuse)), tmp_path)
    assert Registry(tmp_path).load() is None


def test_who_is_in_no_round_is_told_the_end_alone(tmp_path: Path) -> None:
    fakes = keepers("abc")
    result = ended(FaultyTransport(fakes, {"c": used_up(0), "a": used_up(2), "b": used_up(2)}), tmp_path)
    assert result.delivered == {**dict.fromkeys("ab", result.adapter.digest()), "c": ""}
    assert (statement_to(fakes["c"]).adapter_digest, fakes["c"].deliveries[0].payload) == ("", b"")
    found = summary_of(tmp_path)
    assert (found.delivered, found.told, found.ended_early) == (("a", "b"), ("c",), result.ended_early)


def test_a_run_without_a_stored_round_ends_too(tmp_path: Path) -> None:
    fakes = keepers("ab")
    result = ended(FaultyTransport(fakes, dict.fromkeys("ab", used_up(0))), tmp_path)
    assert (result.next_round, result.delivered) == (0, {"a": "", "b": ""})
    assert {(statement_to(keeper).rounds, statement_to(keeper).adapter_digest) for keeper in fakes.values()} == {
        (0, "")
    }
    again = FaultyTransport(keepers("ab"))
    assert ended(again, tmp_path) == result
    assert again.stages == []


def test_an_end_that_is_asked_for_comes_after_the_round_at_work(tmp_path: Path) -> None:
    transport, asked = FaultyTransport(keepers("ab")), []
    result = coordinator(transport, tmp_path, job=LONG).run(
        INITIAL,
        on_round=lambda checkpoint: asked.append(checkpoint.next_round == 2),
        end_asked=lambda: any(asked),
    )
    assert (result.next_round, result.ended_early) == (2, "the coordinator's operator ended it")
    assert [stage for stage, _ in transport.stages] == ["offer", "train", "train", "deliver"]


def test_an_end_that_is_asked_for_while_no_round_can_be_had_comes_all_the_same(tmp_path: Path) -> None:
    """Its operator is asked about the round that failed, and not told first that it did."""
    transport, asked = FaultyTransport(keepers("ab"), {"b": lambda request, reply: None}), []

    def lose(request: wire.Message, reply: bytes) -> bytes | None:
        if isinstance(request, wire.TrainRequest):
            asked.append(True)
            return None
        return reply

    transport.faults["b"] = lose
    result = ended(transport, tmp_path, lambda: bool(asked))
    assert (result.next_round, result.delivered) == (0, {"a": "", "b": ""})


def test_an_end_that_is_asked_for_ends_the_wait_for_sites(tmp_path: Path) -> None:
    """Nobody waits out an offer's hour for sites that are not wanted any more."""
    transport, asked = FaultyTransport(keepers("ab"), unreachable={"b"}), []
    never = coordinator(transport, tmp_path, job=LONG, offer_s=3600.0)
    never._offer_again_s = 1800.0
    result = never.run(INITIAL, on_offer=lambda _: asked.append(True), end_asked=lambda: bool(asked))
    assert (result.next_round, sorted(result.delivered)) == (0, ["a"])


def stopped_after_a_round(transport: FaultyTransport, folder: Path) -> None:
    """A run that was cancelled, or killed, between two rounds."""

    def stop(_: Checkpoint) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinator(transport, folder, job=LONG).run(INITIAL, on_round=stop)


def test_a_stopped_run_that_is_to_end_only_delivers(tmp_path: Path) -> None:
    stopped_after_a_round(FaultyTransport(keepers("ab")), tmp_path)
    transport = FaultyTransport(keepers("ab"))
    result = ended(transport, tmp_path, lambda: True)
    assert (result.next_round, transport.stages) == (1, [("deliver", ("a", "b"))])


def test_a_run_that_has_all_its_rounds_is_not_ended_early(tmp_path: Path) -> None:
    coordinator(FaultyTransport(keepers("ab")), tmp_path, job=LONG, delivers=False).run(INITIAL)
    assert ended(FaultyTransport(keepers("ab")), tmp_path, lambda: True).ended_early == ""


@pytest.mark.parametrize("kill_at", ["decided", "first told", "all told"])
def test_a_kill_at_any_step_of_ending_leaves_one_end_that_is_told_again(kill_at: str, tmp_path: Path) -> None:
    """No round follows once an end may have left, whether or not it is still asked for."""
    fakes, asked = keepers("ab"), [True]
    transport = FaultyTransport(fakes)
    stopped_after_a_round(transport, tmp_path)
    saves = 0

    class Killing(Registry):
        def save(self, checkpoint: Checkpoint) -> None:
            nonlocal saves
            saves += 1
            if (kill_at, saves) == ("first told", 2):
                raise KeyboardInterrupt  # The replies have come, and are not noted.
            super().save(checkpoint)
            if (kill_at, saves) in (("decided", 1), ("all told", 2)):
                raise KeyboardInterrupt

    killed: Coordinator = coordinator(transport, tmp_path, job=LONG)
    killed._registry = Killing(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        killed.run(INITIAL, end_asked=lambda: bool(asked))
    before = len(transport.stages)
    result = ended(transport, tmp_path, lambda: False)
    assert (result.next_round, sorted(result.delivered)) == (1, ["a", "b"])
    assert [stage for stage, _ in transport.stages[before:]] == ([] if kill_at == "all told" else ["deliver"])
    for keeper in fakes.values():
        assert {message.payload for message in keeper.deliveries} == {result.adapter.to_bytes()}


def test_a_site_that_was_never_heard_of_holds_up_no_end(tmp_path: Path) -> None:
    seen: list[Mapping[str, str]] = []
    transport = FaultyTransport(keepers("abc"), unreachable={"c"})
    result = coordinator(transport, tmp_path, job=small_job(federation__rounds=1), roster="abc").run(
        INITIAL, on_delivery=seen.append
    )
    assert (sorted(result.delivered), seen) == (["a", "b"], [{"c": "not connected"}])
