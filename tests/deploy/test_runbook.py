"""The runbook, typed as it stands: six machines from nothing to two jobs, a site restored elsewhere and one moved.

Each party has a machine with users, /etc and nginx of its own, made of namespaces; systemd's part is played by
`systemctl.py`, which runs the units' own commands as their own users.
"""

import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.deploy.book import LEFT_OUT, VALUES, Book, installed, is_left_out, typed
from tests.deploy.machines import DESK, can_be_made
from tests.deploy.pages import PAGES, Command, commands
from tests.deploy.processes import ROOT
from tests.deploy.world import SETTINGS
from tests.world import write_job, write_sites

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.deploy_full,
    pytest.mark.skipif(not can_be_made(), reason="only root can make machines, and users on them"),
]

SITES = ("north", "east", "south")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    folder = tmp_path_factory.mktemp("runbook")
    with installed(folder, "consortium", "server", *SITES, "north-again") as told:
        first_day(told, write_sites(folder / "records", {"north": 20, "east": 16, "south": 18}, test_size=4))
        yield told


def everywhere(task: object, names: tuple[str, ...] = SITES) -> None:
    """Do the same at every site, at once."""
    with ThreadPoolExecutor(max_workers=3) as pool:
        list(pool.map(task, names))  # type: ignore[arg-type]


def first_day(book: Book, records: Path) -> None:
    """From nothing to a running federation."""
    book.play("consortium", "consortium", "1. Make the CA")
    book.play("server", "coordinator", "1. Make the server", patience_s=60)

    def make_site(name: str) -> None:
        shutil.copytree(records / name, book.path(name, "/srv/records"))
        book.play(name, "site", "1. Make the site")
        book.carry(name, [f"/srv/site/{name}.request"], "consortium")

    everywhere(make_site)
    book.carry("server", ["/srv/server/office.request"], "consortium")
    sign, certify, roster = commands("consortium", "2. Sign the requests")
    for name in SITES:
        book.type("consortium", sign, NAME=name)
    book.type("consortium", certify)
    book.type("consortium", roster)
    lists = ["/srv/ca/authority.der", "/srv/ca/roster", "/srv/ca/revocations.der"]
    book.carry("consortium", [*lists, "/srv/ca/members", "/srv/ca/coordinator.cert"], "server")
    book.play("server", "coordinator", "2. Install what was signed")

    def install_signed(name: str) -> None:
        book.carry("consortium", [*lists, f"/srv/ca/members/{name}.cert"], name)
        book.carry("server", ["/srv/server/tls/ca.crt"], name)
        book.play(name, "site", "2. Install what was signed")

    everywhere(install_signed)
    everywhere(lambda name: start_site(book, name))


def start_site(book: Book, name: str) -> None:
    """One of them in the foreground, the others by their units."""
    if name != "east":
        book.play(name, "site", "3. Start", patience_s=120)
        return
    begin(book, name, book.find("site", "3. Start", "site start"))
    book.type(name, book.find("site", "3. Start", "site status"), patience_s=120)


def begin(book: Book, machine: str, command: Command) -> None:
    """Type a command that stays in the foreground."""
    book.machines[machine].begin(command.filled(VALUES))
    book.typed.add(command)


def train(book: Book, sites: Mapping[str, str]) -> str:
    """Submit the prepared job, have every site's operator approve it, and wait for its end; its run.

    Args:
        sites: the folder of each site, by its machine.
    """
    run = submit(book)
    listed, shown, approve = commands("site", "4. The first job")

    def decide(name: str) -> None:
        book.type(name, listed, SITE=sites[name])
        book.type(name, shown, patience_s=300, SITE=sites[name], RUN=run)
        book.type(name, approve, SITE=sites[name], RUN=run)

    everywhere(decide, tuple(sites))
    deadline = time.monotonic() + 1000
    while book.job(run).state().phase not in ("finished", "failed", "ended"):
        assert time.monotonic() < deadline, book.tell(run)
        time.sleep(1.0)
    assert book.job(run).state().phase == "finished", book.tell(run)
    return run


def submit(book: Book) -> str:
    """The run of the job that lies prepared at the server."""
    before = {path.name for path in book.path("server", "/srv/server/jobs").iterdir()}
    for words in ("job submit", "job status"):
        book.type("server", book.find("coordinator", "3. The first job", words))
    (run,) = {path.name for path in book.path("server", "/srv/server/jobs").iterdir()} - before
    return run


@pytest.fixture(scope="module")
def first_job(book: Book, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first job's run."""
    init, prepare = commands("coordinator", "3. The first job")[:2]
    book.type("server", init)
    small = {**SETTINGS, "federation.rounds": 2, "privacy.spare_rounds": 2}
    written = write_job(tmp_path_factory.mktemp("job") / "JOB.toml", Path("/mnt/base"), **small)
    shutil.copy(written, book.path("server", f"{DESK}/JOB.toml"))
    book.type("server", prepare)
    return train(book, dict.fromkeys(SITES, "/srv/site"))


@pytest.fixture(scope="module")
def second_job(book: Book, first_job: str) -> str:
    """After it: north restored on another machine, south moved, all but east upgraded, and the same job again."""
    book.play("north", "recovery", "Back up a site")
    left = uninstall(book, "north")
    book.machines["north"].run("systemctl stop yoriai-node-north yoriai-site-north")
    restore(book)
    for line in left:
        book.machines["north"].run(line)
    book.play("south", "recovery", "Move a site")
    upgrade(book)
    return train(book, {"north-again": "/srv/site", "east": "/srv/site", "south": "/srv/moved"})


def restore(book: Book) -> None:
    """On a machine where numbers mean other users; records and the witness's disk come along as they were."""
    again = book.machines["north-again"]
    again.run("useradd --system somebody-else")
    for place in ("/srv/records", "/var/witness"):
        subprocess.run(["cp", "-a", book.path("north", place), again.path(place)], check=True)
    book.play("north-again", "recovery", "Restore a site")


def uninstall(book: Book, machine: str) -> list[str]:
    """The commands that `site uninstall` lists, but for the one that wants a name."""
    screen = book.type(machine, book.find("site", "Leaving", "uninstall"))
    lines = [line.strip() for line in screen.splitlines()]
    return [line for line in lines if re.match(r"(systemctl|rm|userdel) ", line)]


def upgrade(book: Book) -> None:
    """The server, and the site that has moved."""
    wheel = next(path.name for path in book.world.shared("wheel").iterdir())
    whole = commands("operate", "Upgrades")
    at_server = next(index for index, command in enumerate(whole) if "NAME" in command.text)
    for machine, part in (("server", whole[:at_server]), ("south", whole[at_server:])):
        shutil.copy(ROOT / "constraints.txt", book.path(machine, DESK))
        for command in part:
            book.type(machine, command, **{"YORIAI.whl": f"/mnt/wheel/{wheel}", "SITE": "/srv/moved"})


@pytest.fixture(scope="module")
def ordinary_days(book: Book, second_job: str) -> None:
    """All that is left: a job that is refused and ended, budgets, renewals, a member that leaves, the end."""
    run = submit(book)
    for words in ("site jobs SITE RUN", "site approve"):
        command = book.find("site", "4. The first job", words)
        book.type("south", command, patience_s=300, SITE="/srv/moved", RUN=run)
    refuse, release, decisions = commands("site", "Decisions")
    book.type("east", book.find("site", "4. The first job", "site jobs SITE RUN"), patience_s=300, RUN=run)
    book.type("east", refuse, RUN=run)
    book.type("east", decisions)
    book.type("south", release, patience_s=240, SITE="/srv/moved", RUN=run)  # Once the job was offered again.
    for command in commands("coordinator", "Jobs"):
        book.type("server", command, patience_s=120, RUN=run)
    budgets(book)
    book.type("east", book.find("site", "3. Start", "site stop"))
    new_roster, sign, _, revoke, _ = commands("consortium", "Daily use")
    for command in (new_roster, sign, new_roster, revoke, new_roster):
        book.type("consortium", command, NAME="east")
    book.play("server", "coordinator", "Leaving")
    book.machines["server"].run("systemctl stop yoriai-server")
    start, stop = (book.find("coordinator", "1. Make the server", f"server {verb}") for verb in ("start", "stop"))
    begin(book, "server", start)
    book.type("server", book.find("coordinator", "1. Make the server", "status"), patience_s=60)
    book.type("server", stop)


def budgets(book: Book) -> None:
    """A look, a raise that a second person has to sign, and their signature."""
    show, raise_to, approver, countersign = commands("site", "The budget")
    book.type("east", show)
    book.type("south", raise_to, SITE="/srv/moved")
    public = re.search(r'second_approver = "(\w+)"', book.type("consortium", approver))
    assert public is not None
    settings = book.path("east", "/srv/site/site.toml")
    settings.write_text(settings.read_text().replace('second_approver = ""', f'second_approver = "{public[1]}"'))
    line, east = raise_to.filled(VALUES), book.machines["east"]
    code, screen = east.attempt(line, typed)
    request = re.search(r"/srv/site/raise-\S+\.request", screen)
    assert (code != 0, request is not None) == (True, True), screen
    shutil.copy(book.path("east", request[0]), book.world.shared("raise.request"))  # type: ignore[index]
    book.type("consortium", countersign)
    shutil.copy(book.world.shared("raise.signed"), book.path("east", "/srv/site/raise.signed"))
    east.run("chown yoriai-site: /srv/site/raise.signed")
    east.run(f"{line} --countersigned /srv/site/raise.signed", typed)


@pytest.mark.usefixtures("first_job")
def test_after_the_first_day_every_site_has_the_first_jobs_adapter(book: Book, first_job: str) -> None:
    assert [len(book.adapters(name, "/srv/site", first_job)) for name in ("east", "south")] == [1, 1]


def test_a_site_restored_elsewhere_and_one_that_was_moved_take_part_in_the_next_job(
    book: Book, second_job: str
) -> None:
    places = {"north-again": "/srv/site", "east": "/srv/site", "south": "/srv/moved"}
    assert [len(book.adapters(name, place, second_job)) for name, place in places.items()] == [1, 1, 1]
    events = book.job(second_job).log_file.read_text()
    assert events.count('"answered":"east,north,south"') + events.count('"answered": "east,north,south"') >= 2


def test_the_restored_site_goes_on_with_its_ledger_and_its_adapters(
    book: Book, first_job: str, second_job: str
) -> None:
    spent = book.machines["north-again"].run("runuser -u yoriai-site -- yoriai site budget /srv/site --json")
    assert first_job in spent
    assert second_job in spent
    assert len(book.adapters("north-again", "/srv/site", first_job)) == 1


@pytest.mark.usefixtures("second_job")
def test_the_backup_is_closed_to_others_and_holds_ledger_keys_and_ca_but_no_witness(book: Book) -> None:
    backup = book.world.shared("backup") / "north.tar"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    names = subprocess.run(["tar", "-tf", backup], check=True, capture_output=True, text=True).stdout.split()
    for name in (
        "./node/server-ca.crt",
        "./node/node.key",
        "./keys/identity.key",
        "./site.toml",
        "./trust/roster.seen",
    ):
        assert name in names
    assert any(name.startswith("./ledgers/") and name.endswith(".sqlite") for name in names)
    assert not [name for name in names if name.startswith(("./cache/", "./run/", "./node/flower/", "./witness/"))]


@pytest.mark.usefixtures("second_job")
def test_the_restored_sites_files_belong_to_its_two_users_there(book: Book) -> None:
    again = book.machines["north-again"]
    found = again.run("find /srv/site /var/witness/north /srv/records -printf '%u %p\\n'").split("\n")
    owners = dict(reversed(line.strip().split(" ", 1)) for line in found if " " in line)
    own = {path: user for path, user in owners.items() if "/systemd" not in path}
    assert {user for path, user in own.items() if "/site/node" in path} == {"yoriai-node"}
    assert {user for path, user in own.items() if "/site/node" not in path} == {"yoriai-site"}


@pytest.mark.usefixtures("second_job")
def test_what_uninstall_lists_leaves_nothing_of_the_site_but_its_records(book: Book) -> None:
    north = book.machines["north"]
    assert not list(north.path("/etc/systemd/system").glob("yoriai-*"))
    assert not north.path("/srv/site").exists()
    assert not north.path("/var/witness/north").exists()
    assert "yoriai" not in north.path("/etc/passwd").read_text()
    assert north.path("/srv/records/train.jsonl").exists()


@pytest.mark.usefixtures("second_job")
def test_the_units_that_were_installed_are_units_to_systemd(book: Book) -> None:
    for name in ("server", "south", "north-again"):
        book.machines[name].run("systemd-analyze verify --man=no /etc/systemd/system/yoriai-*.service")


@pytest.mark.usefixtures("ordinary_days")
def test_every_command_of_the_runbook_was_typed_as_it_stands(book: Book) -> None:
    whole = {command for page in PAGES for command in commands(page)}
    assert {command.text for command in whole - book.typed} == {
        command.text for command in whole if is_left_out(command)
    }
    assert all(any(words in command.text for command in whole) for words in LEFT_OUT)
