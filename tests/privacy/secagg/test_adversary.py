"""An active server gets nowhere: each test plays one attack, and fails if the check that stops it is taken out."""

import hashlib
from collections.abc import Callable

import pytest

from tests.privacy.secagg.cohort import (
    NOW,
    YEAR,
    Cohort,
    Round,
    authority,
    certificate,
    other_terms,
    roster,
    seeded,
    signing_key,
    spend,
    trust,
)
from yoriai.errors import IdentityError, PolicyError, ProtocolError, SpentError
from yoriai.privacy.identity.certificates import Authority, make_request
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.secagg import Member, SitePolicy, advertise, slot
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.keyset import survivor_digest
from yoriai.privacy.secagg.messages import Advertisement, MessageKind, RelayedShares, ReleasedShares, ShareKind

SIX = (1,) * 6


def _after(stage: str, cohort: Cohort | None = None, **kwargs: object) -> Round:
    game = Round(cohort or Cohort(SIX), **kwargs)  # type: ignore[arg-type]
    game.run(until=stage)
    return game


def _key_set(cohort: Cohort, blobs: list[bytes]) -> bytes:
    return wire.frame(MessageKind.KEY_SET, cohort.terms.binding, wire.encode_list(blobs))


def _advertised(game: Round) -> list[bytes]:
    return [game.sent["advertise"][i] for i in sorted(game.sent["advertise"])]


def _resign(game: Round, i: int, kind: MessageKind, body: bytes, binding: wire.Binding) -> bytes:
    """What a colluding site can do: sign anything with its own key."""
    return wire.seal(kind, binding, i, body, signing_key(game.cohort.names[i]))


THREE = (b"m" * 32, b"n" * 32, b"o" * 32)


# Keys and identities.


@pytest.mark.parametrize("at", [wire.HEADER_BYTES, wire.HEADER_BYTES + 32, wire.HEADER_BYTES + 80, -1])
def test_a_swapped_public_key_or_certificate_is_refused(at: int) -> None:
    game = _after("advertise")
    blobs = _advertised(game)
    forged = bytearray(blobs[1])
    forged[at] ^= 1
    with pytest.raises((ProtocolError, IdentityError)):
        game.stages[0].step(_key_set(game.cohort, [blobs[0], bytes(forged), *blobs[2:]]))


def test_keys_signed_by_another_member_are_refused() -> None:
    game = _after("advertise")
    blobs, body = _advertised(game), Advertisement(b"e" * 32, THREE, certificate(game.cohort.names[1])).encode()
    start = wire.header(MessageKind.ADVERTISEMENT, game.cohort.terms.binding, 1) + body
    blobs[1] = start + wire.sign_digest(start, signing_key(game.cohort.names[2]))
    with pytest.raises(ProtocolError, match="signature"):
        game.stages[0].step(_key_set(game.cohort, blobs))


def test_a_sites_own_keys_must_be_those_of_this_attempt() -> None:
    # The site's genuine advertisement of an earlier attempt, whose mask key may have been rebuilt since.
    game = _after("advertise")
    _, old = advertise(Cohort(SIX, seed="earlier").member(0), game.cohort.terms)
    with pytest.raises(ProtocolError, match="own keys"):
        game.stages[0].step(_key_set(game.cohort, [old, *_advertised(game)[1:]]))


def test_a_site_left_out_of_the_key_set_goes_no_further() -> None:
    game = _after("advertise")
    with pytest.raises(ProtocolError, match="own keys"):
        game.stages[0].step(_key_set(game.cohort, _advertised(game)[1:]))


def test_a_member_cannot_stand_twice_in_the_key_set() -> None:
    game = _after("advertise")
    blobs, cohort = _advertised(game), game.cohort
    _, again = advertise(Cohort(SIX, seed="again").member(1), cohort.terms)
    with pytest.raises(ProtocolError, match="twice"):
        game.stages[0].step(_key_set(cohort, [blobs[0], blobs[1], again, *blobs[2:]]))


def test_one_public_key_for_two_uses_two_slots_or_two_sites_is_refused() -> None:
    game = _after("advertise")
    cohort, name = game.cohort, game.cohort.names[5]
    blobs = _advertised(game)
    honest = Advertisement.decode(memoryview(blobs[1])[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES], 3)
    for keys in (
        (b"m" * 32, THREE),
        (b"e" * 32, (b"m" * 32, b"n" * 32, b"m" * 32)),
        (honest.mask_keys[2], THREE),
        (b"e" * 32, (honest.encryption_key, *THREE[1:])),
        (b"e" * 32, (honest.mask_keys[1], *THREE[1:])),
    ):
        game = _after("advertise", Cohort(SIX))
        body = Advertisement(*keys, certificate(name)).encode()
        blobs[5] = _resign(game, 5, MessageKind.ADVERTISEMENT, body, cohort.terms.binding)
        with pytest.raises(ProtocolError, match="two places"):
            game.stages[0].step(_key_set(cohort, blobs))


def _with_directory(cohort: Cohort, directory: Directory) -> Member:
    return Member(signing_key(cohort.names[0]), certificate(cohort.names[0]), 0, directory, seeded("d"), cohort.policy)


def test_a_revoked_certificate_is_refused() -> None:
    game = _after("advertise")
    cohort = game.cohort
    revocations = authority().revocation_list([certificate(cohort.names[3])], number=1, now=NOW, valid_for=YEAR)
    stage, own = advertise(
        _with_directory(cohort, Directory(cohort.directory.roster, trust(NOW, revocations))), cohort.terms
    )
    with pytest.raises(IdentityError, match="revoked"):
        stage.step(_key_set(cohort, [own, *_advertised(game)[1:]]))


def test_an_expired_certificate_is_refused() -> None:
    game = _after("advertise")
    cohort = game.cohort
    late = Directory(cohort.directory.roster, trust(NOW + 2 * YEAR))
    stage, own = advertise(_with_directory(cohort, late), cohort.terms)
    with pytest.raises(IdentityError, match="not valid"):
        stage.step(_key_set(cohort, [own, *_advertised(game)[1:]]))


def test_a_certificate_of_the_servers_own_ca_is_refused() -> None:
    game = _after("advertise")
    cohort, name = game.cohort, game.cohort.names[1]
    forger = Authority.create("federation", signing_key("forger"), now=NOW - YEAR, valid_for=9 * YEAR)
    key = signing_key("forged site")
    der = forger.sign_request(make_request(name, key), now=NOW, valid_for=YEAR)
    body = Advertisement(b"e" * 32, THREE, der).encode()
    blobs = _advertised(game)
    blobs[1] = wire.seal(MessageKind.ADVERTISEMENT, cohort.terms.binding, 1, body, key)
    with pytest.raises(IdentityError):
        game.stages[0].step(_key_set(cohort, blobs))


def test_a_second_genuine_certificate_of_a_name_is_refused() -> None:
    # Issued by the CA, but not the one that the roster names.
    game = _after("advertise")
    cohort, name = game.cohort, game.cohort.names[1]
    key = signing_key("second key")
    der = authority().sign_request(make_request(name, key), now=NOW, valid_for=YEAR)
    blobs = _advertised(game)
    body = Advertisement(b"e" * 32, THREE, der).encode()
    blobs[1] = wire.seal(MessageKind.ADVERTISEMENT, cohort.terms.binding, 1, body, key)
    with pytest.raises(IdentityError, match="roster"):
        game.stages[0].step(_key_set(cohort, blobs))


def test_a_member_outside_the_roster_is_refused() -> None:
    game = _after("advertise", Cohort(SIX))
    wider = Cohort((1,) * 7)
    _, stranger = advertise(wider.member(6), game.cohort.terms)
    with pytest.raises(IdentityError, match="not in the roster"):
        game.stages[0].step(_key_set(game.cohort, [*_advertised(game), stranger]))


def test_terms_that_name_another_roster_are_refused() -> None:
    cohort = Cohort(SIX)
    terms = other_terms(cohort, roster_digest=roster(SIX, serial=2).digest)
    stages, blobs = zip(*(advertise(cohort.member(i), terms) for i in range(6)), strict=True)
    with pytest.raises(ProtocolError, match="another roster"):
        stages[0].step(wire.frame(MessageKind.KEY_SET, terms.binding, wire.encode_list(blobs)))


# Replays and other contexts.

CHANGES = {"number": 4, "run": b"another-run-byte", "job_digest": b"\1" * 32, "slots": 4, "least_survivors": 3}


@pytest.mark.parametrize("change", CHANGES)
def test_an_advertisement_of_other_terms_is_refused(change: str) -> None:
    game = _after("advertise")
    _, replayed = advertise(Cohort(SIX).member(1), other_terms(game.cohort, **{change: CHANGES[change]}))
    blobs = _advertised(game)
    blobs[1] = replayed
    with pytest.raises(ProtocolError):
        game.stages[0].step(_key_set(game.cohort, blobs))


@pytest.mark.parametrize("stage", ["advertise", "sign keys", "share", "mask", "consistency"])
def test_a_payload_of_another_window_is_refused(stage: str) -> None:
    game, other = _after(stage), _after(stage, Cohort(SIX, number=4))
    with pytest.raises(ProtocolError):
        game.stages[0].step(other.payload(stage, 0))


@pytest.mark.parametrize("stage", ["sign keys", "share", "mask", "consistency"])
def test_a_payload_of_another_attempt_at_the_same_window_is_refused(stage: str) -> None:
    game, other = _after(stage), _after(stage, Cohort(SIX, seed="second attempt"))
    with pytest.raises(ProtocolError, match="key set"):
        game.stages[0].step(other.payload(stage, 0))


@pytest.mark.parametrize("stage", ["sign keys", "consistency"])
def test_a_members_message_of_another_window_or_round_is_refused_inside_a_payload(stage: str) -> None:
    game, other = _after(stage), _after(stage, Cohort(SIX, number=4, round_index=4))
    kind, binding = (
        (MessageKind.HOLDER_CHOICES, game.binding())
        if stage == "sign keys"
        else (MessageKind.UNMASK_REQUEST, game.slot_binding())
    )
    blobs = [game.sent[stage][0], *(other.sent[stage][i] for i in range(1, 6))]
    with pytest.raises(ProtocolError, match="another run, window or round"):
        game.stages[0].step(wire.frame(kind, binding, wire.encode_list(blobs)))


@pytest.mark.parametrize("stage", ["advertise", "sign keys", "share", "mask", "consistency"])
def test_a_stage_takes_one_message_only(stage: str) -> None:
    game = _after(stage)
    stale = game.stages[0]
    stale.step(game.payload(stage, 0))
    with pytest.raises(ProtocolError, match="already used"):
        stale.step(game.payload(stage, 0))


def test_after_a_refusal_the_site_is_out_of_the_slot() -> None:
    game = _after("mask")
    with pytest.raises(ProtocolError):
        game.stages[0].step(b"nonsense")
    with pytest.raises(ProtocolError, match="already used"):
        game.stages[0].step(game.payload("mask", 0))


# The graph.


def _choices(game: Round, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    blobs = change([game.sent["sign keys"][i] for i in range(len(game.cohort.names))])
    return wire.frame(MessageKind.HOLDER_CHOICES, game.binding(), wire.encode_list(blobs))


def test_a_site_whose_own_choice_is_withheld_goes_no_further() -> None:
    game = _after("sign keys")
    with pytest.raises(ProtocolError, match="own choice"):
        game.stages[0].step(_choices(game, lambda blobs: blobs[1:]))


def test_a_forged_choice_is_refused() -> None:
    game = _after("sign keys", Cohort((1,) * 34))
    forged = bytearray(game.sent["sign keys"][1])
    forged[wire.HEADER_BYTES + 1] ^= 1
    with pytest.raises(ProtocolError, match="signature"):
        game.stages[0].step(_choices(game, lambda blobs: [blobs[0], bytes(forged), *blobs[2:]]))


@pytest.mark.parametrize("drawn", [range(2, 20), range(1, 20), range(2, 21), [*range(2, 20), 99]], ids=str)
def test_a_choice_of_the_wrong_number_of_strangers_or_of_oneself_is_refused(drawn: list[int]) -> None:
    game = _after("sign keys", Cohort((1,) * 34))
    if len(drawn) == 19 and 1 not in drawn and 99 not in drawn:
        drawn = [*drawn, 33]
    forged = _resign(game, 1, MessageKind.HOLDER_CHOICE, wire.encode_sites(drawn), game.binding())
    with pytest.raises(ProtocolError, match="choice of holders"):
        game.stages[0].step(_choices(game, lambda blobs: [blobs[0], forged, *blobs[2:]]))


def test_a_choice_that_stands_twice_is_refused() -> None:
    game = _after("sign keys")
    with pytest.raises(ProtocolError, match="twice"):
        game.stages[0].step(_choices(game, lambda blobs: [*blobs, blobs[1]]))


def test_withheld_key_set_signatures_stop_the_window() -> None:
    game = _after("sign keys")
    with pytest.raises(PolicyError, match="signed the key set"):
        game.stages[0].step(_choices(game, lambda blobs: blobs[:4]))


def test_a_site_chosen_by_more_than_chance_explains_goes_no_further() -> None:
    # 60 sites, 30 holders each: all may choose one. The limit is set down instead of 2,000 sites being set up.
    game = _after("sign keys", Cohort((1,) * 34))
    keys = game.stages[0]._keys
    keys.__dict__["plan"] = type(keys.plan)(keys.plan.holders, keys.plan.threshold, 5)
    with pytest.raises(ProtocolError, match="chance"):
        game.stages[0].step(game.payload("sign keys", 0))


# Shares.


def _relayed(game: Round, i: int) -> RelayedShares:
    return RelayedShares.decode(memoryview(game.payload("share", i))[wire.HEADER_BYTES :], 3)


def _relay(game: Round, sharers: tuple[int, ...], sealed: dict[int, bytes]) -> bytes:
    return wire.frame(MessageKind.RELAYED_SHARES, game.binding(), RelayedShares(sharers, sealed).encode())


@pytest.mark.parametrize("at", [0, 33, 66, 197, 198, 213])
def test_a_bit_flipped_ciphertext_is_refused(at: int) -> None:
    game = _after("share")
    message = _relayed(game, 0)
    broken = bytearray(message.sealed[3])
    broken[at] ^= 0x10
    with pytest.raises(ProtocolError, match="cannot be opened"):
        game.stages[0].step(_relay(game, message.sharers, {**message.sealed, 3: bytes(broken)}))


@pytest.mark.parametrize("cut", [1, 16, 214, 216])
def test_truncated_relayed_shares_are_refused(cut: int) -> None:
    game = _after("share")
    with pytest.raises(ProtocolError):
        game.stages[0].step(game.payload("share", 0)[:-cut])


def test_a_ciphertext_meant_for_another_holder_is_refused() -> None:
    game = _after("share")
    message = _relayed(game, 0)
    with pytest.raises(ProtocolError, match="cannot be opened"):
        game.stages[0].step(_relay(game, message.sharers, {**message.sealed, 3: _relayed(game, 1).sealed[3]}))


def test_a_sites_own_ciphertext_sent_back_is_refused() -> None:
    # Both directions of a pair have the same X25519 output; sender and receiver in the info keep them apart.
    game = _after("share")
    message = _relayed(game, 0)
    with pytest.raises(ProtocolError, match="cannot be opened"):
        game.stages[0].step(_relay(game, message.sharers, {**message.sealed, 3: _relayed(game, 3).sealed[0]}))


def test_a_withheld_share_of_a_site_that_takes_part_is_noticed() -> None:
    game = _after("share")
    message = _relayed(game, 0)
    rest = {owner: sealed for owner, sealed in message.sealed.items() if owner != 3}
    with pytest.raises(ProtocolError, match="one from each"):
        game.stages[0].step(_relay(game, message.sharers, rest))


def test_a_site_that_is_told_it_has_not_shared_goes_no_further() -> None:
    game = _after("share")
    message = _relayed(game, 0)
    with pytest.raises(ProtocolError, match="have shared"):
        game.stages[0].step(_relay(game, message.sharers[1:], message.sealed))


def test_a_sharer_that_has_not_signed_the_key_set_is_refused() -> None:
    game = _after("share", Cohort((1,) * 7), dropped_after={"advertise": [6]})
    message = _relayed(game, 0)
    with pytest.raises(ProtocolError, match="have shared"):
        game.stages[0].step(_relay(game, (*message.sharers, 6), message.sealed))


def test_on_the_sparse_graph_sharers_without_their_holders_are_refused_before_anything_is_masked() -> None:
    game = _after("share", Cohort((1,) * 48))
    holders = game.coordinator._graph[7]
    alive = frozenset(range(48)) - frozenset(sorted(holders)[:9])
    signer = min(alive - {7})
    message = _relayed(game, signer)
    rest = {owner: sealed for owner, sealed in message.sealed.items() if owner in alive}
    with pytest.raises(ProtocolError, match="too few holders"):
        game.stages[signer].step(_relay(game, tuple(sorted(alive)), rest))


def test_a_site_that_is_isolated_from_the_others_masks_nothing() -> None:
    # Told that hardly anybody shared, it would leave out the masks that hide it.
    game = _after("share")
    message = _relayed(game, 0)
    few = {owner: message.sealed[owner] for owner in (1, 2)}
    with pytest.raises(PolicyError, match="have shared"):
        game.stages[0].step(_relay(game, (0, 1, 2), few))


def test_survivors_that_a_site_has_not_masked_with_are_refused() -> None:
    # Site 5 did share, but site 0 was told otherwise and left out their mask.
    game = _after("share")
    message = _relayed(game, 0)
    rest = {owner: sealed for owner, sealed in message.sealed.items() if owner != 5}
    window, _ = game.stages[0].step(_relay(game, (0, 1, 2, 3, 4), rest))
    masked, _ = window.begin(game.cohort.member(0), game.cohort.slot_terms).step(game.cohort.update(0), spend)
    with pytest.raises(ProtocolError, match="survivor set"):
        masked.step(wire.frame(MessageKind.SURVIVORS, game.slot_binding(), wire.encode_sites(range(6))))


def test_a_rebuilt_mask_key_opens_no_relayed_share() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from yoriai.privacy.secagg.sharing import open_shares

    game = _after("share")
    secret = game.stages[5]._secrets[0][1]
    as_encryption_key = X25519PrivateKey.from_private_bytes(secret.reveal())
    keys, message = game.coordinator._keys, _relayed(game, 5)
    member = game.cohort.member(5)
    assert len(open_shares(keys, member, game.stages[5]._encryption, message.sealed)) == 5
    for owner, sealed in message.sealed.items():
        with pytest.raises(ProtocolError):
            open_shares(keys, member, as_encryption_key, {owner: sealed})


# Survivors and consistency.


def _survivors(game: Round, sites: object) -> bytes:
    return wire.frame(MessageKind.SURVIVORS, game.slot_binding(), wire.encode_sites(sites))  # type: ignore[arg-type]


def test_a_lowered_threshold_of_survivors_is_refused() -> None:
    game = _after("mask")
    with pytest.raises(PolicyError, match="too few survivors"):
        game.stages[0].step(_survivors(game, [0, 1, 2, 3]))


def test_survivors_below_the_sites_own_least_number_are_refused() -> None:
    game = _after("mask", Cohort(SIX, policy=SitePolicy(min_sites=6)))
    with pytest.raises(PolicyError, match="too few survivors"):
        game.stages[0].step(_survivors(game, range(5)))


def test_survivors_below_the_jobs_calibrated_number_are_refused() -> None:
    game = _after("mask", Cohort(SIX, least_survivors=6))
    with pytest.raises(PolicyError, match="too few survivors"):
        game.stages[0].step(_survivors(game, range(5)))


def test_a_key_set_below_the_sites_own_least_number_is_refused() -> None:
    game = _after("advertise", Cohort(SIX, policy=SitePolicy(min_sites=5)))
    with pytest.raises(PolicyError, match="key set"):
        game.stages[0].step(_key_set(game.cohort, _advertised(game)[:4]))


def test_a_key_set_that_shrinks_after_it_was_signed_is_refused() -> None:
    game = _after("sign keys", Cohort(SIX, policy=SitePolicy(min_sites=6)))
    with pytest.raises(PolicyError, match="signed the key set"):
        game.stages[0].step(_choices(game, lambda blobs: blobs[:5]))


def test_a_survivor_set_without_the_site_itself_is_refused() -> None:
    game = _after("mask")
    with pytest.raises(ProtocolError, match="survivor set"):
        game.stages[0].step(_survivors(game, range(1, 6)))


def test_a_survivor_who_never_shared_is_refused() -> None:
    game = _after("mask", Cohort((1,) * 7), dropped_after={"sign keys": [6]})
    with pytest.raises(ProtocolError, match="survivor set"):
        game.stages[0].step(_survivors(game, range(7)))


@pytest.mark.parametrize("body", ["00010000000200030004", "00000001000100020003", "000000"])
def test_a_survivor_set_out_of_order_repeated_or_truncated_is_refused(body: str) -> None:
    game = _after("mask")
    with pytest.raises(ProtocolError, match="survivors refused"):
        game.stages[0].step(wire.frame(MessageKind.SURVIVORS, game.slot_binding(), bytes.fromhex(body)))


def test_on_the_sparse_graph_survivors_without_their_holders_are_refused() -> None:
    # The server declares one site's holders dropped, to open its part of the graph alone.
    game = _after("mask", Cohort((1,) * 48))
    victim = 7
    holders = game.coordinator._work.slot.graph[victim]
    alive = frozenset(range(48)) - frozenset(sorted(holders)[:9])
    signer = min(alive - {victim})
    assert len(alive) >= game.coordinator._keys.quorum
    with pytest.raises(ProtocolError, match="too few holders"):
        game.stages[signer].step(_survivors(game, alive))


def test_without_a_survivor_set_no_share_is_released() -> None:
    game, ahead = _after("mask"), _after("consistency")
    with pytest.raises(ProtocolError, match="survivors refused"):
        game.stages[0].step(ahead.payload("consistency", 0))


def test_survivors_told_differently_to_different_sites_open_nothing() -> None:
    game = _after("mask")
    told = {i: range(6) if i < 3 else [0, 2, 3, 4, 5] for i in (0, 2, 3, 4, 5)}
    agreed, signatures = {}, {}
    for i, alive in told.items():
        agreed[i], signatures[i] = game.stages[i].step(_survivors(game, alive))
    request = wire.frame(MessageKind.UNMASK_REQUEST, game.slot_binding(), wire.encode_list(signatures.values()))
    for i in told:
        with pytest.raises(ProtocolError, match="the set signed here"):
            agreed[i].step(request)


def _requests(game: Round, signers: list[int], digest: bytes | None = None) -> bytes:
    """An unmask request with genuine signatures, or with ones that colluders made over another set."""
    blobs = [game.sent["consistency"][i] for i in signers]
    if digest is not None:
        blobs = [_resign(game, i, MessageKind.CONSISTENCY, digest, game.slot_binding()) for i in signers]
    return wire.frame(MessageKind.UNMASK_REQUEST, game.slot_binding(), wire.encode_list(blobs))


def test_one_third_plus_one_signatures_missing_open_nothing() -> None:
    game = _after("consistency")
    assert game.coordinator._keys.quorum == 5
    with pytest.raises(ProtocolError, match="too few consistency signatures"):
        game.stages[0].step(_requests(game, [0, 1, 2, 3]))


def test_one_signature_counts_once() -> None:
    game = _after("consistency")
    with pytest.raises(ProtocolError, match="too few consistency signatures"):
        game.stages[0].step(_requests(game, [0, 1, 2, 3, 3, 3]))


def test_a_forged_consistency_signature_is_refused() -> None:
    game = _after("consistency")
    blobs = [bytearray(game.sent["consistency"][i]) for i in range(6)]
    blobs[4][-1] ^= 1
    with pytest.raises(ProtocolError, match="signature"):
        game.stages[0].step(
            wire.frame(MessageKind.UNMASK_REQUEST, game.slot_binding(), wire.encode_list(map(bytes, blobs)))
        )


def test_a_consistency_signature_of_a_site_that_did_not_survive_is_refused() -> None:
    game = _after("consistency", dropped_after={"hold": [5]})
    digest = survivor_digest(range(5))
    blobs = [game.sent["consistency"][i] for i in range(4)]
    blobs.append(_resign(game, 5, MessageKind.CONSISTENCY, digest, game.slot_binding()))
    with pytest.raises(ProtocolError, match="a survivor's"):
        game.stages[0].step(wire.frame(MessageKind.UNMASK_REQUEST, game.slot_binding(), wire.encode_list(blobs)))


def test_a_consistency_signature_from_outside_the_key_set_is_refused() -> None:
    game = _after("consistency", Cohort((1,) * 7), dropped_after={"": [6]})
    digest = survivor_digest(range(6))
    blobs = [
        *(game.sent["consistency"][i] for i in range(4)),
        _resign(game, 6, MessageKind.CONSISTENCY, digest, game.slot_binding()),
    ]
    with pytest.raises(ProtocolError, match="outside the key set"):
        game.stages[0].step(wire.frame(MessageKind.UNMASK_REQUEST, game.slot_binding(), wire.encode_list(blobs)))


def _released(reply: bytes) -> dict[int, ShareKind]:
    body = memoryview(reply)[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES]
    return {owner: kind for owner, (kind, _) in ReleasedShares.decode(body).shares.items()}


def test_a_site_releases_the_seed_of_survivors_the_mask_key_of_the_others_and_never_both() -> None:
    game = _after("consistency", dropped_after={"hold": [5]})
    reply = game.stages[0].step(game.payload("consistency", 0))
    assert _released(reply) == {1: 1, 2: 1, 3: 1, 4: 1, 5: ShareKind.MASK_KEY}


def test_a_second_unmask_request_is_refused() -> None:
    game = _after("consistency")
    game.stages[0].step(game.payload("consistency", 0))
    with pytest.raises(ProtocolError, match="already used"):
        game.stages[0].step(game.payload("consistency", 0))


def test_the_other_share_of_a_peer_cannot_be_asked_for_even_with_a_quorum_of_signatures() -> None:
    # The worst case: everybody but the victim's holder signs a second set in which the peer has dropped out.
    game = _after("consistency")
    other = _requests(game, [0, 1, 2, 3, 4], survivor_digest(range(5)))
    game.stages[0].step(game.payload("consistency", 0))
    with pytest.raises(ProtocolError, match="already used"):
        game.stages[0].step(other)
    with pytest.raises(ProtocolError, match="the set signed here"):
        game.stages[1].step(other)


def test_a_site_signs_one_survivor_set() -> None:
    game = _after("mask")
    stage = game.stages[0]
    stage.step(game.payload("mask", 0))
    with pytest.raises(ProtocolError, match="already used"):
        stage.step(_survivors(game, range(5)))


def test_shares_below_the_threshold_rebuild_nothing() -> None:
    from yoriai.privacy.secagg import shamir
    from yoriai.privacy.secagg.sharing import coordinate

    game = _after("mask")
    owner, threshold = 0, game.coordinator._keys.plan.threshold
    seed = game.stages  # The stage after masking has forgotten the seed, so it is rebuilt from enough holders.
    shares = {coordinate(i): seed[i]._shares[owner][0] for i in range(1, 6)}
    full = shamir.combine(shares, threshold).reveal()
    few = dict(list(shares.items())[: threshold - 1])
    assert shamir.combine(few, threshold - 1).reveal() != full


# Updates are spent once.


def test_an_update_enters_one_masked_input_only() -> None:
    game = _after("hold")
    update = game.cohort.update(0)
    game.ready(0).step(update, spend)
    game.cohort.next_slot()
    with pytest.raises(SpentError):
        game.ready(0).step(update, spend)


def test_the_mark_is_made_before_anything_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    masked = slot.masked_update
    monkeypatch.setattr(slot, "masked_update", lambda *args: events.append("masked") or masked(*args))
    game = _after("hold")
    game.ready(0).step(game.cohort.update(0), lambda identity: events.append("spent"))
    assert events == ["spent", "masked"]


def test_a_mark_that_fails_keeps_the_masked_input_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "masked_update", lambda *args: pytest.fail("masked without a mark"))
    game = _after("hold")

    def full(identity: bytes) -> None:
        raise OSError("no space left")

    update = game.cohort.update(0)
    with pytest.raises(OSError, match="no space"):
        game.ready(0).step(update, full)
    with pytest.raises(SpentError):
        update.claim()


def test_an_adversary_that_asks_for_two_survivor_sets_across_a_resume_gets_one() -> None:
    # The site's durable mark outlives its process; the resumed one has the update from disk, as a new object.
    marked: set[bytes] = set()

    def mark(identity: bytes) -> None:
        if identity in marked:
            raise SpentError("this update was already spent")
        marked.add(identity)

    before, after = _after("hold"), _after("hold", Cohort(SIX, seed="after the resume"))
    before.ready(0).step(before.cohort.update(0), mark)
    with pytest.raises(SpentError):
        after.ready(0).step(after.cohort.update(0), mark)


def test_counts_are_refused_unless_the_policy_allows_them() -> None:
    cohort = Cohort(SIX, n_counts=1, policy=SitePolicy(2))
    with pytest.raises(PolicyError, match="counts"):
        advertise(cohort.member(0), cohort.terms)


def test_the_digest_of_a_survivor_set_tells_sets_apart() -> None:
    digests = {survivor_digest(s) for s in ([0], [1], [0, 1], [256], [0, 1, 2])}
    assert len(digests) == 5
    assert survivor_digest([1, 0]) == survivor_digest([0, 1])
    assert survivor_digest([0]) != hashlib.sha256(wire.encode_sites([0])).digest()
