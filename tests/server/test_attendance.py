"""Who comes to a run: it waits for operators while it must, for nobody longer than it must, and never for a no."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.server.faulty import FaultyTransport, initial_adapter, small_job
from tests.server.keepers import Keeper, coordinator, keepers
from yoriai import wire
from yoriai.errors import AwayError, RoundError
from yoriai.server.round.attendance import Deadlines
from yoriai.server.round.registry import Checkpoint

INITIAL = initial_adapter()


def offers(transport: FaultyTransport) -> list[tuple[str, ...]]:
    return [sites for stage, sites in transport.stages if stage == "offer"]


def test_a_run_begins_once_enough_operators_have_approved(tmp_path: Path) -> None:
    fakes = keepers("abc", a=Keeper("a", approved=False, patience=3), c=Keeper("c", approved=False))
    transport = FaultyTransport(fakes)
    result = coordinator(transport, tmp_path).run(INITIAL)
    assert [record.answered for record in result.rounds] == [("a", "b")] * 2
    assert offers(transport)[:4] == [("a", "b", "c"), ("a", "c"), ("a", "c"), ("a", "c")]
    assert [record.refused for record in result.rounds] == [(("c", "waits for its operator"),)] * 2


def test_a_site_that_waits_holds_nobody_up_and_is_offered_the_job_again_before_each_round(tmp_path: Path) -> None:
    late = Keeper("c", approved=False)

    def approve(checkpoint: Checkpoint) -> None:
        late.approved = checkpoint.next_round == 2

    transport = FaultyTransport(keepers("abc", c=late))
    job = small_job(federation__rounds=3)
    result = coordinator(transport, tmp_path, job=job).run(INITIAL, on_round=approve)
    assert [record.answered for record in result.rounds] == [("a", "b"), ("a", "b"), ("a", "b", "c")]
    assert offers(transport) == [("a", "b", "c"), ("c",), ("c",)]


def test_once_a_run_has_begun_an_offer_is_waited_for_no_longer_than_a_stage_of_keys(tmp_path: Path) -> None:
    waited: list[float] = []

    class Timed(FaultyTransport):
        def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            waited.extend([timeout_s] if stage == "offer" else [])
            return super().exchange(stage, payloads, timeout_s)

    job = small_job(federation__rounds=3)
    coordinator(Timed(keepers("abc", c=Keeper("c", approved=False))), tmp_path, job=job, offer_s=7.0).run(INITIAL)
    assert waited == [7.0, *[Deadlines().keys_s] * 2]


def test_a_site_that_waits_is_not_chosen_for_a_round_of_some(tmp_path: Path) -> None:
    fakes = keepers("abcd", a=Keeper("a", approved=False), b=Keeper("b", approved=False))
    job = small_job(federation__participation=0.5, federation__rounds=8)
    result = coordinator(FaultyTransport(fakes), tmp_path, job=job).run(INITIAL)
    assert [record.answered for record in result.rounds] == [("c", "d")] * 8


@pytest.mark.timeout(120)
def test_a_run_waits_no_longer_than_the_deadline_of_its_offer(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("ab", b=Keeper("b", approved=False)))
    began = time.monotonic()
    with pytest.raises(RoundError, match=r"found 1 that accepted the job \(b: waits for its operator\)"):
        coordinator(transport, tmp_path, offer_s=1.0).run(INITIAL)
    assert time.monotonic() - began >= 1.0
    assert len(offers(transport)) > 3
    assert transport.fakes["a"].trained == []


def test_a_run_waits_for_sites_that_are_not_connected_yet(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("ab"), unreachable={"b"})
    seen: list[Mapping[str, str]] = []

    def connect(absent: Mapping[str, str]) -> None:
        seen.append(absent)
        if len(seen) == 3:
            transport.unreachable.clear()

    result = coordinator(transport, tmp_path).run(INITIAL, on_offer=connect)
    assert seen == [{"b": "not connected"}] * 3 + [{}]
    assert result.rounds[0].answered == ("a", "b")


def test_refusals_for_good_end_a_run_at_once_without_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: wire.Message, _: bytes) -> bytes:
        return wire.encode(wire.Refusal(run_id=request.run_id, site="b", reason="policy forbids it"))

    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("nobody may come, and it waits"))
    transport = FaultyTransport(keepers("ab"), {"b": refuse})
    with pytest.raises(RoundError, match="policy forbids it"):
        coordinator(transport, tmp_path).run(INITIAL)
    assert offers(transport) == [("a", "b")]


def waiting_time(transport: FaultyTransport, folder: Path, gather_s: float, on_offer: Callable[[int], None]) -> int:
    """How often the first round looks for sites, with enough of them there; `on_offer` is told which time it is."""
    looks: list[int] = []

    def offered(_: Mapping[str, str]) -> None:
        if transport.fakes["a"].trained == []:
            looks.append(len(looks) + 1)
            on_offer(len(looks))

    coordinator(transport, folder, gather_s=gather_s).run(INITIAL, on_offer=offered)
    return len(looks)


def test_the_first_round_waits_for_a_site_that_has_not_answered_until_it_has(tmp_path: Path) -> None:
    late = Keeper("c", approved=False)
    transport = FaultyTransport(keepers("abc", c=late), unreachable={"c"})

    def come(number: int) -> None:
        if number == 2:
            transport.unreachable.clear()
        late.approved = number == 5

    assert waiting_time(transport, tmp_path, 60.0, come) == 6
    assert late.trained == [0, 1]


def test_a_refusal_ends_the_wait_for_a_site(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("abc", c=Keeper("c", approved=False)))

    def refuse(number: int) -> None:
        if number == 3:
            transport.faults["c"] = lambda request, _: wire.encode(
                wire.Refusal(run_id=request.run_id, site="c", reason="its operator has refused")
            )

    assert waiting_time(transport, tmp_path, 60.0, refuse) == 4


def test_the_wait_for_sites_that_a_round_can_do_without_has_an_end(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("abc", c=Keeper("c", approved=False)))
    assert waiting_time(transport, tmp_path, 0.1, lambda _: None) > 1
    assert transport.fakes["b"].trained == [0, 1]


def test_too_few_sites_are_away_as_long_as_one_may_come_and_no_longer(tmp_path: Path) -> None:
    transport = FaultyTransport(keepers("ab"), {"b": lambda _request, _reply: None})
    with pytest.raises(AwayError, match="b: no reply in time"):
        coordinator(transport, tmp_path, offer_s=0.1).run(INITIAL)
    assert len(offers(transport)) > 1
    refused = {"b": lambda r, _: wire.encode(wire.Refusal(run_id=r.run_id, site="b", reason="no"))}
    with pytest.raises(RoundError) as error:
        coordinator(FaultyTransport(keepers("ab"), refused), tmp_path).run(INITIAL)
    assert not isinstance(error.value, AwayError)
