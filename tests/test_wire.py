"""The envelope: every message comes back as it went, and nothing else is taken for one."""

import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from yoriai import wire
from yoriai.errors import WireError

NAMES = st.text(min_size=0, max_size=20)
PAYLOADS = st.binary(max_size=200)
INDICES = st.integers(0, 2**40)
WINDOWS, SLOTS = st.integers(0, 2**32 - 1), st.none() | st.integers(0, 255)
STAGES = st.sampled_from((*wire.WINDOW_STAGES, *wire.SLOT_STAGES))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
ROSTERS = st.builds(
    wire.Roster, serial=st.integers(1, 2**40), weights=st.dictionaries(NAMES, st.integers(1, 255), max_size=5)
)
MESSAGES = st.one_of(
    st.builds(
        wire.JobOffer,
        run_id=NAMES,
        job=st.dictionaries(NAMES, JSON_VALUES, max_size=4),
        roster=st.builds(
            wire.Roster, serial=st.integers(1, 2**40), weights=st.dictionaries(NAMES, st.integers(1, 255))
        ),
        base_digest=NAMES,
        noise_multiplier=st.none() | st.floats(0, 1e300),
        payload=PAYLOADS,
    ),
    st.builds(wire.Acceptance, run_id=NAMES, site=NAMES),
    st.builds(wire.Refusal, run_id=NAMES, site=NAMES, reason=NAMES, unknown_job=st.booleans(), waiting=st.booleans()),
    st.builds(wire.Delivery, run_id=NAMES, certificate=NAMES, statement=NAMES, payload=PAYLOADS),
    st.builds(
        wire.VersionFile,
        run_id=NAMES,
        certificate=NAMES,
        promotion=NAMES,
        statement=NAMES,
        lineage=st.lists(NAMES, max_size=3),
        job=st.dictionaries(NAMES, JSON_VALUES, max_size=4),
        payload=PAYLOADS,
    ),
    st.builds(wire.Receipt, run_id=NAMES, site=NAMES, adapter_digest=NAMES),
    st.builds(wire.TrainRequest, run_id=NAMES, round_index=INDICES, adapter_digest=NAMES, payload=PAYLOADS),
    st.builds(wire.PlainUpdate, run_id=NAMES, round_index=INDICES, site=NAMES, payload=PAYLOADS),
    st.builds(wire.WindowRequest, run_id=NAMES, window=WINDOWS, slots=st.integers(1, 256)),
    st.builds(wire.SecureStage, run_id=NAMES, window=WINDOWS, slot=SLOTS, stage=STAGES, payload=PAYLOADS),
    st.builds(wire.SecureReply, run_id=NAMES, window=WINDOWS, slot=SLOTS, stage=STAGES, site=NAMES, payload=PAYLOADS),
)
SECRET = "the pump of machine A leaks"
UPDATE = wire.PlainUpdate(run_id="r", round_index=3, site=SECRET, payload=SECRET.encode() * 3)


def envelope(header: bytes, payload: bytes = b"", *, version: int = wire.PROTOCOL_VERSION) -> bytes:
    """An envelope with a right checksum around any header."""
    length = struct.pack(">I", len(header))
    return b"YORI" + struct.pack(">HI", version, zlib.crc32(length + header + payload)) + length + header + payload


@given(MESSAGES)
def test_every_message_comes_back_as_it_went(message: wire.Message) -> None:
    data = wire.encode(message)
    again = wire.decode(data)
    assert again == message
    assert type(again) is type(message)
    assert wire.encode(again) == data


def test_the_tests_envelope_is_the_documented_one() -> None:
    header = json.dumps({"kind": "acceptance", "run_id": "r", "site": "a"}, sort_keys=True).encode()
    assert envelope(header) == wire.encode(wire.Acceptance(run_id="r", site="a"))


def test_refusal_and_acceptance_cannot_carry_a_payload() -> None:
    for kind in (wire.Refusal, wire.Acceptance):
        with pytest.raises(ValidationError, match="payload"):
            kind(run_id="r", site="a", **({"reason": "no"} if kind is wire.Refusal else {}), payload=b"x")
    header = b'{"kind": "refusal", "run_id": "r", "site": "a", "reason": "no"}'
    assert isinstance(wire.decode(envelope(header)), wire.Refusal)
    with pytest.raises(WireError, match="malformed"):
        wire.decode(envelope(header, b"x"))


def test_another_protocol_version_is_named() -> None:
    data = envelope(b"whatever a later version holds", version=7)
    with pytest.raises(WireError, match="found 7; expected 4; run the same Yoriai version"):
        wire.decode(data)


def test_truncation_anywhere_is_an_error_that_quotes_nothing() -> None:
    data = wire.encode(UPDATE)
    for length in range(len(data)):
        with pytest.raises(WireError) as caught:
            wire.decode(data[:length])
        _quotes_nothing(caught.value)


def test_bytes_behind_the_end_are_an_error() -> None:
    with pytest.raises(WireError, match="damaged"):
        wire.decode(wire.encode(UPDATE) + b"\0")


def test_any_flipped_bit_is_an_error_that_quotes_nothing() -> None:
    data = wire.encode(UPDATE)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError) as caught:
            wire.decode(bytes(flipped))
        _quotes_nothing(caught.value)


@pytest.mark.parametrize("field", ["certificate", "statement"])
def test_a_delivery_bears_no_long_text(field: str) -> None:
    texts = {"certificate": "c" * 4096, "statement": "s" * 4096}
    data = wire.encode(wire.Delivery(run_id="r", **texts))
    assert isinstance(wire.decode(data), wire.Delivery)
    header = json.dumps({"kind": "delivery", "run_id": "r", **texts, field: "x" * 4097}).encode()
    with pytest.raises(WireError, match="malformed"):
        wire.decode(envelope(header))


@pytest.mark.parametrize("length", [4 * 1024 * 1024 + 1, 2**32 - 1])
def test_over_long_header_is_refused_by_its_announced_length(length: int) -> None:
    data = b"YORI" + struct.pack(">HII", wire.PROTOCOL_VERSION, 0, length) + b"x" * 100
    with pytest.raises(WireError, match=f"too long; found {length} bytes announced"):
        wire.decode(data)


def test_header_above_the_limit_is_refused_even_if_it_is_all_there() -> None:
    with pytest.raises(WireError, match="too long"):
        wire.decode(envelope(b" " * (4 * 1024 * 1024 + 1)))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind": ["acceptance"]}',
        b'{"kind": "unknown", "run_id": "r"}',
        b'{"kind": "acceptance", "run_id": "r"}',
        b'{"kind": "acceptance", "run_id": "r", "site": 7}',
        b'{"kind": "acceptance", "run_id": "r", "site": "a", "more": 1}',
        b'{"kind": "plain_update", "run_id": "r", "site": "a", "round_index": "3"}',
        b'{"kind": "plain_update", "run_id": "r", "site": "a", "round_index": true}',
        b'{"kind": "plain_update", "run_id": "r", "site": "a", "round_index": -1}',
        b'{"kind": "plain_update", "run_id": "r", "site": "a", "round_index": 1, "payload": "x"}',
        b'{"kind": "job_offer", "run_id": "r", "job": {}, "roster": {"serial": 1, "weights": {"a": 1}}, '
        b'"base_digest": "d", "noise_multiplier": NaN}',
        b'{"kind": "job_offer", "run_id": "r", "job": {}, "roster": {"serial": 1, "weights": {"a": 0}}, '
        b'"base_digest": "d", "noise_multiplier": 1.0}',
        rb'{"kind": "refusal", "run_id": "r", "site": "a", "reason": "\uD800"}',
        b'{"kind": "refusal", "run_id": "r", "site": "a", "reason": "\xed\xa0\x80"}',
        rb'{"kind": "job_offer", "run_id": "r", "job": {"name": ["\udfff"]}, "roster": {"serial": 1, "weights": '
        rb'{"a": 1}}, "base_digest": "d", "noise_multiplier": 1.0}',
    ],
)
def test_malformed_header_is_an_error(header: bytes) -> None:
    with pytest.raises(WireError, match="header is malformed") as caught:
        wire.decode(envelope(header))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    for candidate in (data, b"YORI\0\3" + data, envelope(data)):
        try:
            wire.decode(candidate)
        except WireError:
            continue


def test_a_look_at_the_header_tells_kind_and_fields_and_never_fails() -> None:
    data = wire.encode(wire.TrainRequest(run_id="r", round_index=3, adapter_digest="d", payload=b"leaks"))
    header = wire.peek(data)
    assert (header["kind"], header["run_id"], header["round_index"]) == ("train_request", "r", 3)
    assert "payload" not in header
    for unreadable in (b"", data[:13], data[:40], b"X" + data[1:], envelope(b"[" * 100_000), envelope(b"[1]")):
        assert wire.peek(unreadable) == {}


def test_a_laden_message_hides_its_payload_in_its_repr() -> None:
    assert "leaks" not in repr(wire.TrainRequest(run_id="r", round_index=0, adapter_digest="d", payload=b"leaks"))


def _quotes_nothing(error: WireError) -> None:
    assert "pump" not in str(error)
    assert error.__cause__ is None
