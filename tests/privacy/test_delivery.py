"""The coordinator's statement about a last adapter: read back as it was signed, and by no other key or bytes."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import Authority
from yoriai.privacy.identity.coordinator_identity import (
    certified_federation,
    certify_coordinator,
    make_coordinator_request,
    read_coordinator_request,
)
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.delivery import _FORMAT, DeliveryStatement, read_delivery, sign_delivery

KEY = SigningKey.generate()
STATEMENT = DeliveryStatement(
    federation="miyagi",
    run_id="run 1/ä",
    job_digest="0a" * 32,
    base_digest="1b" * 32,
    roster_digest="",
    rounds=3,
    adapter_digest="2c" * 32,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"base_digest": "1b" * 64},
        {"roster_digest": "3d" * 32},
        {"adapter_digest": ""},
        {"adapter_digest": "", "rounds": 0},
    ],
)
def test_a_statement_reads_as_it_was_signed(changes: dict[str, Any]) -> None:
    statement = replace(STATEMENT, **changes)
    assert read_delivery(sign_delivery(KEY, statement), KEY.public_key) == statement


def test_a_statement_of_another_key_is_refused() -> None:
    with pytest.raises(IdentityError, match="does not bear the right signature"):
        read_delivery(sign_delivery(SigningKey.generate(), STATEMENT), KEY.public_key)


def test_any_flipped_bit_is_refused() -> None:
    data = sign_delivery(KEY, STATEMENT)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IdentityError):
            read_delivery(bytes(flipped), KEY.public_key)


def test_a_statement_cut_short_anywhere_is_refused() -> None:
    data = sign_delivery(KEY, STATEMENT)
    for length in range(len(data)):
        with pytest.raises(IdentityError):
            read_delivery(data[:length], KEY.public_key)


def test_another_version_or_kind_is_refused_by_its_name() -> None:
    newer = SignedFormat("", "delivery", 2, "").seal(KEY, STATEMENT.payload)
    with pytest.raises(IdentityError, match="found yoriai-delivery-2; expected yoriai-delivery-1"):
        read_delivery(newer, KEY.public_key)
    other = SignedFormat("", "roster", 1, "").seal(KEY, STATEMENT.payload)
    with pytest.raises(IdentityError, match="found yoriai-roster-1"):
        read_delivery(other, KEY.public_key)


def test_a_signature_for_another_kind_of_file_is_none_for_a_statement() -> None:
    line, signature, payload = SignedFormat("", "roster", 1, "").seal(KEY, STATEMENT.payload).split(b"\n", 2)
    assert line == b"yoriai-roster-1"
    with pytest.raises(IdentityError, match="signature"):
        read_delivery(b"\n".join([b"yoriai-delivery-1", signature, payload]), KEY.public_key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("federation", "../x"),
        ("run_id", ""),
        ("run_id", "r" * 129),
        ("run_id", ["r"]),
        ("job_digest", "0A" * 32),
        ("base_digest", ""),
        ("base_digest", "1b" * 33),
        ("base_digest", "1b" * 32 + "\n"),
        ("adapter_digest", "2c" * 31),
        ("adapter_digest", ["2"] * 64),
        ("adapter_digest", 0),
        ("adapter_digest", None),
        ("roster_digest", "no"),
        ("roster_digest", None),
        ("rounds", 0),
        ("rounds", -1),
        ("rounds", 1.0),
        ("rounds", True),
        ("more", 1),
    ],
)
def test_signed_nonsense_is_malformed(key: str, value: Any) -> None:
    with pytest.raises(IdentityError):
        read_delivery(_FORMAT.seal(KEY, canonical_json({**asdict(STATEMENT), key: value})), KEY.public_key)


@pytest.mark.parametrize("payload", [b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000])
def test_signed_bytes_that_are_no_statement_are_malformed(payload: bytes) -> None:
    with pytest.raises(IdentityError, match="malformed"):
        read_delivery(_FORMAT.seal(KEY, payload), KEY.public_key)


def test_a_second_encoding_of_a_statement_is_refused() -> None:
    with pytest.raises(IdentityError, match="malformed"):
        read_delivery(_FORMAT.seal(KEY, json.dumps(asdict(STATEMENT)).encode()), KEY.public_key)


def test_a_certificates_federation_is_read_by_its_holder() -> None:
    now = datetime.now(UTC)
    authority = Authority.create("miyagi", SigningKey.generate(), now=now, valid_for=timedelta(days=1))
    request = read_coordinator_request(make_coordinator_request("hub", KEY))
    certificate = certify_coordinator(authority, "miyagi", request, now=now, valid_for=timedelta(days=1))
    assert certified_federation(certificate) == "miyagi"
    for data in (b"", certificate[:60], sign_delivery(KEY, STATEMENT)):
        with pytest.raises(IdentityError):
            certified_federation(data)
