"""`site check`: every row, the real server behind TLS and proxy, and that checking changes and betrays nothing."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.client.daemons import MARKER
from tests.commands import Office, found, yoriai
from tests.proxies import tinyproxy
from tests.tls import HttpsServer, Issuer, https
from tests.waiting import wait_for
from tests.world import write_records
from yoriai.client.cli.check.check_rows import Row
from yoriai.client.cli.check.check_server import Answer, ask, check_clock
from yoriai.client.cli.check.site_check import LoadedBase, check_base, check_memory, check_room, check_site
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.records.records import fingerprint, read_site
from yoriai.config import PolicySection, ServerSection, SiteConfig
from yoriai.errors import EXIT_BAD_INPUT, ServerError, YoriaiError
from yoriai.privacy.dp.events import SampledGaussian
from yoriai.privacy.ledger.folder import open_in_folder
from yoriai.privacy.ledger.ledger import Policy

MIB = 1024 * 1024
NO_PORT = 1  # Where no one listens.
FLEET, CONTROL = "/v1/fleet/activate-node", "/v1/control/list-nodes"


@pytest.fixture(scope="module")
def ca() -> Issuer:
    return Issuer.make()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ca: Issuer, base_folder: Path) -> Path:
    """A consortium and its member with records, at which all is well but for the server's port; tests work on copies.

    Founding, signing and enrolling takes many times what copying their files does.
    """
    place = tmp_path_factory.mktemp("check")
    folder, data, office = place / "north", place / "records", found(place / "consortium")
    data.mkdir(mode=0o700)
    rows: list[dict[str, object]] = [{"prompt": f"{MARKER} {n}", "response": "yes", "owner": "a"} for n in range(6)]
    for part in ("train", "test"):
        write_records(data / f"{part}.jsonl", rows)
    (place / "ca.crt").write_bytes(ca.pem)
    options = ("--data", data, "--server", f"localhost:{NO_PORT}", "--base", base_folder)
    assert yoriai("site", "init", folder, "--name", "north", "--yes", *options).code == 0
    assert yoriai("site", "enrol", folder).code == 0
    assert office.run("sign", folder / "north.request", "--yes").code == 0
    assert office.run("roster").code == 0
    lists = ("--roster", office.folder / "roster", "--revocations", office.folder / "revocations.der")
    trust_files = ("--certificate", office.member("north"), "--authority", office.folder / "authority.der", *lists)
    assert yoriai("site", "enrol", folder, *trust_files, "--server-ca", place / "ca.crt", "--yes").code == 0
    return place


@pytest.fixture
def office(tmp_path: Path, made: Path) -> Office:
    shutil.copytree(made / "consortium", tmp_path / "consortium")
    return Office(tmp_path / "consortium" / "ca", tmp_path / "consortium" / "passphrase")


@pytest.fixture
def server(tmp_path: Path, ca: Issuer) -> Iterator[HttpsServer]:
    """A server that lets only /v1/fleet pass."""
    with https(ca.server(tmp_path / "server.pem")) as running:
        running.statuses = {FLEET: 405}
        yield running


@pytest.fixture
def north(tmp_path: Path, made: Path, server: HttpsServer) -> SiteFolder:
    """A member with records, at which all is well; nothing runs."""
    for name in ("north", "records"):
        shutil.copytree(made / name, tmp_path / name)
    site = SiteFolder(tmp_path / "north")
    edit(site, f"localhost:{NO_PORT}", f"localhost:{server.port}")
    edit(site, str(made), str(tmp_path))
    return site


def rows(site: SiteFolder, *, later: timedelta = timedelta()) -> dict[str, Row]:
    """Every row but the base's, as it would be later."""
    found = check_site(site, now=datetime.now(UTC) + later, base_of=None)
    return {row.what: row for row in found}


def edit(site: SiteFolder, old: str, new: str) -> None:
    text = site.settings.read_text()
    assert old in text
    site.settings.write_text(text.replace(old, new))


def crosses(found: dict[str, Row]) -> set[str]:
    return {row.what for row in found.values() if row.mark == "fail"}


def test_a_site_at_which_all_is_well_has_no_cross_and_sends_nothing_of_its_own(
    north: SiteFolder, server: HttpsServer
) -> None:
    done = yoriai("site", "check", north.path, "--json")
    report = json.loads(done.screen[done.screen.index("{") :])
    assert (done.code, report["passes"], report["schema"]) == (0, True, 1)
    assert {row["what"] for row in report["rows"]} >= {"base", "memory", "records", "ledger", "clock", "server's door"}
    assert server.seen == [FLEET, CONTROL]
    assert MARKER not in done.screen


def test_checking_changes_no_file_and_spends_nothing(north: SiteFolder) -> None:
    records = read_site("north", north.place(north.config().records.folder))
    policy = Policy(16.0, 1e-5, unit="record")
    event = SampledGaussian(noise_multiplier=1.0, sampling_rate=0.1, steps=4)
    with open_in_folder(
        north.ledgers, "records", fingerprint(records.train), policy, witnesses=north.path / "witness"
    ) as ledger:
        ledger.approve("job", event, 1)
        left = 16.0 - ledger.promised()
    before = {path: path.read_bytes() for path in north.path.rglob("*") if path.is_file()}
    assert rows(north)["ledger"].found == f"epsilon {left:.2f} of 16 is left"
    assert {path: path.read_bytes() for path in north.path.rglob("*") if path.is_file()} == before


def test_crosses_come_with_remedies_and_exit_code_2(north: SiteFolder) -> None:
    north.identity_key.chmod(0o644)
    done = yoriai("site", "check", north.path, "--quick")
    assert done.code == EXIT_BAD_INPUT
    screen = "".join(done.screen.split())
    assert ("✗keys" in screen, f"→chmod600{north.identity_key}" in screen) == (True, True)


def test_faulty_settings_are_the_only_row(north: SiteFolder) -> None:
    edit(north, "min_sites = 2", "min_sites = 0")
    assert [(row.what, row.mark) for row in rows(north).values()] == [("settings", "fail")]


def test_a_record_that_cannot_be_read_is_named_by_its_place_alone(north: SiteFolder) -> None:
    path = north.place(north.config().records.folder) / "train.jsonl"
    path.write_text(f'{{"prompt": "{MARKER}"\n')
    row = rows(north)["records"]
    assert (row.mark, "line 1" in row.found, MARKER in row.found) == ("fail", True, False)


def test_records_are_read_in_the_encoding_and_columns_that_the_sites_file_names(north: SiteFolder) -> None:
    folder = north.place(north.config().records.folder)
    for part in ("train", "test"):
        (folder / f"{part}.jsonl").unlink()
        (folder / f"{part}.csv").write_bytes("text;label\ndéfaut;x\n".encode("latin-1"))
    assert "records.encoding" in rows(north)["records"].remedy
    edit(north, 'encoding = ""', 'encoding = "latin-1"')
    edit(north, 'prompt_field = ""', 'prompt_field = "text"')
    edit(north, 'response_field = ""', 'response_field = "label"')
    assert rows(north)["records"].found == "1 to train, 1 to test"


def test_records_are_counted_and_an_open_folder_is_noticed(north: SiteFolder) -> None:
    assert rows(north)["records"].found == "6 to train, 6 to test, 1 owners"
    north.place(north.config().records.folder).chmod(0o755)
    assert rows(north)["records"].mark == "warn"


@pytest.mark.parametrize(("unit", "most", "mark"), [("record", 5, "fail"), ("record", 6, "ok"), ("owner", 1, "ok")])
def test_more_records_or_owners_than_the_policy_says_in_public_are_a_cross(
    north: SiteFolder, unit: str, most: int, mark: str
) -> None:
    edit(north, "max_records = 10000", f"max_records = {most}")
    edit(north, 'unit = "record"', f'unit = "{unit}"')
    row = rows(north)["records"]
    assert row.mark == mark
    assert ("raise policy.max_records" in row.remedy) is (mark == "fail")


@pytest.mark.parametrize(
    ("setting", "mark"),
    [
        ('kinds = ["lm"]', "warn"),
        ('kinds = ["lm", "classify"]', "ok"),
        ('labels = ["no", "maybe"]', "warn"),
        ('labels = ["no", "yes"]', "ok"),
    ],
)
def test_records_that_are_not_as_the_policy_says_in_public_are_counted_and_one_is_named_by_its_place(
    north: SiteFolder, setting: str, mark: str
) -> None:
    edit(north, f"{setting.split(maxsplit=1)[0]} = []", setting)
    row = rows(north)["records"]
    assert row.mark == mark
    if mark == "warn":
        assert "6 not as the policy says, the first: " in row.found
        assert ("line 1" in row.found, MARKER in row.found) == (True, False)


def test_a_policy_whose_own_delta_no_job_may_have_is_noticed(north: SiteFolder) -> None:
    edit(north, "max_records = 10000", "max_records = 100000")
    assert (rows(north)["settings"].mark, "lower policy.delta" in rows(north)["settings"].remedy) == ("warn", True)


def test_folders_that_are_open_to_others_are_named(north: SiteFolder) -> None:
    north.ledgers.chmod(0o750)
    assert (rows(north)["keys"].mark, str(north.ledgers) in rows(north)["keys"].remedy) == ("fail", True)


@pytest.mark.parametrize(
    ("days", "warned", "crossed"),
    [
        (0, set(), set()),
        (61, {"roster", "revocation list"}, set()),
        (91, set(), {"certificate", "roster", "revocation list"}),
        (300.5, set(), {"certificate", "roster", "revocation list", "server's certificate"}),
    ],
)
def test_what_expires_is_noticed_before_it_does(
    north: SiteFolder, days: float, warned: set[str], crossed: set[str]
) -> None:
    found = rows(north, later=timedelta(days=days))
    lasting = {"certificate", "roster", "revocation list", "server's CA", "server's certificate"}
    assert {what for what in lasting if found[what].mark == "warn"} == warned
    assert crosses(found) == crossed


def test_a_site_certificate_is_warned_of_in_its_last_month(north: SiteFolder, office: Office) -> None:
    again = ("--replace", "--valid-days", "29", "--yes")
    assert office.run("sign", north.path / "north.request", *again).code == 0
    assert office.run("roster").code == 0
    lists = ("--roster", office.folder / "roster", "--revocations", office.folder / "revocations.der")
    assert yoriai("site", "enrol", north.path, "--certificate", office.member("north"), *lists, "--yes").code == 0
    assert (rows(north)["certificate"].mark, crosses(rows(north))) == ("warn", set())


def test_a_base_that_the_policy_does_not_name_is_a_cross() -> None:
    loaded = LoadedBase("ab" * 32, 1, "cpu", 1)
    policy = PolicySection(base_digests=("cd" * 32,))
    assert check_base(SiteConfig(name="n", policy=policy), loaded).mark == "fail"
    assert check_base(SiteConfig(name="n"), loaded).mark == "ok"


def test_memory_is_held_against_the_size_of_the_base() -> None:
    marks = [check_memory(LoadedBase("", 10, "cpu", free)).mark for free in (9, 10, 19, 20)]
    assert marks == ["fail", "warn", "warn", "ok"]


def test_a_disk_without_room_is_a_cross() -> None:
    assert [check_room("x", free * MIB).mark for free in (99, 100, 2047, 2048)] == ["fail", "warn", "warn", "ok"]


# The server


def test_a_site_without_a_server_is_told_so_and_asks_nobody(north: SiteFolder, server: HttpsServer) -> None:
    edit(north, f'address = "localhost:{server.port}"', 'address = ""')
    assert (rows(north)["server"].mark, server.seen) == ("warn", [])


def test_a_server_that_is_not_there_is_a_cross(north: SiteFolder, server: HttpsServer) -> None:
    edit(north, f'address = "localhost:{server.port}"', 'address = "localhost:1"')
    row = rows(north)["server"]
    assert (row.mark, "Connection refused" in row.found, "firewall" in row.remedy) == ("fail", True, True)


def test_a_server_of_another_ca_or_another_name_is_not_the_server(
    north: SiteFolder, server: HttpsServer, tmp_path: Path
) -> None:
    other = Issuer.make()
    with https(other.server(tmp_path / "other.pem")) as posing:
        edit(north, f"localhost:{server.port}", f"localhost:{posing.port}")
        assert "is not the server's" in rows(north)["server"].found
        edit(north, f"localhost:{posing.port}", f"127.0.0.2:{posing.port}")
        assert crosses(rows(north)) == {"server"}
        assert posing.seen == []


@pytest.mark.timeout(60)
def test_a_server_whose_answer_has_no_end_holds_nothing_up(north: SiteFolder, server: HttpsServer) -> None:
    server.endless = True
    assert crosses(rows(north)) == set()


def test_an_expired_certificate_of_the_server_is_a_cross(
    north: SiteFolder, server: HttpsServer, ca: Issuer, tmp_path: Path
) -> None:
    with https(ca.server(tmp_path / "old.pem", days=-1)) as old:
        edit(north, f"localhost:{server.port}", f"localhost:{old.port}")
        assert "expired" in rows(north)["server"].found


@pytest.mark.parametrize(
    ("ahead_s", "mark"),
    [(0.0, "ok"), (1.9, "ok"), (2.1, "warn"), (4.1, "fail"), (-1.9, "ok"), (-30.0, "warn"), (-61.0, "fail")],
)
def test_clocks_that_flower_would_not_take_are_a_cross(ahead_s: float, mark: str) -> None:
    assert check_clock(Answer(405, b"", ahead_s)).mark == mark


@pytest.mark.parametrize("ahead_s", [0.0, -6.0, 70.0])
def test_the_servers_clock_is_told_within_half_a_second_and_half_the_way_there_and_back(
    north: SiteFolder, server: HttpsServer, ahead_s: float
) -> None:
    server.ahead_s = ahead_s
    began = time.time()
    found = ask(north.config().server, str(north.server_ca), FLEET).ahead_s
    assert found is not None
    assert abs(found + ahead_s) <= 0.5 + (time.time() - began) / 2


def test_the_servers_clock_is_a_row_of_the_check(north: SiteFolder, server: HttpsServer) -> None:
    server.ahead_s = 3600.0
    assert rows(north)["clock"].mark == "fail"


@pytest.mark.parametrize(("path", "status", "what"), [(CONTROL, 405, "server's door"), (FLEET, 502, "server")])
def test_a_server_that_shows_control_or_has_nothing_behind_its_door_is_warned_of(
    north: SiteFolder, server: HttpsServer, path: str, status: int, what: str
) -> None:
    server.statuses = {FLEET: 405, path: status}
    found = rows(north)
    # A port may hold the status's digits: the answer is looked for as a word.
    assert [row.what for row in found.values() if re.search(rf"\b{status}\b", row.found)] == [what]
    assert found[what].mark == "warn"


# The proxy


def test_through_a_proxy_the_server_is_reached_by_connect_and_verified_at_its_end(
    north: SiteFolder, server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with tinyproxy(tmp_path, server.port) as (port, log):
        edit(north, 'proxy = ""', f'proxy = "http://127.0.0.1:{port}"')
        found = rows(north)
        assert (crosses(found), server.seen) == (set(), [FLEET, CONTROL])
        assert f"through http://127.0.0.1:{port}" in found["server"].found
        wait_for(lambda: f"CONNECT localhost:{server.port}" in log.read_text())


def test_a_proxy_that_refuses_is_named(server: HttpsServer, ca: Issuer, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    with tinyproxy(tmp_path, 443) as (port, _):
        section = ServerSection(address=f"localhost:{server.port}", proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(ServerError, match=rf"through the proxy http://127.0.0.1:{port}; found .*403"):
            ask(section, str(tmp_path / "ca.crt"), FLEET)
    assert server.seen == []


# Its own clock, ledger and words


def test_a_wrong_clock_is_named_as_the_cause_of_what_it_does(
    north: SiteFolder, server: HttpsServer, ca: Issuer, tmp_path: Path
) -> None:
    """This machine's clock goes 500 days ahead: all that expires has done so by it."""
    days = 500.0
    with https(ca.server(tmp_path / "old.pem", days=-1)) as old:  # By a clock that is ahead, a good one has expired.
        old.ahead_s, old.statuses = -days * 86_400, {FLEET: 405}
        edit(north, f"localhost:{server.port}", f"localhost:{old.port}")
        found = rows(north, later=timedelta(days=days))
    assert found["clock"].mark == "fail"
    for what in ("certificate", "roster", "revocation list", "server's CA", "server"):
        assert (found[what].mark, found[what].remedy[:20]) == ("fail", "set the clock first:"), found[what]
    assert rows(north, later=timedelta(days=days))["roster"].remedy != found["roster"].remedy


def test_a_server_whose_certificate_has_expired_by_a_right_clock_is_for_its_coordinator(
    north: SiteFolder, server: HttpsServer, ca: Issuer, tmp_path: Path
) -> None:
    with https(ca.server(tmp_path / "old.pem", days=-1)) as old:
        old.statuses = {FLEET: 405}
        edit(north, f"localhost:{server.port}", f"localhost:{old.port}")
        found = rows(north)
    assert (found["server"].mark, found["clock"].mark) == ("fail", "ok")
    assert "coordinator" in found["server"].remedy


def made_ledger(north: SiteFolder) -> Path:
    records = read_site("north", north.place(north.config().records.folder))
    policy, witness = Policy(16.0, 1e-5, unit="record"), north.path / "witness"
    with open_in_folder(north.ledgers, "records", fingerprint(records.train), policy, witnesses=witness) as ledger:
        ledger.approve("job", SampledGaussian(noise_multiplier=1.0, sampling_rate=0.1, steps=4), 1)
    return north.ledgers / "records.sqlite"


def test_a_ledger_that_is_gone_while_its_witness_is_there_is_a_cross(north: SiteFolder) -> None:
    made_ledger(north).unlink()
    assert (rows(north)["ledger"].mark, "is gone" in rows(north)["ledger"].found) == ("fail", True)


@pytest.mark.parametrize(
    ("setting", "now", "found"),
    [
        ("epsilon_budget = 16.0", "epsilon_budget = 20.0", "policy.epsilon_budget is 20"),
        ('unit = "record"', 'unit = "owner"', "it counts per record"),
    ],
)
def test_settings_on_which_the_daemon_would_not_start_with_its_ledger_are_a_cross(
    north: SiteFolder, setting: str, now: str, found: str
) -> None:
    made_ledger(north)
    assert rows(north)["ledger"].mark == "ok"
    edit(north, setting, now)
    assert (rows(north)["ledger"].mark, found in rows(north)["ledger"].found) == ("fail", True)
    records = read_site("north", north.place(north.config().records.folder))
    asked = north.config().policy
    policy = Policy(asked.epsilon_budget, asked.delta, unit=asked.unit)
    with pytest.raises(YoriaiError):  # As the daemon does.
        open_in_folder(north.ledgers, "records", fingerprint(records.train), policy, witnesses=north.path / "witness")


def test_the_rows_that_the_daemons_user_finds_are_those_that_roots_check_reads(north: SiteFolder) -> None:
    done = yoriai("site", "check", north.path, "--json", "--own", "--quick")
    own = [Row(**row) for row in json.loads(done.screen[done.screen.index("{") :])["rows"]]
    of_all = rows(north)
    assert {row.what for row in own} >= {"records", "certificate", "roster", "revocation list", "ledger", "witness"}
    assert {row.what: row.mark for row in own} == {row.what: of_all[row.what].mark for row in own}
