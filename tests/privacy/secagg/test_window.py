"""Windows of slots: each slot is as safe and as exact as a round with fresh keys, whatever happened in the others."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from tests.privacy.secagg.cohort import NOW, YEAR, Cohort, Round, authority, certificate, roster, signing_key, trust
from yoriai.errors import IdentityError, ProtocolError, RoundError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.secagg import FixedPoint, Integers, Member, Opened, SlotTerms, shamir
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.keyset import SlotKeys, WindowTerms, seed_commitment
from yoriai.privacy.secagg.masking import RunningSum, SignedMask, own_masks, pair_masks
from yoriai.privacy.secagg.messages import MessageKind, ReleasedShares, ShareKind
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.sharing import Pair, coordinate
from yoriai.privacy.secagg.work import OwnWork

FOUR, SIX = (1, 2, 3, 250), (1,) * 6
EVERYBODY = frozenset(range(4))
SURVIVORS = [frozenset(s) for k in (3, 4) for s in combinations(range(4), k)]
OTHER_TERMS: dict[str, object] = {
    "adapter_digest": bytes(31) + b"\1",
    "round_index": 99,
    "grid": FixedPoint(16, 2.0),
}


def _held(cohort: Cohort) -> Round:
    game = Round(cohort)
    game.run(until="hold")
    return game


def _secrets(game: Round, slot: int) -> dict[int, Pair]:
    """Every site's seed and mask key of a slot that has not begun."""
    return {i: window._slots[slot].own for i, window in game.windows.items()}


def _words(keys: SlotKeys, messages: Mapping[int, bytes], masks: list[SignedMask]) -> NDArray[np.uint32]:
    """The sum of masked updates, as anybody may read them, with these masks taken off."""
    total = RunningSum(keys, 1)
    for message in messages.values():
        total.add(memoryview(message)[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES])
    total.remove(masks)
    return total.words


# Exact in every slot.


@pytest.mark.parametrize(("first", "second"), list(product(SURVIVORS, SURVIVORS)), ids=str)
def test_every_two_sets_of_survivors_open_their_sums_in_two_slots(
    first: frozenset[int], second: frozenset[int]
) -> None:
    """Who dropped out of the first slot may be back in the second: that its mask key was rebuilt changes nothing."""
    game = Round(Cohort(FOUR), {"hold": EVERYBODY - first})
    _check(game, game.run(), first)
    _check(game, game.next({"hold": EVERYBODY - second}), second)


def _check(game: Round, opened: Opened | None, survivors: frozenset[int]) -> None:
    assert opened is not None
    assert np.array_equal(opened.levels, game.cohort.expected(survivors))
    assert opened.survivors == tuple(game.cohort.names[i] for i in sorted(survivors))
    assert opened.clipped == sum(survivors)


def test_after_a_void_slot_the_next_one_opens() -> None:
    game = Round(Cohort(FOUR), {"mask": EVERYBODY - {0, 1}})
    with pytest.raises(RoundError, match="consistency signatures"):
        game.run()
    _check(game, game.next(), EVERYBODY)


def test_windows_of_one_and_of_eight_slots_open_the_same_sums() -> None:
    gone = [{3}, set(), {1}]
    many = Cohort(FOUR, slots=8)
    game = _held(many)
    long = []
    for k, left_out in enumerate(gone):
        game.dropped_after = {"hold": left_out}
        long.append(game.run(since="mask") if k == 0 else game.next({"hold": left_out}))
    for k, (left_out, opened) in enumerate(zip(gone, long, strict=True)):
        single = Cohort(FOUR, slots=1, number=k)
        rng = Cohort(FOUR, slot=k)
        single.levels = rng.levels  # type: ignore[method-assign]
        short = Round(single, {"hold": left_out}).run()
        assert short is not None
        assert opened is not None
        assert np.array_equal(short.levels, opened.levels)
        assert (short.survivors, short.total_weight) == (opened.survivors, opened.total_weight)


# A slot is used once.


def test_a_slot_that_was_used_is_refused_with_the_same_and_with_other_terms() -> None:
    game = _held(Cohort(SIX))
    game.ready(0)
    for terms in (game.cohort.slot_terms, replace(game.cohort.slot_terms, round_index=4)):
        with pytest.raises(ProtocolError, match="used or passed over"):
            game.ready(0, terms)


def test_a_slot_that_was_passed_over_is_refused_and_its_secrets_are_gone() -> None:
    game = _held(Cohort(SIX))
    game.ready(0, replace(game.cohort.slot_terms, slot=1))
    assert set(game.windows[0]._slots) == {2}
    with pytest.raises(ProtocolError, match="used or passed over"):
        game.ready(0)


def test_a_slot_beyond_the_window_is_refused_by_site_and_coordinator() -> None:
    game = _held(Cohort(SIX))
    terms = replace(game.cohort.slot_terms, slot=3)
    with pytest.raises(ProtocolError, match="no such slot"):
        game.ready(0, terms)
    with pytest.raises(ProtocolError, match="no such slot"):
        game.window.begin(terms)  # type: ignore[union-attr]
    game.ready(0)  # The refusals have used nothing up.


# Replays between slots.


@pytest.mark.parametrize("round_index", [3, 4])
def test_a_masked_update_of_one_slot_is_not_one_of_the_next(round_index: int) -> None:
    game = _held(Cohort(FOUR))
    game.run(until="mask", since="mask")
    caught = game.sent["mask"][3]
    answer = game._answer
    game._answer = lambda stage, i, p: caught if (stage, i) == ("mask", 3) else answer(stage, i, p)  # type: ignore[method-assign]
    game.cohort.round_index = round_index - 1
    opened = game.next()
    assert opened is not None
    assert np.array_equal(opened.levels, game.cohort.expected({0, 1, 2}))
    assert list(game.coordinator.refused) == [game.cohort.names[3]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stage", ["mask", "consistency"])
def test_a_survivor_set_or_its_signatures_are_of_no_use_in_the_next_slot(stage: str) -> None:
    game = _held(Cohort(SIX))
    game.run(until="consistency", since="mask")
    old = dict(game.payloads)
    game.cohort.round_index -= 1  # The same round again, so that only the slot differs.
    game.next(until=stage)
    with pytest.raises(ProtocolError, match="key set or slot"):
        game.stages[0].step(old[stage][game.cohort.names[0]])  # type: ignore[attr-defined]


def test_a_quorum_of_signatures_over_other_terms_releases_nothing() -> None:
    game = _held(Cohort(SIX))
    game.run(until="consistency", since="mask")
    other = game.coordinator._keys.slot(replace(game.cohort.slot_terms, adapter_digest=b"\1" * 32)).binding  # type: ignore[attr-defined]
    body = bytes(memoryview(game.sent["consistency"][1])[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES])
    blobs = [wire.seal(MessageKind.CONSISTENCY, other, i, body, signing_key(game.cohort.names[i])) for i in range(1, 6)]
    request = wire.frame(MessageKind.UNMASK_REQUEST, game.slot_binding(), wire.encode_list(blobs))
    with pytest.raises(ProtocolError, match="key set or slot"):
        game.stages[0].step(request)  # type: ignore[attr-defined]


# Sites that were told different things.


@pytest.mark.parametrize("change", OTHER_TERMS)
def test_two_groups_with_other_terms_open_nothing(change: str) -> None:
    """Or a coordinator gives all but one site an adapter without gradients, and the sum is that one's update."""
    game = _held(Cohort(SIX))
    other = replace(game.cohort.slot_terms, **{change: OTHER_TERMS[change]})  # type: ignore[arg-type]
    ready = game.ready
    game.ready = lambda i, terms=None: ready(i, other if i < 3 else None)  # type: ignore[method-assign]
    with pytest.raises(RoundError, match="too few survivors"):
        game.run(since="mask")
    assert set(game.coordinator.refused) == {game.cohort.names[i] for i in range(3)}  # type: ignore[attr-defined]


def _sum_without_self_masks(terms_of: Mapping[int, SlotTerms], game: Round) -> NDArray[np.uint32]:
    """What a coordinator gets that skips consistency and has somehow every seed of the slot."""
    secrets = _secrets(game, 0)
    keys = game.coordinator._keys  # type: ignore[attr-defined]
    slots = {i: keys.slot(terms) for i, terms in terms_of.items()}
    sent = {i: game.ready(i, t).step(game.cohort.update(i), lambda _: None)[1] for i, t in terms_of.items()}  # type: ignore[attr-defined]
    return _words(slots[3], sent, [(1, slots[i].self_mask(i, secrets[i][0])) for i in slots])


@pytest.mark.parametrize("change", [None, *OTHER_TERMS])
def test_pair_masks_of_sites_with_other_terms_do_not_cancel(change: str | None) -> None:
    cohort = Cohort(FOUR)
    game = _held(cohort)
    told = dict.fromkeys(range(4), cohort.slot_terms)
    if change is not None:
        told[0] = replace(told[0], **{change: OTHER_TERMS[change]})  # type: ignore[arg-type]
    opened = _sum_without_self_masks(told, game) == cohort.expected(range(4))
    # With equal terms the sum stands there, so the attack is a real one; with other terms no entry of it does.
    assert opened.all() if change is None else not opened.any()


def test_a_site_with_other_terms_that_is_named_a_survivor_stays_hidden() -> None:
    """The others sign that site 0 survived, and give up its seed; its pair masks are on its update still."""
    game = _held(Cohort(SIX))
    cohort, secrets = game.cohort, _secrets(game, 0)
    other = replace(cohort.slot_terms, adapter_digest=b"\1" * 32)
    mine, theirs = (game.coordinator._keys.slot(terms) for terms in (other, cohort.slot_terms))  # type: ignore[attr-defined]
    sent = {i: game.ready(i, other if i == 0 else None).step(cohort.update(i), lambda _: None) for i in range(6)}  # type: ignore[attr-defined]
    survivors = wire.frame(MessageKind.SURVIVORS, theirs.binding, wire.encode_sites(range(6)))
    agreed = {i: sent[i][0].step(survivors) for i in range(1, 6)}
    request = wire.frame(
        MessageKind.UNMASK_REQUEST, theirs.binding, wire.encode_list(agreed[i][1] for i in range(1, 6))
    )
    shares = {coordinate(i): _released(agreed[i][0].step(request))[0] for i in range(1, 6)}
    assert {kind for kind, _ in shares.values()} == {ShareKind.SEED}
    seed = shamir.combine({x: share for x, (_, share) in shares.items()}, 3)
    assert seed.reveal() == secrets[0][0].reveal()
    left = _words(mine, {0: sent[0][1]}, [(1, mine.self_mask(0, seed))])
    assert not (left == cohort.levels(0)).any()
    total = _words(theirs, {i: sent[i][1] for i in range(6)}, [
        (1, (mine if i == 0 else theirs).self_mask(i, secrets[i][0])) for i in range(6)
    ])  # fmt: skip
    assert not (total == cohort.expected(range(6))).any()


def _released(message: bytes) -> dict[int, tuple[ShareKind, SecretBytes]]:
    return ReleasedShares.decode(memoryview(message)[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES]).shares


# What one slot gives away is of no use in another.


def test_a_mask_key_released_in_one_slot_does_not_unmask_its_site_in_the_next() -> None:
    cohort = Cohort((1,) * 4)
    game = Round(cohort, {"hold": [3]})
    game.run(until="hold")
    own = game.windows[3]._slots[1].own
    game.run(since="mask")
    keys = game.coordinator._keys  # type: ignore[attr-defined]
    shares = {coordinate(i): _released(game.sent["unmask"][i])[3] for i in range(3)}
    assert {kind for kind, _ in shares.values()} == {ShareKind.MASK_KEY}
    released = shamir.combine({x: share for x, (_, share) in shares.items()}, keys.plan.threshold)
    public = X25519PrivateKey.from_private_bytes(released.reveal()).public_key().public_bytes_raw()
    assert public == keys.advertised[3].mask_keys[0]
    opened = game.next()
    assert opened is not None
    assert np.array_equal(opened.levels, cohort.expected(range(4)))
    slot, sent = keys.slot(cohort.slot_terms), {3: game.sent["mask"][3]}
    # Even with the seed of this slot, which holders release because the site has survived it.
    seed_mask = (1, slot.self_mask(3, own[0]))
    theirs = [seed_mask, *pair_masks(slot, 3, released, range(3), OwnWork())]
    assert not (_words(slot, sent, theirs) == cohort.levels(3)).any()
    # The very same computation with the slot's own key does open it.
    assert np.array_equal(_words(slot, sent, own_masks(slot, cohort.member(3), own, range(3))), cohort.levels(3))


def test_every_slot_has_secrets_of_its_own_and_a_share_of_one_fits_no_other() -> None:
    game = _held(Cohort(SIX))
    keys, every = game.coordinator._keys, []  # type: ignore[attr-defined]
    for slot in range(3):
        held = {coordinate(i): game.windows[i]._slots[slot].shares[0] for i in range(1, 6)}
        for part in (0, 1):
            rebuilt = shamir.combine({x: pair[part] for x, pair in held.items()}, keys.plan.threshold)
            assert rebuilt.reveal() == game.windows[0]._slots[slot].own[part].reveal()
            every.append(rebuilt.reveal())
    assert len(set(every)) == 6
    seed = SecretBytes(b"s" * 32)
    assert len({seed_commitment(keys, slot, site, seed) for slot in range(3) for site in range(3)}) == 9


def test_shares_sealed_for_another_slot_are_noticed() -> None:
    """An owner that mixes its slots up spoils the round, and gets nothing opened wrongly."""
    game = _held(Cohort(SIX))
    for i in range(1, 6):
        first, second = game.windows[i]._slots[0].shares, game.windows[i]._slots[1].shares
        first[0], second[0] = second[0], first[0]
    with pytest.raises(RoundError, match="do not fit"):
        game.run(since="mask")


# Judged anew in every slot.


def _member(cohort: Cohort, directory: Directory) -> Member:
    return replace(cohort.member(0), directory=directory)


def test_a_certificate_revoked_or_expired_within_the_window_ends_it() -> None:
    game = _held(Cohort(SIX))
    names, book = game.cohort.names, game.cohort.directory.roster
    revocations = authority().revocation_list([certificate(names[3])], number=1, now=NOW, valid_for=YEAR)
    for judged, reason in ((trust(NOW, revocations), "revoked"), (trust(NOW + 2 * YEAR), "not valid")):
        with pytest.raises(IdentityError, match=reason):
            game.windows[0].begin(_member(game.cohort, Directory(book, judged)), game.cohort.slot_terms)


def test_another_roster_than_the_windows_is_refused() -> None:
    game = _held(Cohort(SIX))
    newer = Directory(roster(SIX, serial=2), trust())
    with pytest.raises(ProtocolError, match="not the one of this window"):
        game.windows[0].begin(_member(game.cohort, newer), game.cohort.slot_terms)


# Terms.


@pytest.mark.parametrize("slots", [0, 257])
def test_a_window_has_1_to_256_slots(slots: int) -> None:
    with pytest.raises(ProtocolError, match="slots of a window"):
        WindowTerms(bytes(16), 0, slots, bytes(32), bytes(32))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"run": bytes(15)}, "a run of 16 bytes and digests of 32"),
        ({"job_digest": bytes(31)}, "a run of 16 bytes and digests of 32"),
        ({"roster_digest": bytes(33)}, "a run of 16 bytes and digests of 32"),
        ({"number": -1}, "within their ranges"),
        ({"number": 2**32}, "within their ranges"),
        ({"n_counts": -1}, "within their ranges"),
        ({"n_counts": 2**16}, "within their ranges"),
        ({"least_survivors": 1}, "least number of survivors"),
        ({"least_survivors": 2**16}, "least number of survivors"),
        ({"full_rank": 0}, "the job's rank"),
        ({"full_rank": 2**32}, "the job's rank"),
    ],
)
def test_terms_of_a_window_outside_their_ranges_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        replace(WindowTerms(bytes(16), 0, 8, bytes(32), bytes(32)), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"adapter_digest": bytes(31)},
        {"slot": -1}, {"slot": 256},
        {"round_index": -1}, {"round_index": 2**32},
        {"n_params": 0}, {"n_params": 2**40},
    ],
)  # fmt: skip
def test_terms_of_a_slot_outside_their_ranges_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="terms of a slot"):
        replace(SlotTerms(0, 0, bytes(32), 11, FixedPoint(16, 1.0)), **change)  # type: ignore[arg-type]


def test_terms_at_the_ends_of_their_ranges_are_taken_and_bound() -> None:
    window = WindowTerms(
        bytes(16), 2**32 - 1, 256, bytes(32), bytes(32),
        n_counts=2**16 - 1, least_survivors=2**16 - 1, full_rank=2**32 - 1,
    )  # fmt: skip
    slot = SlotTerms(255, 2**32 - 1, bytes(32), 2**40 - 1, FixedPoint(16, 1.0))
    assert (len(window.binding.digest), len(slot.digest(bytes(32)))) == (32, 32)


def test_every_term_of_window_and_slot_is_bound() -> None:
    window = WindowTerms(bytes(16), 0, 8, bytes(32), bytes(32))
    changes: list[dict[str, object]] = [
        {"run": b"x" * 16}, {"number": 1}, {"slots": 7}, {"job_digest": b"j" * 32}, {"roster_digest": b"r" * 32},
        {"n_counts": 1}, {"least_survivors": 3}, {"full_rank": 4},
    ]  # fmt: skip
    bound = {replace(window, **change).binding for change in changes} | {window.binding}  # type: ignore[arg-type]
    assert len({binding.digest for binding in bound}) == len(changes) + 1
    slot = SlotTerms(0, 0, bytes(32), 11, FixedPoint(16, 1.0))
    changes = [
        {"slot": 1}, {"round_index": 1}, {"adapter_digest": b"a" * 32}, {"n_params": 12},
        {"grid": FixedPoint(17, 1.0)}, {"grid": FixedPoint(16, 1.5)}, {"grid": Integers(16)},
    ]  # fmt: skip
    digests = {replace(slot, **change).digest(bytes(32)) for change in changes} | {slot.digest(bytes(32))}  # type: ignore[arg-type]
    assert len(digests | {slot.digest(b"k" * 32)}) == len(changes) + 2
