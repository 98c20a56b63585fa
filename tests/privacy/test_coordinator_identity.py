"""The coordinator's request and certificate: what comes back, and everything that does not."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tests.privacy.secagg.cohort import NOW, YEAR, authority, certificate, signing_key, trust
from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import Authority
from yoriai.privacy.identity.coordinator_identity import (
    CoordinatorCertificate,
    CoordinatorRequest,
    certify_coordinator,
    is_coordinator_request,
    make_coordinator_request,
    read_coordinator_certificate,
    read_coordinator_request,
)
from yoriai.privacy.identity.enrolment import Enrolment, make_request, read_enrolment, read_request, sign_enrolment
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.roster import Roster, read_roster, sign_roster
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json

KEY = signing_key("office")
NODE = NodeKey.generate()
REQUEST = CoordinatorRequest("office", KEY.public_key.public_bytes_raw())
FLIPS = 3  # Every so many bytes, one bit.


def signed(by: Authority | None = None, valid_for: timedelta = YEAR) -> bytes:
    return certify_coordinator(by or authority(), "federation", REQUEST, now=NOW, valid_for=valid_for)


def forged_request(**changes: object) -> bytes:
    """A request whose fields are changed and whose signature is right: the coordinator itself is hostile."""
    fields = {"name": "office", "identity": REQUEST.identity.hex(), **changes}
    return SignedFormat("", "application", 1, remedy="").seal(KEY, canonical_json(fields))


def forged_certificate(**changes: object) -> bytes:
    """A certificate with other fields that the CA signed all the same."""
    fields = {**json.loads(signed().split(b"\n", 2)[2]), **changes}
    return SignedFormat("", "coordinator", 1, remedy="").seal(authority().key, canonical_json(fields))


# The request.


def test_a_request_comes_back_as_it_was_made() -> None:
    assert read_coordinator_request(make_coordinator_request("office", KEY)) == REQUEST


def test_a_fingerprint_is_the_one_that_a_site_of_this_key_would_read_out() -> None:
    assert REQUEST.fingerprint == read_request(make_request("office", KEY, NODE)).fingerprint


def test_a_coordinators_request_is_told_from_a_sites() -> None:
    assert is_coordinator_request(make_coordinator_request("office", KEY))
    assert is_coordinator_request(
        make_coordinator_request("office", KEY).replace(b"application-1", b"application-2", 1)
    )
    assert not is_coordinator_request(make_request("office", KEY, NODE))


def test_a_request_with_any_flipped_bit_is_refused() -> None:
    data = make_coordinator_request("office", KEY)
    for at in range(0, len(data), FLIPS):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(IdentityError):
            read_coordinator_request(bytes(changed))


def test_a_request_for_a_key_that_did_not_sign_it_is_refused() -> None:
    with pytest.raises(IdentityError, match="signature"):
        read_coordinator_request(forged_request(identity=signing_key("other").public_key.public_bytes_raw().hex()))


@pytest.mark.parametrize("name", ["", "../office", "a b", "-a", "a" * 65, "n\x1b[2J", "a\n", "ä"])
def test_hostile_names_are_refused_at_both_ends(name: str) -> None:
    with pytest.raises(IdentityError, match="a name"):
        make_coordinator_request(name, KEY)
    with pytest.raises(IdentityError, match="a name"):
        read_coordinator_request(forged_request(name=name))


@pytest.mark.parametrize(
    "change",
    [{"note": "x"}, {"name": 3}, {"identity": "zz"}, {"identity": "00"}, {"identity": REQUEST.identity.hex().upper()}],
)
def test_a_request_with_other_fields_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(IdentityError, match=r"malformed|32 bytes"):
        read_coordinator_request(forged_request(**change))


@pytest.mark.parametrize("data", [b"", b"yoriai-application-1", b"yoriai-application-1\n00\n{}", b"\0" * 300])
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(IdentityError, match="cannot be read"):
        read_coordinator_request(data)


def test_another_version_of_the_request_is_refused_by_name() -> None:
    with pytest.raises(IdentityError, match="found yoriai-application-2; expected yoriai-application-1"):
        read_coordinator_request(b"yoriai-application-2\nof another layout")


# The certificate.


def test_a_certificate_names_the_federation_the_coordinator_its_key_and_its_end() -> None:
    read = read_coordinator_certificate(signed(), trust(), now=NOW)
    assert (read.federation, read.name, read.expires) == ("federation", "office", NOW + YEAR)
    assert read.public_key == KEY.public_key


def test_a_certificate_made_in_another_time_zone_ends_at_the_same_moment() -> None:
    local = (NOW + timedelta(microseconds=5)).astimezone(timezone(timedelta(hours=9)))
    data = certify_coordinator(authority(), "federation", REQUEST, now=local, valid_for=YEAR)
    assert read_coordinator_certificate(data, trust(), now=NOW).expires == NOW + YEAR


def test_a_certificate_with_any_flipped_bit_is_refused() -> None:
    data = signed()
    for at in range(0, len(data), FLIPS):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(IdentityError):
            read_coordinator_certificate(bytes(changed), trust(), now=NOW)


def test_a_certificate_that_another_ca_signed_is_refused() -> None:
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    with pytest.raises(IdentityError, match=r"signature.*sign the server's request again"):
        read_coordinator_certificate(signed(other), trust(), now=NOW)


def test_a_coordinator_cannot_sign_a_certificate_for_itself() -> None:
    payload = signed().split(b"\n", 2)[2]
    own = SignedFormat("", "coordinator", 1, remedy="").seal(KEY, payload)
    with pytest.raises(IdentityError, match="signature"):
        read_coordinator_certificate(own, trust(), now=NOW)


def test_a_certificate_ends_at_its_very_second() -> None:
    data = signed(valid_for=timedelta(days=1))
    end = NOW + timedelta(days=1)
    read_coordinator_certificate(data, trust(), now=end - timedelta(seconds=1))
    with pytest.raises(IdentityError, match=r"expired.*2026-06-02"):
        read_coordinator_certificate(data, trust(), now=end)


@pytest.mark.parametrize(
    "change",
    [
        {"note": "x"},
        {"name": 3},
        {"identity": "zz"},
        {"identity": "00" * 31},
        {"expires": 1},
        {"expires": "soon"},
        {"expires": "2027-06-01T00:00:00"},  # Of no time zone.
        {"expires": "2027-06-01T09:00:00+09:00"},
        {"expires": "2027-06-01T00:00:00.000001+00:00"},
    ],
)
def test_a_certificate_with_other_fields_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(IdentityError, match=r"malformed|32 bytes"):
        read_coordinator_certificate(forged_certificate(**change), trust(), now=NOW)


@pytest.mark.parametrize("change", [{"federation": "../x"}, {"name": "a b"}])
def test_a_certificate_for_a_name_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(IdentityError, match="a name"):
        read_coordinator_certificate(forged_certificate(**change), trust(), now=NOW)


def test_a_coordinators_certificate_is_no_members_and_a_members_is_no_coordinators() -> None:
    member = sign_enrolment(
        authority(), Enrolment("federation", "site-0000", certificate("site-0000"), NODE.public_text)
    )
    with pytest.raises(IdentityError, match="found yoriai-enrolment-1; expected yoriai-coordinator-1"):
        read_coordinator_certificate(member, trust(), now=NOW)
    with pytest.raises(IdentityError, match="found yoriai-coordinator-1; expected yoriai-enrolment-1"):
        read_enrolment(signed(), trust())


def test_a_signature_of_another_kind_of_file_is_none_of_a_certificate() -> None:
    roster = sign_roster(authority(), Roster("federation", 1, NOW + YEAR, ()))
    read_roster(roster, trust())
    renamed = roster.replace(b"yoriai-roster-1", b"yoriai-coordinator-1", 1)
    with pytest.raises(IdentityError, match="signature"):
        read_coordinator_certificate(renamed, trust(), now=NOW)


def test_a_certificate_that_could_not_be_read_back_is_not_made() -> None:
    for expires in (
        datetime(2027, 1, 1, 0, 0, 0, 5, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=9))),
    ):
        with pytest.raises(IdentityError, match="malformed"):
            CoordinatorCertificate("federation", "office", REQUEST.identity, expires)
