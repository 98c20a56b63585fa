"""Misbehaving sites: the coordinator drops them with a reason, and opens the others' sum or nothing."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.privacy.secagg.cohort import OPENING, Cohort, Round, signing_key, spend
from yoriai.errors import RoundError
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import plan
from yoriai.privacy.secagg.keyset import survivor_digest
from yoriai.privacy.secagg.messages import MessageKind, ReleasedShares, SealedShares, ShareKind
from yoriai.privacy.secagg.secret import SecretBytes

SIX = (1,) * 6


def _body(message: bytes) -> memoryview:
    return memoryview(message)[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES]


def _play(stage: str, kind: MessageKind, change: Callable[[bytes], bytes]) -> tuple[Round, object]:
    """A round in which site 4 signs a body of its own making at one stage."""
    game = Round(Cohort(SIX))
    answer = game._answer

    def misbehave(at: str, i: int, payload: bytes) -> bytes:
        message = answer(at, i, payload)
        if (at, i) != (stage, 4):
            return message
        binding = game.binding() if at in OPENING else game.slot_binding()
        return wire.seal(kind, binding, 4, change(bytes(_body(message))), signing_key(game.cohort.names[4]))

    game._answer = misbehave  # type: ignore[method-assign]
    return game, game.run()


def _assert_sum(game: Round, opened: object, survivors: list[int]) -> None:
    assert np.array_equal(opened.levels, game.cohort.expected(survivors))
    assert list(game.refused | game.coordinator.refused) == [game.cohort.names[4]]


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + bytes(8), lambda body: b""])
def test_a_masked_update_of_another_length_drops_its_site(change: Callable[[bytes], bytes]) -> None:
    game, opened = _play("mask", MessageKind.MASKED_UPDATE, change)
    _assert_sum(game, opened, [0, 1, 2, 3, 5])


def test_a_signature_over_another_survivor_set_is_not_shown_to_the_others() -> None:
    game, opened = _play("consistency", MessageKind.CONSISTENCY, lambda body: survivor_digest(range(5)))
    _assert_sum(game, opened, list(range(6)))


def test_shares_sealed_for_the_wrong_holders_drop_their_site() -> None:
    def change(body: bytes) -> bytes:
        shares = SealedShares.decode(memoryview(body), 3)
        return SealedShares(shares.commitments, {h: s for h, s in shares.sealed.items() if h != 2}).encode()

    game, opened = _play("share", MessageKind.SEALED_SHARES, change)
    _assert_sum(game, opened, [0, 1, 2, 3, 5])


@pytest.mark.parametrize("owner", [0, 4, 77])
def test_a_released_share_that_was_not_asked_for_is_not_used(owner: int) -> None:
    # Of the wrong kind, of the holder itself, of nobody.
    kind = ShareKind.MASK_KEY if owner == 0 else ShareKind.SEED
    share = {owner: (kind, SecretBytes(bytes(33)))}
    game, opened = _play("unmask", MessageKind.RELEASED_SHARES, lambda body: ReleasedShares(share).encode())
    _assert_sum(game, opened, list(range(6)))


def _masked(game: Round, i: int) -> bytes:
    return game.ready(i).step(game.cohort.update(i), spend)[1]


def test_a_masked_update_that_arrives_twice_is_added_once() -> None:
    game = Round(Cohort(SIX))
    game.run(until="hold")
    replies = [(game.cohort.names[i], _masked(game, i)) for i in range(6)]
    closing, _ = game.coordinator.step([*replies, replies[3]])
    once, _ = _fresh_masking().step(replies)
    assert np.array_equal(closing._work.total.words, once._work.total.words)
    assert list(closing.refused) == [game.cohort.names[3]]


def _fresh_masking() -> object:
    game = Round(Cohort(SIX))
    game.run(until="hold")
    return game.coordinator


def test_a_masked_update_in_another_sites_name_is_not_added() -> None:
    # Site 4 sends what it caught of site 5, which then counts as dropped.
    game = Round(Cohort((1,) * 9))
    game.run(until="hold")
    names = game.cohort.names
    replies = [(names[i], _masked(game, i)) for i in range(9) if i not in (4, 5)]
    closing, _ = game.coordinator.step([*replies, (names[4], _masked(game, 5))])
    assert closing._work.survivors == set(range(9)) - {4, 5}
    assert names[4] in closing.refused


def test_fewer_keys_than_the_job_is_calibrated_to_void_the_round_before_anything_is_published() -> None:
    game = Round(Cohort(SIX, least_survivors=4), {"": [3, 4, 5]})
    with pytest.raises(RoundError, match="sites with keys"):
        game.run(until="advertise")


@pytest.mark.parametrize(
    ("lost_after", "stage", "says"),
    [
        ("advertise", "sign keys", "sites that signed the key set"),
        ("sign keys", "share", "sites that have shared"),
        ("share", "hold", "sites that hold their shares"),
    ],
)
def test_below_the_quorum_the_window_is_void_at_that_very_stage(lost_after: str, stage: str, says: str) -> None:
    game = Round(Cohort(SIX), {lost_after: [3, 4, 5]})
    with pytest.raises(RoundError, match=f"too few {says}; found 3; expected at least 5"):
        game.run(until=stage)


@pytest.mark.parametrize(("lost_after", "stage"), [("sign keys", "share"), ("share", "hold")])
def test_on_the_sparse_graph_a_site_without_its_holders_voids_the_window_at_that_very_stage(
    lost_after: str, stage: str
) -> None:
    """A quorum is there, and yet one member's secrets could not be rebuilt."""
    cohort = Cohort((1,) * 40, n_params=3, slots=1)
    game = Round(cohort)
    game.run(until="sign keys")
    holders = sorted(game.coordinator._graph[0])
    game.dropped_after = {lost_after: holders[: 1 + len(holders) - plan(40).threshold]}
    with pytest.raises(RoundError, match="too few holders of their shares left; found site-0000"):
        game.run(until=stage, since="share")


def test_names_outside_the_roster_are_refused() -> None:
    game = Round(Cohort(SIX))
    game.run(until="hold")
    replies = [(game.cohort.names[i], _masked(game, i)) for i in range(6)]
    closing, _ = game.coordinator.step([*replies, ("stranger", replies[0][1])])
    assert list(closing.refused) == ["stranger"]


def test_a_site_that_says_more_than_that_it_holds_its_shares_is_not_a_member() -> None:
    game, opened = _play("hold", MessageKind.HOLDING, lambda body: b"and more")
    _assert_sum(game, opened, [0, 1, 2, 3, 5])
