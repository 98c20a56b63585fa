"""Windows of keys in whole runs: what they save, when a new one is opened, and what a site answers twice or never."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from tests.coordinators import asked
from tests.simulations.secure_world import Cheat, Dropping, World, masked_request, reason
from yoriai import wire
from yoriai.errors import RoundError
from yoriai.server.round.registry import Checkpoint
from yoriai.server.round.site_sampling import sample_sites

SLOT, WINDOW = list(wire.SLOT_STAGES), list(wire.WINDOW_STAGES)
THREE = {"federation.rounds": 3}


class Living(Dropping):
    """Sites may be started anew or go out of reach between two messages."""

    def __init__(self, secure: World, lost: Mapping[str, str] | None = None) -> None:
        super().__init__(secure.sites, lost)
        self._handlers = {name: lambda data, name=name: secure.sites[name].handle(data) for name in secure.sites}
        self.gone: set[str] = set()

    def sites(self) -> Sequence[str]:
        return [site for site in super().sites() if site not in self.gone]

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        return super().exchange(stage, {s: p for s, p in payloads.items() if s not in self.gone}, timeout_s)


def answered(checkpoint: Checkpoint) -> list[set[str]]:
    return [set(record.answered) for record in checkpoint.rounds]


def test_rounds_of_one_window_take_three_exchanges_each(world: Callable[..., World]) -> None:
    for window, expected in (
        (8, [*WINDOW, *SLOT * 3]),
        (2, [*WINDOW, *SLOT * 2, *WINDOW, *SLOT]),
        (1, [*WINDOW, *SLOT] * 3),
    ):
        secure = world(f"window-{window}", **THREE, **{"secure_aggregation.window": window})
        transport = Dropping(secure.sites)
        checkpoint = secure.run(transport)
        assert transport.stages == ["offer", *expected]
        assert answered(checkpoint) == [set(secure.sites)] * 3
        assert [c.released for c in secure.ledgers["north"].charges()] == [True] * 3


def test_a_site_that_missed_a_round_takes_the_next_slot(world: Callable[..., World]) -> None:
    secure = world(**THREE)
    transport = Dropping(secure.sites, {"west": "mask"})
    checkpoint = secure.run(transport, on_round=lambda _: transport.lost.clear())
    assert answered(checkpoint) == [{"north", "south", "east"}, set(secure.sites), set(secure.sites)]
    assert transport.stages == ["offer", *WINDOW, *SLOT * 3]
    assert len(secure.ledgers["west"].charges()) == 2


def test_a_restarted_site_comes_back_with_a_new_window(world: Callable[..., World]) -> None:
    secure = world(**THREE)
    transport = Living(secure)

    def restart(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == 1:
            secure.sites["north"] = secure.build("north")

    checkpoint = secure.run(transport, on_round=restart)
    assert answered(checkpoint) == [set(secure.sites), {"south", "east", "west"}, set(secure.sites)]
    assert "keys of this window are not known" in dict(checkpoint.rounds[1].refused)["north"]
    # The offer once more, then the request once more, in case that the site was in no window before.
    assert transport.stages == ["offer", *WINDOW, *SLOT, "mask", "offer", *SLOT, *WINDOW, *SLOT]


def test_a_site_that_was_out_of_reach_comes_back_with_a_new_window(world: Callable[..., World]) -> None:
    secure = world(**THREE)
    transport = Living(secure)
    offered = lambda _: transport.gone.add("west")  # noqa: E731
    back = lambda checkpoint: transport.gone.clear() if checkpoint.next_round == 2 else None  # noqa: E731
    checkpoint = secure.run(transport, on_offer=offered, on_round=back)
    without = set(secure.sites) - {"west"}
    assert answered(checkpoint) == [without, without, set(secure.sites)]
    assert transport.stages == ["offer", *WINDOW, *SLOT * 2, *WINDOW, *SLOT]
    assert dict(checkpoint.rounds[1].refused) == {"west": "no reply in time"}


@pytest.mark.parametrize("stage", ["advertise", "sign", "share"])
def test_a_site_that_fell_silent_while_a_window_was_opened_is_in_the_next_round(
    stage: str, world: Callable[..., World]
) -> None:
    secure = world(**THREE)
    transport = Dropping(secure.sites, {"west": stage})
    checkpoint = secure.run(transport, on_round=lambda _: transport.lost.clear())
    assert answered(checkpoint) == [set(secure.sites) - {"west"}, set(secure.sites), set(secure.sites)]
    assert transport.stages == ["offer", *WINDOW, *SLOT, "offer", *WINDOW, *SLOT * 2]


def test_a_site_that_was_started_anew_while_a_window_was_opened_is_in_the_next_round(
    world: Callable[..., World],
) -> None:
    secure = world(**THREE)

    class Restarting(Living):
        def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            if stage == "sign" and not checkpoints:
                secure.sites["west"] = secure.build("west")
            return super().exchange(stage, payloads, timeout_s)

    checkpoints: list[Checkpoint] = []
    checkpoint = secure.run(Restarting(secure), on_round=checkpoints.append)
    assert answered(checkpoint) == [set(secure.sites) - {"west"}, set(secure.sites), set(secure.sites)]


def test_a_site_that_stays_silent_costs_the_others_one_offer_a_round(world: Callable[..., World]) -> None:
    secure = world(**THREE)
    transport = Living(secure)
    transport.lost = {"west": "advertise"}

    def silent(checkpoint: Checkpoint) -> None:
        transport.lost = {"west": "offer"}

    checkpoint = secure.run(transport, on_round=silent)
    assert answered(checkpoint) == [set(secure.sites) - {"west"}] * 3
    assert transport.stages == ["offer", *WINDOW, *SLOT, "offer", *SLOT, "offer", *SLOT]
    assert dict(checkpoint.rounds[2].refused) == {"west": "no reply in time"}


def test_a_void_round_takes_the_next_slot_of_its_window(world: Callable[..., World]) -> None:
    secure = world(**THREE)
    transport = Dropping(secure.sites, dict.fromkeys(secure.sites, "agree"))
    checkpoint = secure.run(transport, on_void=lambda _: transport.lost.clear())
    assert transport.stages == ["offer", *WINDOW, "mask", "agree", *SLOT * 2, *WINDOW, *SLOT]
    assert answered(checkpoint) == [set(secure.sites)] * 3
    assert [c.released for c in secure.ledgers["north"].charges()] == [True] * 4
    assert [record.voided_masked for record in checkpoint.rounds] == [1, 0, 0]


def test_a_window_whose_members_no_longer_suffice_gives_way_to_one_of_the_others(world: Callable[..., World]) -> None:
    secure = world(**THREE)
    transport = Living(secure)
    checkpoint = secure.run(transport, on_round=lambda _: transport.gone.update(("east", "west")))
    assert answered(checkpoint) == [set(secure.sites), {"north", "south"}, {"north", "south"}]
    assert transport.stages == ["offer", *WINDOW, *SLOT, "mask", *WINDOW, *SLOT * 2]


def test_the_sites_of_a_round_are_drawn_for_a_window(world: Callable[..., World]) -> None:
    settings = {"federation.rounds": 4, "federation.participation": 0.5, "secure_aggregation.window": 2}
    secure = world(**settings)
    drawn = [set(sample_sites(secure.job.federation.seed, first, secure.sites, 2)) for first in (0, 2)]
    assert answered(secure.run()) == [drawn[0], drawn[0], drawn[1], drawn[1]]


def test_a_resumed_coordinator_opens_a_new_window(world: Callable[..., World]) -> None:
    def stop(_: Checkpoint) -> None:
        raise KeyboardInterrupt

    secure = world(**THREE)
    with pytest.raises(KeyboardInterrupt):
        secure.run(on_round=stop)
    transport = Dropping(secure.sites)
    assert answered(secure.run(transport)) == [set(secure.sites)] * 3
    assert transport.stages == ["offer", *WINDOW, *SLOT * 2]


# What a site answers twice, and what it does not.


@pytest.mark.parametrize("stage", ["sign", "share", "hold"])
def test_a_stage_of_the_opening_is_answered_once(stage: str, world: Callable[..., World]) -> None:
    cheat = Cheat(world())
    cheat.run_to(stage)
    assert "out of order" in reason_of(cheat.again("north", stage))


def reason_of(reply: wire.Message) -> str:
    assert isinstance(reply, wire.Refusal), reply
    return reply.reason


@pytest.mark.parametrize("stage", SLOT)
def test_the_same_request_gets_the_same_bytes_and_costs_nothing(
    stage: str, world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat = Cheat(world(**{"privacy.spare_rounds": 3}))
    said: dict[bytes, bytes] = {}
    handle = cheat.world.sites["north"].handle
    with monkeypatch.context() as listening:
        listening.setattr(
            cheat.world.sites["north"], "handle", lambda data: said.setdefault(wire.encode(asked(data)), handle(data))
        )
        cheat.run_to(stage)
    monkeypatch.setattr("yoriai.client.site.round_trainer.train_round", lambda *_, **__: pytest.fail("trained again"))
    request = asked(cheat.asked[stage]["north"])
    assert cheat.world.ask("north", request) == said[wire.encode(request)]
    assert [c.released for c in cheat.world.ledgers["north"].charges()] == [True]


@pytest.mark.parametrize("change", [{"value_range": 2.0}, {"round_index": 1}, {"window": 1}])
def test_another_request_for_a_used_slot_is_refused_and_the_slot_goes_on(
    change: dict[str, object], world: Callable[..., World]
) -> None:
    cheat = Cheat(world(**THREE))
    cheat.run_to("agree")
    refusal = wire.decode(cheat.world.ask("north", masked_request(cheat.world, **change)))
    assert ("not known here" if "window" in change else "used or passed over") in reason_of(refusal)
    assert len(cheat.world.ledgers["north"].charges()) == 1
    assert isinstance(cheat.again("north", "agree"), wire.SecureReply)


@pytest.mark.parametrize("stage", ["agree", "unmask"])
def test_a_second_survivor_set_or_unmask_request_of_a_slot_is_refused(stage: str, world: Callable[..., World]) -> None:
    cheat = Cheat(world())
    cheat.run_to(stage)
    first = asked(cheat.asked[stage]["north"])
    assert isinstance(first, wire.SecureStage)
    other = first.model_copy(update={"payload": first.payload[:-2]})  # One survivor fewer, or half a signature.
    assert "out of order" in reason(cheat.world, other)


def test_sites_that_were_sent_other_ranges_open_nothing(world: Callable[..., World]) -> None:
    """The coordinator's code is honest here; what it sends to half of the sites is changed on the way."""

    class Two(Dropping):
        def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            if stage == "mask":
                changed = {site: asked(payloads[site]) for site in ("north", "south")}
                payloads = {
                    **payloads,
                    **{s: secure.sealed(s, m.model_copy(update={"value_range": 7.0})) for s, m in changed.items()},
                }
            return super().exchange(stage, payloads, timeout_s)

    secure = world(**{"privacy.spare_rounds": 0})
    transport = Two(secure.sites)
    with pytest.raises(RoundError, match="another job, roster, key set or slot"):
        secure.run(transport)
    assert "agree" not in transport.stages


def test_a_restarted_site_has_dropped_out_of_its_window(world: Callable[..., World]) -> None:
    cheat = Cheat(world())
    cheat.run_to("mask")
    cheat.world.sites["north"] = cheat.world.build("north")
    reply = cheat.again("north", "mask")
    assert isinstance(reply, wire.Refusal)
    assert reply.unknown_job
    cheat.again("north", "offer")
    for stage in ("mask", "sign"):
        again = cheat.again("north", stage)
        assert isinstance(again, wire.Refusal)
        assert again.unknown_window
    assert len(cheat.world.ledgers["north"].charges()) == 1


def test_a_window_that_the_job_does_not_promise_or_that_cannot_be_paid_is_refused(world: Callable[..., World]) -> None:
    cheat = Cheat(world(**{"privacy.spare_rounds": 0}))
    cheat.run_to("mask")
    opening = wire.WindowRequest(run_id="run-1", window=1, slots=9)
    assert "every round of run run-1 is used" in reason(cheat.world, opening)
    other = Cheat(world("other"))
    other.run_to("offer")
    assert "found 9 slots; expected at most 8" in reason(other.world, opening)


def test_a_round_repeated_in_the_next_slot_is_trained_anew_and_charged_again(world: Callable[..., World]) -> None:
    cheat = Cheat(world(**THREE))
    cheat.run_to("mask")
    first = asked(cheat.asked["mask"]["north"])
    assert isinstance(first, wire.TrainRequest)
    replies = [wire.decode(cheat.world.ask("north", first.model_copy(update={"slot": slot}))) for slot in (1, 2)]
    payloads = [reply.payload for reply in replies if isinstance(reply, wire.SecureReply)]
    assert len(payloads) == len(set(payloads)) == 2
    assert [c.released for c in cheat.world.ledgers["north"].charges()] == [True] * 3
