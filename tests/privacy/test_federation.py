"""The consortium's state and its folder: what a step refuses, and what a crash leaves behind."""

import os
import stat
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.crashes import survives
from tests.privacy.secagg.cohort import NOW, YEAR, authority, signing_key
from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Trust, revocation_number
from yoriai.privacy.identity.enrolment import Request, make_request, read_enrolment, read_request
from yoriai.privacy.identity.federation import Federation, read_federation, sign_federation
from yoriai.privacy.identity.federation_folder import certificate_file, found_federation, look_at, unlocked
from yoriai.privacy.identity.membership import MembershipTerms
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.roster import read_roster

SECRET = b"correct horse battery"
DAY = timedelta(days=1)
NODES = {name: NodeKey.generate() for name in ("north", "south", "new")}


def request(name: str, identity: str = "", node: str = "") -> Request:
    return read_request(make_request(name, signing_key(identity or name), NODES[node or name]))


def admitted(federation: Federation, asked: Request, *, renew: bool = False, weight: int = 1) -> Federation:
    return federation.admitted(authority(), asked, MembershipTerms(weight), now=NOW, valid_for=YEAR, renew=renew)


def empty() -> Federation:
    return Federation.found(authority(), "miyagi", now=NOW)


def both() -> Federation:
    return admitted(admitted(empty(), request("south")), request("north"))


def rostered(federation: Federation, serial: int | None = None, now: datetime = NOW) -> Federation:
    return federation.with_roster(authority(), now=now, valid_for=90 * DAY, serial=serial)


def pinned(federation: Federation, now: datetime = NOW) -> Trust:
    return Trust(authority().certificate.public_bytes(Encoding.DER), federation.revocations, now=now)


# The state.


def test_a_state_comes_back_as_it_was_signed() -> None:
    state = rostered(both().without(authority(), "south", now=NOW))
    assert read_federation(sign_federation(authority(), state), authority().key.public_key) == state


def test_a_state_with_any_flipped_bit_is_refused() -> None:
    data = sign_federation(authority(), rostered(both()))
    for at in range(0, len(data), 61):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(IdentityError):
            read_federation(bytes(changed), authority().key.public_key)


def test_a_state_of_another_version_is_refused_by_name() -> None:
    data = sign_federation(authority(), empty()).replace(b"federation-1", b"federation-2", 1)
    with pytest.raises(IdentityError, match="found yoriai-federation-2; expected yoriai-federation-1"):
        read_federation(data, authority().key.public_key)


# Members.


def test_a_roster_names_the_members_with_their_terms() -> None:
    federation = admitted(empty(), request("south"), weight=7)
    roster = read_roster(rostered(federation).roster, pinned(federation))
    assert [(entry.name, entry.weight) for entry in roster.sites] == [("south", 7)]
    assert roster.federation == "miyagi"


def test_a_name_has_one_certificate() -> None:
    with pytest.raises(IdentityError, match=r"north has a certificate already.*--replace"):
        both().check_request(request("north", "new", "new"), renew=False)


def test_a_replacement_revokes_the_first_certificate_and_no_other() -> None:
    before = both()
    after = admitted(before, request("north", "new", "new"), renew=True)
    trust = pinned(after)
    with pytest.raises(IdentityError, match="revoked"):
        trust.check("north", before.member("north").enrolment.certificate)
    for name in ("north", "south"):
        trust.check(name, after.member(name).enrolment.certificate)


def test_a_renewal_may_keep_its_keys() -> None:
    after = admitted(both(), request("north"), renew=True)
    assert after.member("north").keys == both().member("north").keys
    again = admitted(after, request("north"), renew=True)
    assert len(again.revoked) == 2


def test_nobody_is_replaced_who_is_not_there() -> None:
    with pytest.raises(IdentityError, match="no certificate to replace"):
        admitted(both(), request("new"), renew=True)


@pytest.mark.parametrize(("identity", "node"), [("south", "new"), ("new", "south")])
@pytest.mark.parametrize("name", ["new", "north"])
def test_a_key_that_another_member_holds_is_refused(name: str, identity: str, node: str) -> None:
    with pytest.raises(IdentityError, match="a key that south holds"):
        both().check_request(request(name, identity, node), renew=name == "north")


@pytest.mark.parametrize(("identity", "node"), [("south", "new"), ("new", "south")])
@pytest.mark.parametrize("name", ["new", "north", "south"])
def test_a_revoked_key_is_never_certified_again(name: str, identity: str, node: str) -> None:
    federation = both().without(authority(), "south", now=NOW)
    with pytest.raises(IdentityError, match="was revoked"):
        federation.check_request(request(name, identity, node), renew=name == "north")


def test_a_key_that_was_replaced_does_not_come_back() -> None:
    federation = admitted(both(), request("north", "new", "new"), renew=True)
    with pytest.raises(IdentityError, match="was revoked"):
        federation.check_request(request("north"), renew=True)


def test_a_revoked_member_is_off_the_next_roster_and_may_come_back_with_new_keys() -> None:
    federation = rostered(both().without(authority(), "south", now=NOW))
    assert [entry.name for entry in read_roster(federation.roster, pinned(federation)).sites] == ["north"]
    back = rostered(admitted(federation, request("south", "new", "new")))
    assert [entry.name for entry in read_roster(back.roster, pinned(back)).sites] == ["north", "south"]


def test_who_is_no_member_cannot_be_revoked() -> None:
    with pytest.raises(IdentityError, match="not a member of miyagi; expected one of: north, south"):
        both().without(authority(), "west", now=NOW)


@pytest.mark.parametrize(
    ("terms", "match"),
    [(MembershipTerms(0), "weight"), (MembershipTerms(256), "weight"), (MembershipTerms(1, 0), "rank")],
)
def test_terms_that_no_roster_can_have_are_refused(terms: MembershipTerms, match: str) -> None:
    with pytest.raises(IdentityError, match=match):
        empty().admitted(authority(), request("north"), terms, now=NOW, valid_for=YEAR)


def test_a_certificate_does_not_outlive_the_ca() -> None:
    with pytest.raises(IdentityError, match="outlive"):
        empty().admitted(authority(), request("north"), MembershipTerms(), now=NOW, valid_for=20 * YEAR)


# Numbers.


def test_every_list_has_a_higher_number_than_the_one_before() -> None:
    steps = [both()]
    steps.append(rostered(steps[-1]))
    steps.append(admitted(steps[-1], request("south", "new", "new"), renew=True))
    steps.append(steps[-1].without(authority(), "south", now=NOW))
    steps.append(rostered(steps[-1]))
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert [revocation_number(step.revocations) for step in steps] == [1, 2, 3, 4, 5]
    assert [read_roster(step.roster, pinned(step)).serial for step in (steps[1], steps[4])] == [2, 5]


@pytest.mark.parametrize("serial", [2, 1, 0, -1, 2**53])
def test_a_serial_that_is_not_higher_is_refused(serial: int) -> None:
    with pytest.raises(IdentityError, match="only grows"):
        rostered(rostered(both()), serial=serial)


def test_a_serial_may_leap_after_a_restored_backup() -> None:
    leapt = rostered(both(), serial=40)
    assert (read_roster(leapt.roster, pinned(leapt)).serial, revocation_number(leapt.revocations)) == (40, 40)
    assert rostered(leapt).number == 41


def test_a_roster_needs_members_whose_certificates_are_valid() -> None:
    with pytest.raises(IdentityError, match="no members"):
        rostered(empty())
    with pytest.raises(IdentityError, match="certificate of north is not valid today"):
        rostered(both(), now=NOW + 2 * YEAR)


# The folder.


def found(folder: Path) -> Path:
    found_federation(folder, "miyagi", SECRET, now=NOW, valid_for=10 * YEAR)
    return folder


def sign(folder: Path, asked: Request, *, renew: bool = False) -> None:
    with unlocked(folder, SECRET, now=NOW) as opened:
        opened.save(
            opened.federation.admitted(opened.authority, asked, MembershipTerms(), now=NOW, valid_for=YEAR, renew=renew)
        )


def issue(folder: Path) -> None:
    with unlocked(folder, SECRET, now=NOW) as opened:
        opened.save(opened.federation.with_roster(opened.authority, now=NOW, valid_for=90 * DAY))


def revoke(folder: Path, name: str) -> None:
    with unlocked(folder, SECRET, now=NOW) as opened:
        opened.save(opened.federation.without(opened.authority, name, now=NOW))


def handed_out(folder: Path) -> tuple[int, int, list[str]]:
    """Roster serial, list number and certified names, as everybody else can read and verify them."""
    trust = Trust((folder / "authority.der").read_bytes(), (folder / "revocations.der").read_bytes(), now=NOW)
    serial = read_roster((folder / "roster").read_bytes(), trust).serial if (folder / "roster").exists() else 0
    names = []
    for path in sorted((folder / "members").glob("*.cert")):
        assert path == certificate_file(folder, path.stem)
        names.append(path.stem)
    return serial, trust.revocation_number, names


def test_what_the_folder_hands_out_follows_its_steps(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    seen = [handed_out(folder)]
    sign(folder, request("north"))
    sign(folder, request("south"))
    issue(folder)
    seen.append(handed_out(folder))
    revoke(folder, "south")
    seen.append(handed_out(folder))
    issue(folder)
    seen.append(handed_out(folder))
    assert seen == [(0, 1, []), (2, 2, ["north", "south"]), (2, 3, ["north"]), (4, 4, ["north"])]


def test_nothing_in_the_folder_is_ever_open_to_others(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        folder = found(tmp_path / "ca")
        sign(folder, request("north"))
        issue(folder)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_the_ca_key_needs_its_passphrase(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    assert b"ENCRYPTED" in (folder / "authority.key").read_bytes()
    with pytest.raises(IdentityError, match="passphrase") as caught, unlocked(folder, b"wrong horse battery", now=NOW):
        pass
    assert "horse" not in str(caught.value)


def test_a_short_passphrase_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="too short"):
        found_federation(tmp_path / "ca", "miyagi", SECRET[:11], now=NOW, valid_for=YEAR)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    for used in (tmp_path / "used", tmp_path / "used" / "file", found(tmp_path / "ca")):
        with pytest.raises(IdentityError, match="in use"):
            found(used)


def test_a_folder_that_cannot_be_made_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        found(tmp_path / "file" / "ca")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_member_written_into_the_state_by_hand_is_noticed(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    sign(folder, request("north"))
    text = (folder / "federation").read_bytes()
    (folder / "federation").write_bytes(text.replace(b'"weight":1', b'"weight":9'))
    with pytest.raises(IdentityError, match="signature"):
        look_at(folder, now=NOW)


def test_a_key_of_another_ca_is_noticed(tmp_path: Path) -> None:
    folder, other = found(tmp_path / "ca"), found(tmp_path / "other")
    (other / "authority.key").replace(folder / "authority.key")
    with pytest.raises(IdentityError, match="do not belong together"), unlocked(folder, SECRET, now=NOW):
        pass


def test_a_folder_that_is_no_federation_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="not the folder of a federation"):
        look_at(tmp_path, now=NOW)


def test_a_state_that_counts_backwards_is_not_saved(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    with unlocked(folder, SECRET, now=NOW) as opened, pytest.raises(StorageError, match="backwards"):
        opened.save(replace(opened.federation, number=0))


def test_a_founding_that_is_killed_leaves_no_ca_and_can_be_repeated(tmp_path: Path) -> None:
    steps = 0
    while not survives(steps, found, tmp_path / f"ca{steps}"):
        folder = tmp_path / f"ca{steps}"
        if folder.exists():
            assert look_at(folder, now=NOW).name == "miyagi"
            issue_fails_for_want_of_members_only(folder)
        else:
            found(folder)
        steps += 1
    assert steps > 8


def issue_fails_for_want_of_members_only(folder: Path) -> None:
    with pytest.raises(IdentityError, match="no members"):
        issue(folder)


def test_a_step_that_is_killed_is_done_or_undone_and_no_number_is_used_twice(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    sign(folder, request("north"))
    sign(folder, request("south"))
    issue(folder)
    steps = 0
    while not survives(steps, admit_revoke_and_issue, folder):
        state, (serial, number, _) = look_at(folder, now=NOW), handed_out(folder)
        assert max(serial, number) <= state.number
        issue(folder)
        whole = look_at(folder, now=NOW)
        assert whole.number > state.number
        assert handed_out(folder) == (whole.number, whole.number, [member.name for member in whole.members])
        steps += 1
    assert steps > 12


def test_files_that_a_crash_left_unwritten_are_written_when_the_folder_is_next_unlocked(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    sign(folder, request("north"))
    issue(folder)
    whole = handed_out(folder)
    for path in (folder / "roster", folder / "revocations.der", certificate_file(folder, "north")):
        path.unlink()
    with unlocked(folder, SECRET, now=NOW):
        assert handed_out(folder) == whole


def admit_revoke_and_issue(folder: Path) -> None:
    """A renewal, which revokes, and a roster: each writes several files."""
    sign(folder, request("south"), renew=True)
    issue(folder)


def test_the_certificate_file_of_a_member_is_what_the_site_and_the_server_read(tmp_path: Path) -> None:
    folder = found(tmp_path / "ca")
    sign(folder, request("north"))
    trust = Trust((folder / "authority.der").read_bytes(), None, now=NOW)
    enrolment = read_enrolment(certificate_file(folder, "north").read_bytes(), trust)
    assert (enrolment.federation, enrolment.name) == ("miyagi", "north")
    assert enrolment.node_key == NODES["north"].public_text
    assert enrolment.identity == signing_key("north").public_key.public_bytes_raw()
