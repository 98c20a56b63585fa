"""Framing and bodies: every changed bit and every other length is refused before anything is parsed."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.privacy.secagg.cohort import STAGES, Cohort, Round, signing_key
from yoriai.errors import ProtocolError, YoriaiError
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.messages import (
    Advertisement,
    Binding,
    MessageKind,
    RelayedShares,
    ReleasedShares,
    SealedShares,
    ShareKind,
)
from yoriai.privacy.secagg.secret import SecretBytes

BINDING = Binding(b"r" * 16, 7, b"d" * 32)


def _sealed(body: bytes = b"body") -> bytes:
    return wire.seal(MessageKind.CONSISTENCY, BINDING, 3, body, signing_key("signer"))


def _open(message: bytes, binding: Binding = BINDING, kind: MessageKind = MessageKind.CONSISTENCY) -> tuple[int, bytes]:
    sender, body = wire.open_sealed(message, kind, binding, lambda sender, body: signing_key("signer").public_key)
    return sender, bytes(body)


def test_a_sealed_message_opens_to_its_sender_and_body() -> None:
    assert _open(_sealed()) == (3, b"body")


def test_every_flipped_bit_of_a_sealed_message_is_refused() -> None:
    message = _sealed()
    for at in range(8 * len(message)):
        changed = bytearray(message)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(ProtocolError):
            _open(bytes(changed))


def test_every_truncation_and_an_extension_of_a_sealed_message_are_refused() -> None:
    message = _sealed()
    for size in range(len(message)):
        with pytest.raises(ProtocolError):
            _open(message[:size])
    with pytest.raises(ProtocolError):
        _open(message + b"\0")


@pytest.mark.parametrize(
    "binding", [Binding(b"x" * 16, 7, b"d" * 32), Binding(b"r" * 16, 8, b"d" * 32), Binding(b"r" * 16, 7, b"x" * 32)]
)
def test_a_message_of_another_run_round_or_key_set_is_refused(binding: Binding) -> None:
    with pytest.raises(ProtocolError):
        _open(_sealed(), binding)


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(ProtocolError):
        _open(_sealed(), kind=MessageKind.MASKED_UPDATE)


def test_a_site_cannot_speak_as_the_coordinator() -> None:
    with pytest.raises(ProtocolError):
        wire.open_frame(_sealed(), MessageKind.CONSISTENCY, BINDING)


def test_contexts_differ_in_purpose_parties_order_round_run_and_key_set() -> None:
    contexts = {
        BINDING.context("share", 1, 2),
        BINDING.context("share", 2, 1),
        BINDING.context("pair mask", 1, 2),
        BINDING.context("self mask", 1),
        Binding(b"x" * 16, 7, b"d" * 32).context("share", 1, 2),
        Binding(b"r" * 16, 8, b"d" * 32).context("share", 1, 2),
        Binding(b"r" * 16, 7, b"x" * 32).context("share", 1, 2),
    }
    assert len(contexts) == 7


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.sets(st.integers(0, 2047), max_size=5))
def test_sealed_and_relayed_shares_survive_the_wire(slots: int, holders: set[int]) -> None:
    sealed = {holder: bytes([holder % 256]) * (66 * slots + 16) for holder in sorted(holders)}
    shares = SealedShares(tuple(bytes([slot]) * 32 for slot in range(slots)), sealed)
    assert SealedShares.decode(memoryview(shares.encode()), slots) == shares
    relayed = RelayedShares(tuple(sorted(sealed)), sealed)
    assert RelayedShares.decode(memoryview(relayed.encode()), slots) == relayed


@pytest.mark.parametrize("order", [(1, 1), (3, 1)])
def test_ciphertexts_of_one_sender_twice_or_out_of_order_are_refused(order: tuple[int, int]) -> None:
    """A body has one reading, and a sender one ciphertext in it."""
    empty = RelayedShares((1, 3), {}).encode()
    records = [RelayedShares((1, 3), {site: bytes(wire.sealed_bytes(2))}).encode()[len(empty) :] for site in order]
    with pytest.raises(ProtocolError):
        RelayedShares.decode(memoryview(empty + b"".join(records)), 2)


def test_an_advertisement_of_another_number_of_slots_is_not_that_of_this_one() -> None:
    advertised = Advertisement(b"e" * 32, (b"m" * 32, b"n" * 32), b"certificate")
    assert Advertisement.decode(memoryview(advertised.encode()), 2) == advertised
    assert Advertisement.decode(memoryview(advertised.encode()), 1) != advertised
    with pytest.raises(ProtocolError, match="4 keys and a certificate"):
        Advertisement.decode(memoryview(advertised.encode()), 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_lists_of_messages_survive_the_wire(messages: list[bytes]) -> None:
    decoded = wire.decode_list(memoryview(wire.encode_list(messages)), MessageKind.KEY_SET)
    assert [bytes(m) for m in decoded] == messages


def test_a_list_longer_than_any_federation_is_refused_before_its_messages_are_looked_at() -> None:
    assert len(wire.decode_list(memoryview(wire.encode_list([b""] * 2048)), MessageKind.KEY_SET)) == 2048
    with pytest.raises(ProtocolError, match="at most 2048 messages"):
        wire.decode_list(memoryview(wire.encode_list([b""] * 2049)), MessageKind.KEY_SET)


def test_released_shares_survive_the_wire() -> None:
    shares = {4: (ShareKind.SEED, SecretBytes(b"s" * 33)), 9: (ShareKind.MASK_KEY, SecretBytes(b"k" * 33))}
    decoded = ReleasedShares.decode(memoryview(ReleasedShares(shares).encode())).shares
    assert {o: (k, s.reveal()) for o, (k, s) in decoded.items()} == {4: (1, b"s" * 33), 9: (2, b"k" * 33)}


def test_a_message_with_both_shares_of_one_owner_is_refused() -> None:
    one = ReleasedShares({4: (ShareKind.SEED, SecretBytes(b"s" * 33))}).encode()
    two = ReleasedShares({4: (ShareKind.MASK_KEY, SecretBytes(b"k" * 33))}).encode()
    with pytest.raises(ProtocolError):
        ReleasedShares.decode(memoryview(one + two))


@pytest.mark.parametrize(
    "decode",
    [lambda b: SealedShares.decode(b, 2), lambda b: RelayedShares.decode(b, 2), ReleasedShares.decode],
    ids=["sealed", "relayed", "released"],
)
@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=200))
def test_arbitrary_bodies_are_parsed_or_refused_and_nothing_else(decode: object, body: bytes) -> None:
    with suppress(ProtocolError):
        decode(memoryview(body))  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["advertise", "sign keys", "share", "mask", "consistency"]))
def test_arbitrary_bytes_from_the_coordinator_are_refused_at_every_stage(noise: bytes, stage: str) -> None:
    game = Round(Cohort((1,) * 3))
    game.run(until=stage)
    header = game.payload(stage, 0)[: wire.HEADER_BYTES]
    with pytest.raises(YoriaiError):
        game.stages[0].step(header + noise + b"\xff")
    with pytest.raises(YoriaiError):
        game.stages[1].step(noise)


def test_every_message_of_a_round_is_refused_by_the_coordinator_when_a_bit_flips() -> None:
    rng = np.random.default_rng(5)
    for stage in STAGES:
        for _ in range(4):
            game = Round(Cohort((1,) * 6))
            answer = game._answer

            def flipped(at, i, payload, answer=answer, stage=stage):
                message = bytearray(answer(at, i, payload))
                if (at, i) == (stage, 2):
                    message[rng.integers(len(message))] ^= 1 << rng.integers(8)
                return bytes(message)

            game._answer = flipped  # type: ignore[method-assign]
            opened = game.run()
            survivors = [0, 1, 3, 4, 5] if stage not in ("consistency", "unmask") else range(6)
            assert np.array_equal(opened.levels, game.cohort.expected(survivors))
            assert len(game.refused | game.coordinator.refused) == 1
