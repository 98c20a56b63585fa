"""`server enrol`: the request, every file of the consortium that is refused, and whose node key may connect."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509 import load_der_x509_certificate

from tests.commands import PASSPHRASE, Office, Outcome, found, server, site, yoriai
from tests.crashes import survives
from tests.server.enrolling import NAMES, bring, enrolled, files, sign
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, IdentityError, StorageError
from yoriai.privacy.identity.certificates import Authority
from yoriai.privacy.identity.coordinator_identity import (
    certify_coordinator,
    read_coordinator_certificate,
    read_coordinator_request,
)
from yoriai.privacy.identity.enrolment import read_enrolment
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.signing_key import read_key
from yoriai.server.cli import server_setup_cli as setup_cli
from yoriai.server.folder.server_folder import ServerFolder


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return found(tmp_path / "consortium")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server and its sites with their requests; tests work on copies, for to make them takes much longer."""
    place = tmp_path_factory.mktemp("made")
    server(place / "server")
    for name in NAMES:
        site(place / name, name)
    return place


@pytest.fixture
def sites(tmp_path: Path, made: Path) -> dict[str, Path]:
    return {name: shutil.copytree(made / name, tmp_path / name) for name in NAMES}


@pytest.fixture
def machine(tmp_path: Path, made: Path) -> ServerFolder:
    return ServerFolder(shutil.copytree(made / "server", tmp_path / "server"))


def installed(machine: ServerFolder) -> dict[str, bytes]:
    folders = (machine.path / "trust", machine.members)
    return {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()}


def refused(done: Outcome, *words: str) -> None:
    assert done.code == EXIT_REFUSED, done.screen
    for word in words:
        assert word in done.screen


def node_key(folder: Path) -> str:
    return NodeKey.read(folder / "node" / "node.key").public_text


# What is installed.


def test_a_coordinator_is_enrolled_and_knows_every_members_node_key(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    sign(office, machine, sites)
    done = bring(machine, files(office))
    assert done.code == 0
    assert "office is the coordinator of miyagi" in done.screen
    assert f"{machine.tls_ca}, and the address 127.0.0.1:9092" in done.screen
    assert "missing" not in done.screen
    assert machine.node_keys(now()) == {name: node_key(folder) for name, folder in sites.items()}
    roster = machine.signed_roster(now())
    assert roster.file == (office.folder / "roster").read_bytes()
    assert [entry.name for entry in roster.directory.roster.sites] == list(NAMES)


def test_what_the_coordinator_signs_verifies_with_the_certificate_that_it_shows(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    enrolled(machine, office, sites)
    key, file = machine.signing(now())
    certificate = read_coordinator_certificate(file, machine.trusted.trust(now()), now=now())
    certificate.public_key.verify(key.sign(b"a", b"b"), b"a\0b")


def test_the_cas_fingerprint_is_asked_for_at_the_first_time_only(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    sign(office, machine, sites)
    done = bring(machine, files(office), answers="n\n")
    assert (done.code, "nothing was installed" in done.screen) == (EXIT_REFUSED, True)
    assert installed(machine) == {}
    assert "Has the consortium read out" in bring(machine, files(office), answers="y\n").screen
    again = bring(machine, {"roster": office.folder / "roster"}, answers="n\n")
    assert (again.code, "Has the consortium" in again.screen) == (0, False)


def test_members_without_a_file_are_named_and_come_later_one_by_one(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    sign(office, machine, sites)
    brought = files(office)
    del brought["member"]
    assert "missing: the certificate file of north, south" in bring(machine, brought).screen
    assert machine.node_keys(now()) == {}
    done = bring(machine, {"member": office.member("south")})
    assert (done.code, "certificate file of north;" in done.screen) == (0, True)
    assert machine.node_keys(now()) == {"south": node_key(sites["south"])}
    assert machine.barred(now()) == {"north": "its certificate file is not installed here"}


def test_a_member_that_was_revoked_can_connect_no_more(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    enrolled(machine, office, sites)
    assert office.run("revoke", "north", "--yes").code == 0
    assert bring(machine, {"revocations": office.folder / "revocations.der"}).code == 0
    assert set(machine.node_keys(now())) == {"south"}
    assert "revoked" in machine.barred(now())["north"]
    assert office.run("roster").code == 0
    brought = {option: files(office)[option] for option in ("roster", "revocations")}
    assert bring(machine, brought).code == 0
    assert set(machine.node_keys(now())) == {"south"}


def test_a_member_whose_certificate_is_over_is_barred_and_that_is_said(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    assert office.run("sign", sites["north"] / "north.request", "--valid-days", 30, "--yes").code == 0
    enrolled(machine, office, {"south": sites["south"]})
    assert set(machine.node_keys(now())) == {"north", "south"}
    assert machine.barred(now()) == {}
    then = now() + timedelta(days=60)
    assert set(machine.node_keys(then)) == {"south"}
    assert "not valid today" in machine.barred(then)["north"]


def test_a_renewed_members_old_file_no_longer_counts(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    enrolled(machine, office, sites)
    assert office.run("sign", sites["north"] / "north.request", "--yes", "--replace").code == 0
    assert office.run("roster").code == 0
    brought = {option: files(office)[option] for option in ("roster", "revocations")}
    assert "certificate file of north;" in bring(machine, brought).screen
    assert set(machine.node_keys(now())) == {"south"}
    assert bring(machine, {"member": office.member("north")}).code == 0
    assert set(machine.node_keys(now())) == set(NAMES)


def test_a_member_file_that_somebody_swapped_does_not_connect_and_harms_no_other(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    enrolled(machine, office, sites)
    shutil.copy(machine.member("south"), machine.member("north"))
    assert machine.node_keys(now()) == {"south": node_key(sites["south"])}
    machine.member("north").write_bytes(b"\0" * 50)
    assert machine.node_keys(now()) == {"south": node_key(sites["south"])}


def test_an_installation_that_is_killed_is_done_once_more(
    office: Office, tmp_path: Path, sites: dict[str, Path]
) -> None:
    steps = 0
    while True:
        machine = ServerFolder(server(tmp_path / f"server{steps}"))
        sign(office, machine, sites if steps == 0 else {})
        if survives(steps, bring, machine, files(office)):
            break
        done = bring(machine, files(office))
        assert done.code == 0, done.screen
        machine.signing(now())
        assert set(machine.node_keys(now())) == set(NAMES)
        steps += 5
    assert steps > 10


# What is refused. Nothing of it is installed.


def test_a_pinned_ca_is_not_replaced(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path
) -> None:
    enrolled(machine, office, sites)
    other = found(tmp_path / "other")
    sign(other, machine, sites)
    before = installed(machine)
    refused(bring(machine, files(other)), "not the CA that this server has pinned")
    assert installed(machine) == before


@pytest.mark.parametrize("option", ["coordinator", "roster", "revocations", "member"])
def test_a_file_of_another_ca_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path, option: str
) -> None:
    other = found(tmp_path / "other")
    for consortium in (office, other):
        sign(consortium, machine, sites)
    assert bring(machine, files(office) | {option: files(other)[option]}).code == EXIT_REFUSED
    assert installed(machine) == {}


@pytest.mark.parametrize("option", ["roster", "revocations"])
def test_an_older_list_than_was_seen_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path, option: str
) -> None:
    sign(office, machine, sites)
    shutil.copy(files(office)[option], tmp_path / "old")
    assert office.run("roster").code == 0
    assert bring(machine, files(office)).code == 0
    before = installed(machine)
    refused(bring(machine, {option: tmp_path / "old"}), "older than one seen before")
    assert installed(machine) == before


def test_a_certificate_for_another_coordinators_key_or_name_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path
) -> None:
    sign(office, ServerFolder(server(tmp_path / "twin")), sites)
    refused(bring(machine, files(office)), "for another key than this coordinator's", "office.request")
    other = server(tmp_path / "other", name="annex")
    assert office.run("sign", other / "annex.request", "--yes").code == 0
    refused(bring(machine, files(office)), "another coordinator's; found annex; expected office")
    assert installed(machine) == {}


def test_a_sites_certificate_is_no_coordinators(office: Office, machine: ServerFolder, sites: dict[str, Path]) -> None:
    sign(office, machine, sites)
    brought = files(office) | {"coordinator": office.member("north")}
    refused(bring(machine, brought), "found yoriai-enrolment-1; expected yoriai-coordinator-1")


def test_a_member_that_the_roster_does_not_name_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path
) -> None:
    sign(office, machine, sites)
    west = site(tmp_path / "west", "west")
    assert office.run("sign", west / "west.request", "--yes").code == 0
    refused(bring(machine, files(office)), "site west is not in the roster", "newer roster")
    assert installed(machine) == {}


def test_a_members_certificate_that_is_newer_than_the_roster_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    sign(office, machine, sites)
    assert office.run("sign", sites["north"] / "north.request", "--yes", "--replace").code == 0
    refused(bring(machine, files(office)), "certificate of north is not the one in the roster")
    assert installed(machine) == {}


def test_a_certificate_for_another_federation_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path
) -> None:
    sign(office, machine, sites)
    key = read_key(office.folder / "authority.key", PASSPHRASE.encode())
    authority = Authority(key, load_der_x509_certificate((office.folder / "authority.der").read_bytes()))
    asked = read_coordinator_request((machine.path / "office.request").read_bytes())
    other = certify_coordinator(authority, "other", asked, now=now(), valid_for=timedelta(days=1))
    (tmp_path / "other.cert").write_bytes(other)
    brought = files(office) | {"coordinator": tmp_path / "other.cert"}
    refused(bring(machine, brought), "of another federation than the roster; found other; expected miyagi")


def test_an_expired_certificate_is_refused_and_no_longer_signs(
    office: Office, machine: ServerFolder, sites: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(office, machine, sites, "--valid-days", 1)
    later = now() + timedelta(days=2)
    with monkeypatch.context() as patch:
        patch.setattr(setup_cli, "_now", lambda: later)
        refused(bring(machine, files(office)), "the coordinator's certificate has expired")
    assert bring(machine, files(office)).code == 0
    machine.signing(now())
    with pytest.raises(IdentityError, match="expired"):
        machine.signing(later)


def test_a_flipped_bit_in_any_signed_file_is_refused(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path
) -> None:
    sign(office, machine, sites)
    signed = files(office) | {"member": office.member("north")}
    del signed["authority"]  # Nobody signs it: it is compared by its fingerprint.
    for option, path in signed.items():
        data = bytearray(path.read_bytes())
        data[-30] ^= 1
        (tmp_path / "flipped").write_bytes(data)
        assert bring(machine, files(office) | {option: tmp_path / "flipped"}).code == EXIT_REFUSED, option
        assert installed(machine) == {}


def test_the_first_files_must_be_complete(office: Office, machine: ServerFolder, sites: dict[str, Path]) -> None:
    sign(office, machine, sites)
    done = bring(machine, {"member": office.folder / "members"})
    assert (done.code, "--coordinator, --authority, --roster" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_folder_without_certificate_files_is_named(
    office: Office, machine: ServerFolder, sites: dict[str, Path], tmp_path: Path
) -> None:
    sign(office, machine, sites)
    done = bring(machine, files(office) | {"member": tmp_path})
    assert (done.code, "holds no certificate file" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_server_without_a_certificate_says_how_it_gets_one(machine: ServerFolder) -> None:
    for ask in (machine.signing, machine.node_keys, machine.signed_roster):
        with pytest.raises(IdentityError, match=r"has no certificate yet.*yoriai server enrol"):
            ask(now())


def test_a_key_that_was_exchanged_after_enrolment_is_noticed(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    enrolled(machine, office, sites)
    machine.coordinator_key.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        machine.signing(now())
    assert yoriai("server", "enrol", machine.path).code == 0
    with pytest.raises(IdentityError, match="for another key"):
        machine.signing(now())


def test_a_second_request_is_made_with_the_same_key(machine: ServerFolder) -> None:
    first = (machine.path / "office.request").read_bytes()
    assert yoriai("server", "enrol", machine.path).code == 0
    assert (machine.path / "office.request").read_bytes() == first


def test_an_installed_member_file_is_the_one_that_was_brought(
    office: Office, machine: ServerFolder, sites: dict[str, Path]
) -> None:
    enrolled(machine, office, sites)
    enrolment = read_enrolment(machine.member("north").read_bytes(), machine.trusted.trust(now()))
    assert (enrolment.name, enrolment.node_key) == ("north", node_key(sites["north"]))
