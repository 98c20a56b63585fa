"""Request and certificate file: what comes back, and everything that does not."""

import json
import pickle
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from tests.privacy.secagg.cohort import NOW, YEAR, authority, certificate, signing_key, trust
from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Authority
from yoriai.privacy.identity.enrolment import Enrolment, make_request, read_enrolment, read_request, sign_enrolment
from yoriai.privacy.identity.node_key import NodeKey, check_node_key
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.privacy.identity.signing_key import SigningKey

NAME = "site-0000"
NODE = NodeKey.generate()
FLIPS = 5  # Every so many bytes, one bit.


def enrolment() -> Enrolment:
    return Enrolment("federation", NAME, certificate(NAME), NODE.public_text)


def forged_request(key: SigningKey, change: Callable[[dict[str, str]], object]) -> bytes:
    """A request whose fields are changed and whose signature is right: the site itself is hostile."""
    identity = key.public_key.public_bytes_raw()
    fields = json.loads(make_request(NAME, key, NODE).split(b"\n", 3)[3])
    change(fields)
    form = SignedFormat("the request", "request", 1, remedy="")
    return form.seal(key, identity.hex().encode() + b"\n" + canonical_json(fields))


# The node key.


def test_a_node_key_is_kept_in_openssh_format_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    NODE.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    assert NodeKey.read(path).public_text == NODE.public_text


def test_a_node_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    NODE.write(path)
    with pytest.raises(IdentityError, match="exists"):
        NodeKey.generate().write(path)
    assert NodeKey.read(path).public_text == NODE.public_text


def test_a_node_key_open_to_others_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(StorageError, match="cannot be read"):
        NodeKey.read(path)
    NODE.write(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="open to others"):
        NodeKey.read(path)


def test_a_node_key_on_another_curve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.touch(0o600)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(IdentityError, match="another kind"):
        NodeKey.read(path)
    with pytest.raises(IdentityError, match="node key"):
        check_node_key(other.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def test_a_node_key_has_one_form() -> None:
    for text in (NODE.public_text + " me@host", " " + NODE.public_text, NODE.public_text + "\n", "", "ä"):
        with pytest.raises(IdentityError, match="node key"):
            check_node_key(text)


def test_a_node_key_shows_and_pickles_nothing() -> None:
    assert "redacted" in repr(NODE)
    with pytest.raises(TypeError):
        pickle.dumps(NODE)


# The request.


def test_a_request_comes_back_as_it_was_made() -> None:
    key = signing_key(NAME)
    request = read_request(make_request(NAME, key, NODE))
    assert (request.name, request.node_key) == (NAME, NODE.public_text)
    assert request.public_key == key.public_key


def test_a_fingerprint_is_read_aloud_in_four_rows_of_four_groups() -> None:
    rows = read_request(make_request(NAME, signing_key(NAME), NODE)).fingerprint.split("\n")
    assert [[len(group) for group in row.split(" ")] for row in rows] == [[4] * 4] * 4


def test_a_request_with_any_flipped_bit_is_refused() -> None:
    data = make_request(NAME, signing_key(NAME), NODE)
    for at in range(0, len(data), FLIPS):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(IdentityError):
            read_request(bytes(changed))


def test_a_request_with_a_node_key_that_it_does_not_hold_is_refused() -> None:
    other = NodeKey.generate().public_text
    with pytest.raises(IdentityError, match="not proved"):
        read_request(forged_request(signing_key("x"), lambda fields: fields.update(node_key=other)))


def test_a_proof_of_anothers_request_is_no_proof() -> None:
    theirs = json.loads(make_request(NAME, signing_key(NAME), NODE).split(b"\n", 3)[3])
    with pytest.raises(IdentityError, match="not proved"):
        read_request(forged_request(signing_key("x"), lambda fields: fields.update(theirs)))


@pytest.mark.parametrize("name", ["", "../north", "a b", "-a", "a" * 65, "n\x1b[2J", "a\n", "north ", "ä"])
def test_hostile_names_are_refused_at_both_ends(name: str) -> None:
    with pytest.raises(IdentityError, match="a name"):
        make_request(name, signing_key("x"), NODE)
    with pytest.raises(IdentityError, match="a name"):
        read_request(forged_request(signing_key("x"), lambda fields: fields.update(name=name)))


@pytest.mark.parametrize("change", [{"note": "x"}, {"name": 3}, {"node_proof": "zz"}, {"node_key": None}])
def test_a_request_with_other_fields_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(IdentityError, match="malformed"):
        read_request(forged_request(signing_key("x"), lambda fields: fields.update(change)))


def test_a_node_key_cannot_pass_for_another_one_by_a_comment() -> None:
    with pytest.raises(IdentityError, match="a node key"):
        read_request(forged_request(signing_key("x"), lambda fields: fields.update(node_key=f"{NODE.public_text} x")))


@pytest.mark.parametrize("data", [b"", b"yoriai-request-1", b"yoriai-request-1\n00\n{}", b"\0" * 300])
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(IdentityError, match="cannot be read"):
        read_request(data)


def test_another_version_and_another_kind_are_refused_by_name() -> None:
    with pytest.raises(IdentityError, match="found yoriai-request-2; expected yoriai-request-1"):
        read_request(b"yoriai-request-2\nof another layout")
    with pytest.raises(IdentityError, match="found yoriai-enrolment-1; expected yoriai-request-1"):
        read_request(sign_enrolment(authority(), enrolment()))


# The certificate file.


def test_an_enrolment_comes_back_as_it_was_signed() -> None:
    assert read_enrolment(sign_enrolment(authority(), enrolment()), trust()) == enrolment()


def test_an_enrolment_with_any_flipped_bit_is_refused() -> None:
    data = sign_enrolment(authority(), enrolment())
    for at in range(0, len(data), FLIPS):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(IdentityError):
            read_enrolment(bytes(changed), trust())


def test_an_enrolment_that_another_ca_signed_is_refused() -> None:
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    with pytest.raises(IdentityError, match=r"signature.*from the same consortium"):
        read_enrolment(sign_enrolment(other, enrolment()), trust())


def test_an_enrolment_holds_as_long_as_its_certificate() -> None:
    data = sign_enrolment(authority(), enrolment())
    with pytest.raises(IdentityError, match="not valid"):
        read_enrolment(data, trust(NOW + 2 * YEAR))
    revoked = authority().revocation_list([certificate(NAME)], number=1, now=NOW, valid_for=timedelta(days=1))
    with pytest.raises(IdentityError, match="revoked"):
        read_enrolment(data, trust(NOW, revoked))


def test_an_enrolment_under_another_name_than_its_certificates_is_refused() -> None:
    swapped = Enrolment("federation", "site-0001", certificate(NAME), NODE.public_text)
    with pytest.raises(IdentityError, match="another site"):
        read_enrolment(sign_enrolment(authority(), swapped), trust())


def test_an_enrolment_with_surplus_content_is_refused() -> None:
    form = SignedFormat("the certificate file", "enrolment", 1, remedy="")
    data = form.seal(authority().key, enrolment().payload.replace(b'{"', b'{"a":1,"', 1))
    with pytest.raises(IdentityError, match="malformed"):
        read_enrolment(data, trust())
