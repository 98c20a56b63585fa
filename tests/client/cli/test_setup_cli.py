"""`site init` and `site enrol`: what is written, what is asked, and every file of the consortium that is refused."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.commands import Office, Outcome, found, site, yoriai
from tests.crashes import survives
from yoriai.client.cli import site_setup_cli as setup_cli
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.config import PolicySection, RecordsSection, SiteConfig, load_site, parse_site, site_to_toml
from yoriai.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_REFUSED, ConfigError, IdentityError
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.signing_key import read_key

DEFAULTS = "\n" * 13


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return found(tmp_path / "consortium")


@pytest.fixture
def north(tmp_path: Path) -> Path:
    return site(tmp_path / "north", "north")


def admit(office: Office, folder: Path, *more: object) -> None:
    """The consortium signs the site's request and issues a roster."""
    assert office.run("sign", folder / f"{load_site(folder / 'site.toml').name}.request", "--yes", *more).code == 0
    assert office.run("roster").code == 0


def enrol(folder: Path, office: Office, *, by: Office | None = None, name: str = "north") -> Outcome:
    """The site installs all files of the office; with `by`, another consortium's certificate of this name instead."""
    files = {
        "certificate": (by or office).member(name),
        "authority": office.folder / "authority.der",
        "roster": office.folder / "roster",
        "revocations": office.folder / "revocations.der",
    }
    return bring(folder, files)


def bring(folder: Path, files: dict[str, Path]) -> Outcome:
    options = [part for option, path in files.items() for part in (f"--{option}", path)]
    return yoriai("site", "enrol", folder, *options, "--yes")


def trusted(folder: Path) -> dict[str, bytes]:
    """What is installed."""
    return {path.name: path.read_bytes() for path in (folder / "trust").iterdir()}


def refused(done: Outcome, *words: str) -> None:
    assert done.code == EXIT_REFUSED, done.screen
    for word in words:
        assert word in done.screen


# init


def test_init_writes_what_was_answered_with_every_setting_explained(tmp_path: Path) -> None:
    answers = [
        "north",
        "",
        "",
        "example.org:9092",
        "",
        "4",
        "1e-6",
        "owner",
        "500",
        "3",
        "auto",
        "yes",
        str(tmp_path / "disk"),
    ]
    done = yoriai("site", "init", tmp_path / "s", answers="\n".join([*answers, ""]))
    assert done.code == 0
    config = load_site(tmp_path / "s" / "site.toml")
    policy = config.policy
    assert (config.name, config.records.folder, config.ledger.witness) == ("north", "data", str(tmp_path / "disk"))
    assert (config.server.address, config.server.proxy) == ("example.org:9092", "")
    assert (policy.epsilon_budget, policy.delta, policy.unit, policy.min_sites) == (4.0, 1e-6, "owner", 3)
    assert (policy.approve, policy.allow_distributed_noise, policy.max_records) == ("auto", True, 500)
    assert (tmp_path / "disk").is_dir()
    text = (tmp_path / "s" / "site.toml").read_text()
    assert text.count("\n# ") > 20


def test_a_written_site_reads_as_it_was() -> None:
    policy = PolicySection(epsilon_budget=0.1, base_digests=("0a" * 32,), rules=("half",), approve="auto", colluding=3)
    config = SiteConfig(name="n", policy=policy, records=RecordsSection(folder='a"b\\c', dataset="d"))
    assert parse_site(site_to_toml(config)) == config


def test_init_asks_again_after_a_wrong_answer_and_says_why(tmp_path: Path) -> None:
    answers = "../north\nnorth\n\n\nexample.org\n\n\n-1\nmuch\n2.5\n" + DEFAULTS
    done = yoriai("site", "init", tmp_path / "s", answers=answers)
    assert done.code == 0
    assert load_site(tmp_path / "s" / "site.toml").policy.epsilon_budget == 2.5
    for said in ("--name is not valid", "--epsilon-budget is out of range", "--epsilon-budget has the wrong type"):
        assert said in done.screen


def test_init_without_questions_needs_a_name_and_lists_every_fault(tmp_path: Path) -> None:
    done = yoriai("site", "init", tmp_path / "s", "--yes")
    assert (done.code, "--name NAME" in done.screen) == (EXIT_BAD_INPUT, True)
    done = yoriai("site", "init", tmp_path / "s", "--yes", "--name", "a b", "--delta", 1, "--unit", "man")
    assert done.code == EXIT_BAD_INPUT
    assert all(f"  {option} is" in done.screen for option in ("--name", "--delta", "--unit"))
    assert not (tmp_path / "s").exists()


def test_a_path_counts_from_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    yoriai("site", "init", "s", "--name", "n", "--data", "records", "--base", "base", "--witness", "w", "--yes")
    config = load_site("s/site.toml")
    assert config.records.folder == str(tmp_path / "records")
    assert config.base.model == str(tmp_path / "base")
    assert SiteFolder(Path("s")).place(config.ledger.witness) == tmp_path / "w"


def test_init_warns_of_a_witness_on_the_ledgers_disk(tmp_path: Path) -> None:
    assert "is on the disk of the ledgers" in yoriai("site", "init", tmp_path / "s", "--name", "n", "--yes").screen


def test_init_interrupted_writes_nothing(tmp_path: Path) -> None:
    done = yoriai("site", "init", tmp_path / "s", answers="north\n")
    assert (done.code, "nothing was written" in done.screen) == (EXIT_INTERRUPTED, True)
    assert not (tmp_path / "s").exists()


def test_a_site_is_not_made_twice(north: Path) -> None:
    before = (north / "site.toml").read_bytes()
    done = yoriai("site", "init", north, "--name", "other", "--yes")
    assert (done.code, "exists" in done.screen) == (EXIT_BAD_INPUT, True)
    with pytest.raises(ConfigError, match="exists"):
        make_site(north, SiteConfig(name="other"))
    assert (north / "site.toml").read_bytes() == before


def test_a_making_that_is_killed_can_be_repeated(tmp_path: Path) -> None:
    steps = 0
    while not survives(steps, make_site, tmp_path / f"s{steps}", SiteConfig(name="n")):
        path = tmp_path / f"s{steps}"
        if not (path / "site.toml").exists():
            make_site(path, SiteConfig(name="n"))
        assert load_site(path / "site.toml") == SiteConfig(name="n")
        steps += 1
    assert steps > 1


def test_a_site_file_of_another_version_is_refused_by_name(north: Path) -> None:
    text = (north / "site.toml").read_text()
    (north / "site.toml").write_text(text.replace("schema = 1", "schema = 2"))
    done = yoriai("site", "enrol", north)
    assert (done.code, "this Yoriai reads schema 1; found 2" in done.screen) == (EXIT_BAD_INPUT, True)


# Keys and request


def test_nothing_private_is_ever_open_to_others(tmp_path: Path, office: Office) -> None:
    umask = os.umask(0)
    try:
        folder = site(tmp_path / "s", "north")
        admit(office, folder)
        assert enrol(folder, office).code == 0
    finally:
        os.umask(umask)
    modes = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert {modes[name] for name in ("keys", "node", "trust", "ledgers", "adapters", "witness")} == {0o700}
    assert modes.pop("systemd") == 0o755
    files = {name: mode for name, mode in modes.items() if (folder / name).is_file() and "systemd" not in name}
    assert len(files) == 9
    assert set(files.values()) == {0o600}


def test_a_second_request_is_made_with_the_same_keys(north: Path) -> None:
    keys = [(north / place).read_bytes() for place in ("keys/identity.key", "node/node.key")]
    assert yoriai("site", "enrol", north).code == 0
    assert [(north / place).read_bytes() for place in ("keys/identity.key", "node/node.key")] == keys


def test_key_making_that_is_killed_can_be_repeated(tmp_path: Path) -> None:
    steps = 0
    while True:
        folder = tmp_path / f"s{steps}"
        make_site(folder, SiteConfig(name="n"))
        if survives(steps, yoriai, "site", "enrol", folder):
            break
        assert yoriai("site", "enrol", folder).code == 0
        read_key(folder / "keys" / "identity.key")
        NodeKey.read(folder / "node" / "node.key")
        steps += 1
    assert steps > 5


def test_a_folder_for_keys_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s" / "keys").mkdir(parents=True, mode=0o755)
    done = yoriai("site", "init", tmp_path / "s", "--name", "n", "--yes")
    assert (done.code, "chmod 700" in done.screen) == (EXIT_BAD_INPUT, True)


# The consortium's files


def test_a_site_becomes_a_member_and_speaks_with_its_own_key(north: Path, office: Office) -> None:
    admit(office, north, "--weight", 5)
    done = enrol(north, office)
    assert done.code == 0
    assert "north is a member of miyagi" in done.screen
    identity = SiteFolder(north).identity()
    trust = identity.trust()
    assert trust.check("north", identity.certificate) == identity.key.public_key


def test_a_renewal_and_newer_lists_are_installed_over_the_old(north: Path, office: Office) -> None:
    admit(office, north)
    enrol(north, office)
    first = trusted(north)
    admit(office, north, "--replace")
    assert enrol(north, office).code == 0
    second = trusted(north)
    assert second["authority.der"] == first["authority.der"]
    assert all(second[name] != first[name] for name in ("site.cert", "roster", "revocations.der", "roster.seen"))
    assert office.run("roster").code == 0
    assert bring(north, {"roster": office.folder / "roster"}).code == 0
    assert trusted(north)["roster"] == (office.folder / "roster").read_bytes()


def test_a_certificate_of_another_ca_is_refused(north: Path, office: Office, tmp_path: Path) -> None:
    other = found(tmp_path / "other")
    for consortium in (office, other):
        admit(consortium, north)
    refused(enrol(north, office, by=other), "the right signature", "same consortium")
    assert trusted(north) == {}


def test_a_pinned_ca_is_not_replaced(north: Path, office: Office, tmp_path: Path) -> None:
    other = found(tmp_path / "other")
    for consortium in (office, other):
        admit(consortium, north)
    enrol(north, office)
    before = trusted(north)
    refused(enrol(north, other), "not the CA that this site has pinned")
    assert trusted(north) == before


def test_a_certificate_for_another_key_is_refused(north: Path, office: Office, tmp_path: Path) -> None:
    admit(office, site(tmp_path / "twin", "north"))
    refused(enrol(north, office), "for another key than this site's", "north.request")


def test_a_certificate_of_another_name_is_refused(north: Path, office: Office, tmp_path: Path) -> None:
    admit(office, site(tmp_path / "south", "south"))
    refused(enrol(north, office, name="south"), "another site's; found south; expected north")


def test_a_certificate_for_another_node_key_is_refused(north: Path, office: Office) -> None:
    admit(office, north)
    (north / "node" / "node.key").unlink()
    NodeKey.generate().write(north / "node" / "node.key")
    refused(enrol(north, office), "another node key")


def test_a_certificate_without_keys_is_refused(north: Path, office: Office) -> None:
    admit(office, north)
    (north / "keys" / "identity.key").unlink()
    refused(enrol(north, office), "no keys yet")


def test_a_certificate_with_a_flipped_bit_is_refused(north: Path, office: Office) -> None:
    admit(office, north)
    data = bytearray(office.member("north").read_bytes())
    data[-30] ^= 1
    office.member("north").write_bytes(data)
    refused(enrol(north, office), "signature")


def test_an_expired_certificate_is_refused(north: Path, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    admit(office, north, "--valid-days", 1)
    monkeypatch.setattr(setup_cli, "_now", lambda: datetime.now(UTC) + timedelta(days=2))
    refused(enrol(north, office), "certificate of north is not valid today")


def test_a_revoked_certificate_is_refused(north: Path, office: Office, tmp_path: Path) -> None:
    admit(office, north)
    kept = tmp_path / "north.cert"
    kept.write_bytes(office.member("north").read_bytes())
    office.run("revoke", "north", "--yes")
    folder = office.folder
    files = {"authority": folder / "authority.der", "roster": folder / "roster", "certificate": kept}
    refused(bring(north, {**files, "revocations": folder / "revocations.der"}), "certificate of north is revoked")


def test_a_roster_that_does_not_name_the_site_is_refused(north: Path, office: Office, tmp_path: Path) -> None:
    admit(office, site(tmp_path / "south", "south"))
    assert office.run("sign", north / "north.request", "--yes").code == 0
    refused(enrol(north, office), "site north is not in the roster")


def test_a_roster_of_an_earlier_certificate_is_refused(north: Path, office: Office) -> None:
    admit(office, north)
    assert office.run("sign", north / "north.request", "--yes", "--replace").code == 0
    refused(enrol(north, office), "not the one in the roster", "newest roster")


def test_a_roster_that_nobody_signed_is_refused(north: Path, office: Office) -> None:
    admit(office, north)
    lines = (office.folder / "roster").read_bytes().split(b"\n", 2)
    (office.folder / "roster").write_bytes(b"\n".join([lines[0], b"0" * 128, lines[2]]))
    refused(enrol(north, office), "the roster file does not bear the right signature")


def test_older_lists_than_the_site_has_seen_are_refused(north: Path, office: Office, tmp_path: Path) -> None:
    admit(office, north)
    old = {name: tmp_path / name for name in ("roster", "revocations")}
    old["roster"].write_bytes((office.folder / "roster").read_bytes())
    old["revocations"].write_bytes((office.folder / "revocations.der").read_bytes())
    assert office.run("roster").code == 0
    enrol(north, office)
    before = trusted(north)
    for name, path in old.items():
        refused(bring(north, {name: path}), "older than one seen before", "or later")
        assert trusted(north) == before


def test_the_first_files_must_be_complete(north: Path, office: Office) -> None:
    admit(office, north)
    done = bring(north, {"certificate": office.member("north")})
    assert (done.code, "--authority, --roster" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_file_that_is_missing_or_far_too_large_is_named(north: Path, office: Office, tmp_path: Path) -> None:
    done = bring(north, {"certificate": tmp_path / "nowhere.cert"})
    assert (done.code, "nowhere.cert cannot be read" in done.screen) == (EXIT_BAD_INPUT, True)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**33)
    done = bring(north, {"certificate": tmp_path / "large"})
    assert (done.code, "at most 4 MiB" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_site_without_a_certificate_has_no_identity(north: Path) -> None:
    with pytest.raises(IdentityError, match=r"has no certificate yet.*yoriai site enrol"):
        SiteFolder(north).identity()


def test_an_identity_key_that_was_exchanged_after_enrolment_is_noticed(north: Path, office: Office) -> None:
    admit(office, north)
    enrol(north, office)
    (north / "keys" / "identity.key").unlink()
    assert yoriai("site", "enrol", north).code == 0
    with pytest.raises(IdentityError, match="for another key"):
        SiteFolder(north).identity()
