"""Keys, certificates, revocations and rosters."""

import multiprocessing
import os
import pickle
import stat
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.privacy.secagg.cohort import NOW, YEAR, authority, certificate, roster, signing_key, trust
from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Authority, Trust, fingerprint, make_request
from yoriai.privacy.identity.roster import Directory, Roster, RosterEntry, RosterMemory, read_roster, sign_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key, verify, write_key
from yoriai.system.key_file import read_private

NAME = "site-0000"


def _pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.DER)


# Keys.


def test_a_key_file_is_readable_by_its_owner_only_and_comes_back(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "site.key"
    write_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    verify(read_key(path).public_key, b"d", b"m", key.sign(b"d", b"m"))


def test_a_key_under_a_passphrase_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    write_key(path, SigningKey.generate(), b"correct horse")
    assert b"ENCRYPTED" in path.read_bytes()
    read_key(path, b"correct horse")
    for wrong in (None, b"wrong"):
        with pytest.raises(IdentityError, match="passphrase"):
            read_key(path, wrong)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a huge file"])
def test_what_is_no_key_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """A pipe would keep whoever opens it waiting, for good."""
    path = tmp_path / "identity.key"
    if kind == "a pipe":
        os.mkfifo(path, 0o600)
    elif kind == "a folder":
        path.mkdir(mode=0o700)
    else:
        path.touch(mode=0o600)
        os.truncate(path, 1024**4)
    with pytest.raises(IdentityError, match="is no key file"):
        read_private(path)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    write_key(path, signing_key("a"))
    before = path.read_bytes()
    with pytest.raises(IdentityError, match="exists"):
        write_key(path, signing_key("b"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    write_key(path, signing_key("a"))
    path.chmod(mode)
    with pytest.raises(IdentityError, match="open to others"):
        read_key(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.touch(0o600)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    with pytest.raises(IdentityError, match="another kind"):
        read_key(path)


def test_a_signing_key_shows_and_pickles_nothing() -> None:
    key = signing_key("a")
    assert "redacted" in repr(key)
    assert "redacted" in repr(authority())
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_a_signature_with_a_flipped_bit_is_refused(at: int) -> None:
    key = signing_key("a")
    signature = bytearray(key.sign(b"d", b"m"))
    signature[at] ^= 1
    with pytest.raises(IdentityError):
        verify(key.public_key, b"d", b"m", bytes(signature))


# Certificates.


def test_a_certificate_of_the_pinned_ca_speaks_for_its_name() -> None:
    assert trust().check(NAME, certificate(NAME)) == signing_key(NAME).public_key


def test_certificates_of_one_name_are_of_one_length_and_of_many_serial_numbers() -> None:
    request = make_request(NAME, signing_key(NAME))
    certificates = [authority().sign_request(request, now=NOW, valid_for=YEAR) for _ in range(1000)]
    assert len({len(one) for one in certificates}) == 1
    assert len(set(certificates)) == 1000


def test_a_certificate_does_not_speak_for_another_name() -> None:
    with pytest.raises(IdentityError, match="another site"):
        trust().check("site-0001", certificate(NAME))


def test_a_certificate_of_another_ca_of_the_same_name_is_refused() -> None:
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    der = other.sign_request(make_request(NAME, signing_key(NAME)), now=NOW, valid_for=YEAR)
    with pytest.raises(IdentityError, match="not issued"):
        trust().check(NAME, der)


def test_a_sites_certificate_cannot_issue_another_one() -> None:
    site_as_ca = Authority(signing_key(NAME), x509.load_der_x509_certificate(certificate(NAME)))
    der = site_as_ca.sign_request(make_request("site-0001", signing_key("x")), now=NOW, valid_for=YEAR)
    with pytest.raises(IdentityError, match="not issued"):
        trust().check("site-0001", der)


def test_the_cas_own_certificate_is_no_sites() -> None:
    with pytest.raises(IdentityError, match="signing certificate"):
        trust().check("federation", _pem(authority()))


@pytest.mark.parametrize("days", [-2, 366])
def test_a_certificate_outside_its_validity_is_refused(days: int) -> None:
    with pytest.raises(IdentityError, match="not valid"):
        trust(NOW + timedelta(days=days)).check(NAME, certificate(NAME))


def test_an_expired_ca_is_refused() -> None:
    with pytest.raises(IdentityError, match="pinned CA"):
        trust(NOW + 20 * YEAR)


@pytest.mark.parametrize("at", [40, 120, -10])
def test_a_changed_certificate_is_refused(at: int) -> None:
    der = bytearray(certificate(NAME))
    der[at] ^= 1
    with pytest.raises(IdentityError):
        trust().check(NAME, bytes(der))


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(IdentityError):
        trust().check(NAME, b"not a certificate")
    with pytest.raises(IdentityError):
        Trust(b"not a certificate", None, now=NOW)


@pytest.mark.parametrize("at", [-1, -40])
def test_a_damaged_certificate_of_the_ca_is_refused_before_it_could_be_pinned(at: int) -> None:
    damaged = bytearray(_pem(authority()))
    damaged[at] ^= 1
    with pytest.raises(IdentityError, match="the CA's certificate is damaged"):
        Trust(bytes(damaged), None, now=NOW)


def test_a_request_must_prove_its_key() -> None:
    pem = make_request(NAME, signing_key(NAME)).replace(b"MIG", b"MIH", 1)
    with pytest.raises(IdentityError):
        authority().sign_request(pem, now=NOW, valid_for=YEAR)


def test_a_request_with_anothers_public_key_is_refused() -> None:
    # The subject's key swapped inside the DER: its self-signature no longer fits.
    ours, theirs = signing_key(NAME).public_key.public_bytes_raw(), signing_key("x").public_key.public_bytes_raw()
    request = x509.load_pem_x509_csr(make_request(NAME, signing_key(NAME)))
    forged = x509.load_der_x509_csr(request.public_bytes(Encoding.DER).replace(ours, theirs))
    with pytest.raises(IdentityError, match="prove"):
        authority().sign_request(forged.public_bytes(Encoding.PEM), now=NOW, valid_for=YEAR)


@pytest.mark.parametrize("name", ["", "north!", "a" * 65, "../etc", "a b", "-a", "ä", "a\n"])
def test_names_that_are_not_plain_are_refused(name: str) -> None:
    with pytest.raises(IdentityError):
        make_request(name, signing_key("x"))


# Revocations.


def _revocations(*names: str, number: int = 1, by: Authority | None = None) -> bytes:
    return (by or authority()).revocation_list(map(certificate, names), number=number, now=NOW, valid_for=YEAR)


def test_a_revoked_certificate_is_refused_and_others_are_not() -> None:
    informed = trust(NOW, _revocations(NAME))
    informed.check("site-0001", certificate("site-0001"))
    with pytest.raises(IdentityError, match="revoked"):
        informed.check(NAME, certificate(NAME))


def test_a_certificate_that_was_seen_valid_is_refused_once_it_is_revoked_or_has_expired() -> None:
    trust(NOW).check(NAME, certificate(NAME))
    with pytest.raises(IdentityError, match="revoked"):
        trust(NOW, _revocations(NAME)).check(NAME, certificate(NAME))
    with pytest.raises(IdentityError, match="not valid today"):
        trust(NOW + 2 * YEAR).check(NAME, certificate(NAME))


def test_a_certificate_that_one_ca_issued_is_refused_under_another_of_the_same_name() -> None:
    trust(NOW).check(NAME, certificate(NAME))
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    with pytest.raises(IdentityError, match="not issued by"):
        Trust(_pem(other), None, now=NOW).check(NAME, certificate(NAME))


def test_a_forged_signature_is_refused_each_time_it_is_shown_also_beside_the_true_one() -> None:
    key = signing_key("signer")
    true, forged = key.sign(b"domain", b"message"), bytes(64)
    for signature in (forged, true, forged):
        if signature == true:
            verify(key.public_key, b"domain", b"message", signature)
            continue
        with pytest.raises(IdentityError, match="does not fit"):
            verify(key.public_key, b"domain", b"message", signature)
    for domain, message in ((b"other", b"message"), (b"domain", b"Message")):
        with pytest.raises(IdentityError, match="does not fit"):
            verify(key.public_key, domain, message, true)


def test_a_revocation_list_of_another_ca_is_refused() -> None:
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    with pytest.raises(IdentityError, match="not the federation"):
        trust(NOW, _revocations(by=other))


def test_an_expired_revocation_list_is_refused() -> None:
    with pytest.raises(IdentityError, match="expired"):
        trust(NOW + 2 * YEAR, _revocations())


@pytest.mark.parametrize("der", [None, "older"])
def test_an_older_or_missing_revocation_list_is_refused(der: str | None) -> None:
    with pytest.raises(IdentityError, match="revocation list"):
        Trust(_pem(authority()), der and _revocations(number=4), now=NOW, least_number=5)


def test_bytes_that_are_no_revocation_list_are_refused() -> None:
    with pytest.raises(IdentityError):
        trust(NOW, b"x")


# The roster.


def test_a_roster_comes_back_as_it_was_signed() -> None:
    original = roster((1, 2, 255))
    assert read_roster(sign_roster(authority(), original), trust()) == original


def test_a_roster_with_any_flipped_bit_is_refused() -> None:
    data = sign_roster(authority(), roster((1, 2)))
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 2
        with pytest.raises(IdentityError):
            read_roster(bytes(changed), trust())


def test_a_roster_of_another_ca_is_refused() -> None:
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    with pytest.raises(IdentityError, match="signature"):
        read_roster(sign_roster(other, roster((1, 2))), trust())


def test_an_expired_roster_is_refused() -> None:
    with pytest.raises(IdentityError, match="expired"):
        read_roster(sign_roster(authority(), replace(roster((1, 2)), expires=NOW - timedelta(days=1))), trust())


def test_an_older_roster_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    RosterMemory(tmp_path / "roster.seen").accept(roster((1, 2), serial=5))
    restarted = RosterMemory(tmp_path / "roster.seen")
    with pytest.raises(IdentityError, match="older"):
        restarted.accept(roster((1, 2), serial=4))
    restarted.accept(roster((1, 2), serial=5))
    restarted.accept(roster((1, 2), serial=6))


def test_two_rosters_with_one_serial_are_refused(tmp_path: Path) -> None:
    memory = RosterMemory(tmp_path / "roster.seen")
    memory.accept(roster((1, 2), serial=5))
    with pytest.raises(IdentityError, match="one serial"):
        memory.accept(roster((1, 3), serial=5))


def _accept_at(path: Path, serial: int, barrier: Barrier) -> None:
    listed = roster((1, 2), serial=serial)
    barrier.wait()
    with suppress(IdentityError):  # The other process may have been first with the higher one.
        RosterMemory(path).accept(listed)


def test_of_two_processes_that_accept_at_once_the_higher_serial_stays(tmp_path: Path) -> None:
    """Read, compared and written without a lock, the lower one won in every second try."""
    made = multiprocessing.get_context("fork")
    for number in range(30):
        path = tmp_path / f"{number}" / "roster.seen"
        RosterMemory(path).accept(roster((1, 2), serial=4))
        barrier = made.Barrier(2)
        two = [made.Process(target=_accept_at, args=(path, serial, barrier)) for serial in (5, 6)]
        for process in two:
            process.start()
        for process in two:
            process.join()
        assert path.read_text().split()[0] == "6"


@pytest.mark.parametrize("content", ["", "5", "5 zz", "five " + "0" * 64, "-1 " + "0" * 64, "5 " + "0" * 64 + " x"])
def test_a_damaged_memory_of_rosters_is_an_error_with_a_remedy(tmp_path: Path, content: str) -> None:
    path = tmp_path / "roster.seen"
    path.write_text(content)
    with pytest.raises(StorageError, match=r"roster\.seen, which remembers .* is damaged; .* install the newest"):
        RosterMemory(path).accept(roster((1, 2), serial=9))
    assert path.read_text() == content


@pytest.mark.parametrize("digest", ["0" * 63, "A" * 64, "g" * 64, "0" * 65])
def test_a_roster_names_a_certificate_in_one_way_only(digest: str) -> None:
    with pytest.raises(IdentityError, match="64 lower-case hex digits"):
        RosterEntry(NAME, digest)


@pytest.mark.parametrize("weight", [0, 256, -1, 1.5, True])
def test_a_weight_that_is_not_1_to_255_is_refused(weight: object) -> None:
    with pytest.raises(IdentityError, match="weight"):
        RosterEntry(NAME, "0" * 64, weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, 65_536, -1, 1.5, True])
def test_a_rank_that_is_not_1_to_65535_is_refused(rank: object) -> None:
    with pytest.raises(IdentityError, match="rank"):
        RosterEntry(NAME, "0" * 64, rank=rank)  # type: ignore[arg-type]


def test_a_rank_is_signed_only_where_one_is_given() -> None:
    """Rosters signed before there were ranks keep their bytes, and so their signatures."""
    plain, mixed = roster((1, 2)), roster((1, 2), ranks=(None, 3))
    assert b"rank" not in plain.payload
    assert mixed.payload.count(b'"rank":3') == mixed.payload.count(b"rank") == 1
    found = read_roster(sign_roster(authority(), mixed), trust())
    assert [entry.rank for entry in found.sites] == [None, 3]


def test_a_rank_that_was_changed_after_signing_is_refused() -> None:
    data = sign_roster(authority(), roster((1, 2), ranks=(None, 3)))
    with pytest.raises(IdentityError, match="signature"):
        read_roster(data.replace(b'"rank":3', b'"rank":4'), trust())


def test_a_rank_above_the_jobs_counts_as_the_jobs() -> None:
    ranks = [RosterEntry(NAME, "0" * 64, rank=rank).rank_in(4) for rank in (None, 2, 4, 9)]
    assert ranks == [4, 2, 4, 4]


def test_a_name_has_one_certificate_and_a_certificate_one_name() -> None:
    one, two = RosterEntry("a", "0" * 64), RosterEntry("b", "1" * 64)
    for sites in ((one, replace(two, name="a")), (one, replace(two, certificate="0" * 64)), (two, one)):
        with pytest.raises(IdentityError):
            Roster("federation", 1, NOW + YEAR, sites)


def test_a_signed_roster_with_surplus_content_is_refused() -> None:
    original = roster((1, 2))
    payload = original.payload.replace(b'"serial":1', b'"serial":1,"note":"x"')
    signature = authority().key.sign(b"yoriai/roster/1", payload).hex().encode()
    with pytest.raises(IdentityError, match="canonical"):
        read_roster(b"\n".join([b"yoriai-roster-1", signature, payload]), trust())


@pytest.mark.parametrize("data", [b"", b"yoriai-roster-1", b"yoriai-roster-1\nzz\n{}", b"yoriai-roster-2\n00\n{}"])
def test_bytes_that_are_no_roster_are_refused(data: bytes) -> None:
    with pytest.raises(IdentityError):
        read_roster(data, trust())


def test_the_directory_checks_the_certificate_against_the_roster_and_the_ca() -> None:
    directory = Directory(roster((1, 7)), trust())
    assert directory.check(1, certificate("site-0001")) == signing_key("site-0001").public_key
    assert directory.weight(1) == 7
    with pytest.raises(IdentityError, match="not the one in the roster"):
        directory.check(1, certificate("site-0000"))
    for position in (2, -1):
        with pytest.raises(IdentityError, match="not in the roster"):
            directory.check(position, certificate("site-0001"))
    with pytest.raises(IdentityError, match="not in the roster"):
        directory.roster.position("nobody")


def test_a_certificate_in_the_roster_that_the_ca_has_not_issued_is_refused() -> None:
    other = Authority.create("federation", signing_key("other ca"), now=NOW - YEAR, valid_for=9 * YEAR)
    der = other.sign_request(make_request("a", signing_key("a")), now=NOW, valid_for=YEAR)
    listed = Roster("federation", 1, NOW + YEAR, (RosterEntry("a", fingerprint(der).hex()),))
    with pytest.raises(IdentityError, match="not issued"):
        Directory(listed, trust()).check(0, der)
