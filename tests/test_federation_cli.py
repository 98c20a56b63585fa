"""The consortium's commands: what they sign, refuse, ask and show."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.commands import PASSPHRASE, Office, found, server, site, yoriai
from yoriai import asking, federation_cli
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, IdentityError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.coordinator_identity import CoordinatorCertificate, read_coordinator_certificate
from yoriai.privacy.identity.federation_folder import look_at
from yoriai.privacy.identity.roster import read_roster
from yoriai.privacy.identity.signing_key import read_key

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return found(tmp_path / "consortium")


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    return site(tmp_path / "north", "north") / "north.request"


def rostered(office: Office) -> tuple[int, list[str]]:
    folder = office.folder
    authority, revocations = (folder / "authority.der").read_bytes(), (folder / "revocations.der").read_bytes()
    trust = Trust(authority, revocations, now=datetime.now(UTC))
    roster = read_roster((folder / "roster").read_bytes(), trust)
    return roster.serial, [entry.name for entry in roster.sites]


def test_a_federation_lives_through_its_commands(office: Office, request_file: Path, tmp_path: Path) -> None:
    south = site(tmp_path / "south", "south") / "south.request"
    assert office.run("sign", request_file, "--yes").code == 0
    assert office.run("sign", south, "--yes", "--weight", 3, "--rank", 8).code == 0
    assert office.run("roster").code == 0
    assert rostered(office) == (2, ["north", "south"])
    assert office.run("revoke", "north", "--yes").code == 0
    shown = office.run("roster")
    assert rostered(office) == (4, ["south"])
    assert shown.screen.splitlines()[2].split()[:3] == ["south", "3", "8"]


def test_sign_shows_what_the_site_shows_and_signs_only_after_a_yes(office: Office, request_file: Path) -> None:
    rows = yoriai("site", "enrol", request_file.parent).screen.splitlines()[2:6]
    refused = office.run("sign", request_file, answers="n\n")
    assert refused.code == EXIT_REFUSED
    assert "nothing was signed" in refused.screen
    assert not office.member("north").exists()
    for row in rows:
        assert row.strip() in refused.screen
    assert office.run("sign", request_file, answers="y\n").code == 0
    assert office.member("north").exists()


def test_init_shows_the_fingerprint_that_sites_compare(tmp_path: Path, office: Office, request_file: Path) -> None:
    again = Office(tmp_path / "again", office.passphrase)
    rows = again.run("init", "--name", "again").screen.splitlines()[2:6]
    again.run("sign", request_file, "--yes")
    again.run("roster")
    files = ("--authority", again.folder / "authority.der", "--roster", again.folder / "roster")
    shown = yoriai("site", "enrol", request_file.parent, "--certificate", again.member("north"), *files, answers="n\n")
    assert shown.code == EXIT_REFUSED
    assert shown.screen.splitlines()[1:5] == rows


def test_a_second_request_under_a_name_needs_replace(office: Office, request_file: Path, tmp_path: Path) -> None:
    office.run("sign", request_file, "--yes")
    first = office.member("north").read_bytes()
    second = site(tmp_path / "second", "north") / "north.request"
    refused = office.run("sign", second, "--yes")
    assert refused.code == EXIT_REFUSED
    assert "--replace revokes the first" in refused.screen
    assert office.member("north").read_bytes() == first
    assert office.run("sign", second, "--yes", "--replace").code == 0
    assert office.member("north").read_bytes() != first


def test_a_request_with_a_flipped_bit_is_not_signed(office: Office, request_file: Path) -> None:
    data = bytearray(request_file.read_bytes())
    data[-40] ^= 1
    request_file.write_bytes(data)
    assert office.run("sign", request_file, "--yes").code == EXIT_REFUSED
    assert not office.member("north").exists()


def test_a_member_whose_certificate_has_expired_holds_the_roster_up(
    office: Office, request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.run("sign", request_file, "--yes")
    monkeypatch.setattr(federation_cli, "_now", lambda: datetime.now(UTC) + timedelta(days=366))
    done = office.run("roster")
    assert done.code == EXIT_REFUSED
    assert "certificate of north is not valid today" in done.screen
    assert not (office.folder / "roster").exists()


def test_a_lower_serial_is_refused(office: Office, request_file: Path) -> None:
    office.run("sign", request_file, "--yes")
    assert office.run("roster", "--serial", 9).code == 0
    done = office.run("roster", "--serial", 9)
    assert done.code == EXIT_REFUSED
    assert "found 9; expected 10 or more" in done.screen


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "n\n", "x" * 65])
def test_a_hostile_federation_name_makes_no_folder(name: str, office: Office, tmp_path: Path) -> None:
    fresh = Office(tmp_path / "fresh", office.passphrase)
    assert fresh.run("init", f"--name={name}").code == EXIT_REFUSED
    assert not fresh.folder.exists()


def test_weights_and_ranks_outside_a_rosters_bounds_are_refused_before_the_question(
    office: Office, request_file: Path
) -> None:
    for option, value in (("--weight", 256), ("--rank", 0)):
        done = office.run("sign", request_file, option, value, answers="y\n")
        assert done.code == EXIT_REFUSED
        assert "Sign it?" not in done.screen


def test_init_refuses_a_folder_in_use(office: Office) -> None:
    before = (office.folder / "authority.der").read_bytes()
    done = office.run("init", "--name", "again")
    assert (done.code, "is in use" in done.screen) == (EXIT_REFUSED, True)
    assert (office.folder / "authority.der").read_bytes() == before


def test_a_passphrase_file_is_for_its_owner_alone_and_is_never_shown(office: Office, request_file: Path) -> None:
    screens = [office.run("sign", request_file, "--yes").screen, office.run("roster").screen]
    office.passphrase.chmod(0o644)
    done = office.run("roster")
    assert (done.code, "open to others" in done.screen) == (EXIT_BAD_INPUT, True)
    office.passphrase.chmod(0o600)
    office.passphrase.write_text("wrong horse battery\n")
    wrong = office.run("roster")
    assert (wrong.code, "passphrase" in wrong.screen) == (EXIT_REFUSED, True)
    for screen in (*screens, done.screen, wrong.screen):
        assert PASSPHRASE not in screen
        assert "horse" not in screen


def test_without_a_terminal_the_passphrase_is_asked_of_nobody(office: Office) -> None:
    done = yoriai("federation", "roster", "--folder", office.folder)
    assert (done.code, "--passphrase-file" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_new_passphrase_is_typed_twice_and_not_echoed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_can_ask", lambda: True)
    typed = "\n".join([PASSPHRASE, "another battery", PASSPHRASE, PASSPHRASE, ""])
    done = yoriai("federation", "init", tmp_path / "ca", "--name", "miyagi", answers=typed)
    assert done.code == 0
    assert "battery" not in done.screen
    read_key(tmp_path / "ca" / "authority.key", PASSPHRASE.encode())


def test_help_loads_no_cryptography() -> None:
    code = (
        "import sys; sys.argv = ['yoriai', 'federation', '--help']\n"
        "from yoriai.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'flwr', 'cryptography', 'pydantic', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_every_line_of_text_fits_eighty_columns(
    office: Office, request_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near = Office(Path("ca"), office.passphrase)
    screens = [
        near.run("init", "--name", "miyagi").screen,
        near.run("sign", os.path.relpath(request_file), answers="y\n").screen,
        near.run("roster").screen,
        near.run("revoke", "north", answers="y\n").screen,
    ]
    assert max(len(line) for screen in screens for line in screen.splitlines()) <= 80


# The coordinator.


def certified(office: Office) -> CoordinatorCertificate:
    now = datetime.now(UTC)
    trust = Trust((office.folder / "authority.der").read_bytes(), None, now=now)
    return read_coordinator_certificate((office.folder / "coordinator.cert").read_bytes(), trust, now=now)


def test_sign_certifies_a_coordinator_after_a_yes_and_makes_it_no_member(office: Office, tmp_path: Path) -> None:
    folder = server(tmp_path / "server")
    rows = [row.strip() for row in yoriai("server", "enrol", folder).screen.splitlines() if row.startswith("  ")]
    refused = office.run("sign", folder / "office.request", "--valid-days", 30, answers="n\n")
    assert (refused.code, "nothing was signed" in refused.screen) == (EXIT_REFUSED, True)
    assert not (office.folder / "coordinator.cert").exists()
    ends = datetime.now(UTC) + timedelta(days=30)
    fingerprint = [row for row in rows if re.fullmatch(r"([0-9a-f]{4} ?){4}", row)]
    assert len(fingerprint) == 4
    assert all(shown in refused.screen for shown in ("coordinator", "office", f"{ends:%Y-%m-%d}", *fingerprint))
    done = office.run("sign", folder / "office.request", "--valid-days", 30, answers="y\n")
    assert (done.code, "coordinator.cert, for the server" in done.screen) == (0, True)
    own = read_key(folder / "keys" / "coordinator.key").public_key
    assert (certified(office).federation, certified(office).name) == ("miyagi", "office")
    assert certified(office).public_key == own
    assert abs(certified(office).expires - ends) < timedelta(minutes=1)
    state = look_at(office.folder, now=datetime.now(UTC))
    assert (state.members, state.coordinator_keys("office")) == ((), [own.public_bytes_raw()])


def test_a_coordinators_certificate_is_renewed_by_signing_again(office: Office, tmp_path: Path) -> None:
    request = server(tmp_path / "server") / "office.request"
    for days in (10, 400):
        assert office.run("sign", request, "--yes", "--valid-days", days).code == 0
    assert certified(office).expires > datetime.now(UTC) + timedelta(days=399)


@pytest.mark.parametrize("option", [("--weight", 1), ("--rank", 4), ("--replace",)])
def test_what_is_for_sites_is_refused_for_a_coordinator(
    office: Office, tmp_path: Path, option: tuple[object, ...]
) -> None:
    request = server(tmp_path / "server") / "office.request"
    done = office.run("sign", request, "--yes", *option)
    assert (done.code, "do not apply to" in done.screen) == (EXIT_BAD_INPUT, True)
    assert not (office.folder / "coordinator.cert").exists()


def test_a_coordinator_has_no_members_name(office: Office, request_file: Path, tmp_path: Path) -> None:
    office.run("sign", request_file, "--yes")
    request = server(tmp_path / "server", name="north") / "north.request"
    done = office.run("sign", request, "--yes")
    assert (done.code, "of the member north" in done.screen) == (EXIT_REFUSED, True)
    assert not (office.folder / "coordinator.cert").exists()


def test_a_coordinator_has_no_members_key_nor_a_revoked_one(office: Office, request_file: Path, tmp_path: Path) -> None:
    folder = server(tmp_path / "server")
    key = (request_file.parent / "keys" / "identity.key").read_bytes()
    (folder / "keys" / "coordinator.key").write_bytes(key)
    yoriai("server", "enrol", folder)
    office.run("sign", request_file, "--yes")
    assert "of the member north" in office.run("sign", folder / "office.request", "--yes").screen
    office.run("revoke", "north", "--yes")
    done = office.run("sign", folder / "office.request", "--yes")
    assert (done.code, "a key that was revoked" in done.screen) == (EXIT_REFUSED, True)


def test_a_revoked_coordinators_key_holds_no_longer_and_is_never_certified_again(
    office: Office, tmp_path: Path
) -> None:
    folder = server(tmp_path / "server")
    office.run("sign", folder / "office.request", "--yes")
    now = datetime.now(UTC)
    kept = office.run("revoke", "office", answers="n\n")
    assert (kept.code, look_at(office.folder, now=now).coordinator_keys("office") != []) == (EXIT_REFUSED, True)
    done = office.run("revoke", "office", "--yes")
    assert (done.code, "--revocations FILE" in done.screen) == (0, True)
    ca, listed = (office.folder / "authority.der").read_bytes(), (office.folder / "revocations.der").read_bytes()
    with pytest.raises(IdentityError, match="the coordinator's key is revoked"):
        read_coordinator_certificate(
            (office.folder / "coordinator.cert").read_bytes(), Trust(ca, listed, now=now), now=now
        )
    again = office.run("sign", folder / "office.request", "--yes")
    assert (again.code, "a key that was revoked" in again.screen) == (EXIT_REFUSED, True)
    assert "is not a member" in office.run("revoke", "office", "--yes").screen


def test_after_a_revocation_the_same_server_is_certified_with_a_new_key(office: Office, tmp_path: Path) -> None:
    folder = server(tmp_path / "server")
    office.run("sign", folder / "office.request", "--yes")
    office.run("revoke", "office", "--yes")
    (folder / "keys" / "coordinator.key").unlink()
    yoriai("server", "enrol", folder)
    assert office.run("sign", folder / "office.request", "--yes").code == 0
    now = datetime.now(UTC)
    ca, listed = (office.folder / "authority.der").read_bytes(), (office.folder / "revocations.der").read_bytes()
    certificate = (office.folder / "coordinator.cert").read_bytes()
    assert read_coordinator_certificate(certificate, Trust(ca, listed, now=now), now=now).name == "office"


def test_a_site_has_no_coordinators_name(office: Office, request_file: Path, tmp_path: Path) -> None:
    office.run("sign", server(tmp_path / "server", name="north") / "north.request", "--yes")
    done = office.run("sign", request_file, "--yes")
    assert (done.code, "a coordinator's name" in done.screen) == (EXIT_REFUSED, True)


def test_a_coordinators_certificate_does_not_outlive_the_ca(office: Office, tmp_path: Path) -> None:
    request = server(tmp_path / "server") / "office.request"
    done = office.run("sign", request, "--yes", "--valid-days", 3651)
    assert (done.code, "would outlive the federation CA" in done.screen) == (EXIT_REFUSED, True)
