"""Who gets a run's last adapter: signed, tried again, confirmed for good; and what the registry keeps of each round."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.server.faulty import BASE_DIGEST, RUN_ID, Fault, FaultyTransport, initial_adapter, small_job
from tests.server.keepers import KNOWN, Keeper, coordinator, keepers
from yoriai import wire
from yoriai.config import job_digest
from yoriai.errors import RoundError
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.statements.delivery import DeliveryStatement, read_delivery
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.strategies.adapter import AdapterState

INITIAL = initial_adapter()


def at_delivery(change: Callable[[bytes], bytes | None]) -> Fault:
    """A fault that touches confirmations only."""
    return lambda request, reply: change(reply) if isinstance(request, wire.Delivery) else reply


def test_every_site_that_took_part_gets_the_last_adapter_with_a_statement_that_holds(tmp_path: Path) -> None:
    fakes = keepers("abc", c=Keeper("c", approved=False))
    result = coordinator(FaultyTransport(fakes), tmp_path).run(INITIAL)
    assert result.delivered == dict.fromkeys("ab", result.adapter.digest())
    assert fakes["c"].deliveries == []
    trust = KNOWN.trust()
    for name in "ab":
        (message,) = fakes[name].deliveries
        certificate = read_coordinator_certificate(message.certificate.encode(), trust, now=trust.now)
        assert read_delivery(message.statement.encode(), certificate.public_key) == DeliveryStatement(
            federation="miyagi",
            run_id=RUN_ID,
            job_digest=job_digest(small_job(federation__rounds=2), BASE_DIGEST),
            base_digest=BASE_DIGEST,
            roster_digest="",
            rounds=2,
            adapter_digest=result.adapter.digest(),
        )
        assert AdapterState.from_bytes(message.payload) == result.adapter


def test_without_a_key_nothing_is_delivered(tmp_path: Path) -> None:
    fakes = keepers("ab")
    result = coordinator(FaultyTransport(fakes), tmp_path, delivers=False).run(INITIAL)
    assert (result.delivered, fakes["a"].deliveries) == ({}, [])


def test_a_site_that_is_away_for_a_while_is_tried_again_and_one_that_stays_away_fails_nothing(tmp_path: Path) -> None:
    fakes = keepers("abc")
    transport = FaultyTransport(fakes)
    seen: list[dict[str, str]] = []

    def leave(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == 2:
            transport.unreachable |= {"b", "c"}

    def come_back(missing: Mapping[str, str]) -> None:
        seen.append(dict(missing))
        transport.unreachable.discard("b")

    result = coordinator(transport, tmp_path).run(INITIAL, on_round=leave, on_delivery=come_back)
    assert seen == [{"b": "not connected", "c": "not connected"}] + [{"c": "not connected"}] * 3
    assert sorted(result.delivered) == ["a", "b"]
    assert [len(fakes[name].deliveries) for name in "abc"] == [1, 1, 0]


def _receipt(**changes: str) -> Callable[[bytes], bytes]:
    return lambda reply: wire.encode(wire.decode(reply).model_copy(update=changes))


@pytest.mark.parametrize(
    ("change", "reason", "asked"),
    [
        (lambda reply: None, "no reply in time", 4),
        (lambda reply: reply[:-1], "cut short", 4),
        (lambda reply: wire.encode(wire.Refusal(run_id=RUN_ID, site="b", reason="disk\x1b full")), "disk  full", 1),
        (lambda reply: wire.encode(wire.Acceptance(run_id=RUN_ID, site="b")), "unexpected kind", 4),
        (_receipt(adapter_digest="0" * 64), "confirms another adapter", 4),
        (_receipt(run_id="run-2"), "another site, round or run", 4),
        (_receipt(site="a"), "another site, round or run", 4),
    ],
)
def test_what_is_no_confirmation_is_named_and_not_noted_and_a_refusal_is_final(
    tmp_path: Path, change: Callable[[bytes], bytes | None], reason: str, asked: int
) -> None:
    seen: list[dict[str, str]] = []
    transport = FaultyTransport(keepers("ab"), {"b": at_delivery(change)})
    result = coordinator(transport, tmp_path).run(INITIAL, on_delivery=lambda missing: seen.append(dict(missing)))
    assert sorted(result.delivered) == ["a"]
    assert len(seen) == asked
    assert all(reason in missing["b"] for missing in seen)


def test_a_finished_run_that_is_resumed_delivers_only_what_is_missing(tmp_path: Path) -> None:
    lost = FaultyTransport(keepers("abc"), {"b": at_delivery(lambda _: None)})
    coordinator(lost, tmp_path).run(INITIAL)
    transport = FaultyTransport(keepers("abc"))
    result = coordinator(transport, tmp_path).run(INITIAL)
    assert transport.stages == [("deliver", ("b",))]
    assert sorted(result.delivered) == ["a", "b", "c"]
    again = FaultyTransport(keepers("abc"))
    assert coordinator(again, tmp_path).run(INITIAL) == result
    assert again.stages == []


def test_a_coordinator_killed_between_two_confirmations_forgets_neither(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("ab"), {"b": at_delivery(lambda _: None)})

    def die(_: Mapping[str, str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinator(transport, tmp_path).run(INITIAL, on_delivery=die)
    resumed = FaultyTransport(keepers("ab"))
    coordinator(resumed, tmp_path).run(INITIAL)
    assert resumed.stages == [("deliver", ("b",))]


def test_a_site_that_left_the_roster_gets_nothing(tmp_path: Path) -> None:
    coordinator(FaultyTransport(keepers("abc")), tmp_path, delivers=False).run(INITIAL)
    transport = FaultyTransport(keepers("abc"))
    result = coordinator(transport, tmp_path, roster="ab").run(INITIAL)
    assert sorted(result.delivered) == ["a", "b"]
    assert transport.stages == [("deliver", ("a", "b"))]


def test_two_nodes_by_one_name_fail_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator(FaultyTransport(keepers("ab")), tmp_path, delivers=False).run(INITIAL)
    transport = FaultyTransport(keepers("ab"))

    def twice() -> list[str]:
        raise RoundError("two nodes say that they are site 'a'")

    monkeypatch.setattr(transport, "sites", twice)
    seen: list[dict[str, str]] = []
    result = coordinator(transport, tmp_path).run(INITIAL, on_delivery=lambda missing: seen.append(dict(missing)))
    assert result.delivered == {}
    assert seen[0] == dict.fromkeys("ab", "two nodes say that they are site 'a'")


@pytest.mark.timeout(120)
def test_delivery_ends_with_the_deadline(tmp_path: Path) -> None:
    coordinator(FaultyTransport(keepers("ab")), tmp_path, delivers=False).run(INITIAL)
    transport = FaultyTransport(keepers("ab"), unreachable={"a", "b"})
    late = coordinator(transport, tmp_path, offer_s=0.1)
    late._offer_again_s = 1000.0
    late.run(INITIAL)


# The registry


def test_every_rounds_adapter_is_kept_with_base_and_roster(tmp_path: Path) -> None:
    seen: list[AdapterState] = []
    stored = coordinator(FaultyTransport(keepers("ab")), tmp_path).run(
        INITIAL, on_round=lambda checkpoint: seen.append(checkpoint.adapter)
    )
    assert stored.base_digest == BASE_DIGEST
    registry = Registry(tmp_path)
    assert [registry.adapter_after(record) for record in stored.rounds] == seen
    assert registry.load() == stored
