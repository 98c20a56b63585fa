"""What the containers of the trial run, without an engine: on machines of one's own, from nothing to sites online."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from tests.deploy.book import Book, installed
from tests.deploy.machines import can_be_made
from tests.deploy.processes import ROOT, wait_until
from tests.world import write_sites

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.deploy_full,
    pytest.mark.skipif(not can_be_made(), reason="only root can make machines, and users on them"),
]
PARTY = ROOT / "docs" / "operate" / "containers" / "party.sh"
SITES = ("north", "east")


def users_of(image: str) -> list[str]:
    """The commands by which an image makes its users."""
    lines = (PARTY.parent / f"{image}.Dockerfile").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("RUN ") for line in lines if line.startswith("RUN useradd ")]


def start(book: Book, machine: str, image: str, part: str) -> None:
    """As the engine would: the image's users, then the container's command."""
    for line in users_of(image):
        book.machines[machine].run(line)
    book.machines[machine].begin(
        f"STICK=/mnt/stick SITES='{' '.join(SITES)}' SERVER_HOST=localhost BASE=/mnt/base RECORDS=/srv/given "
        f"sh /mnt/party.sh {part}"
    )


def online(book: Book) -> set[str]:
    """The sites that the server sees."""
    _, screen = book.machines["server"].attempt("runuser -u yoriai-server -- yoriai server status /srv/server --json")
    try:
        sites = json.loads(screen[screen.index("{") :])["sites"]
    except (ValueError, KeyError):
        return set()
    return {name for name, state in sites.items() if state == "online"}


def test_the_parties_of_the_trial_enrol_by_themselves_and_every_site_comes_online_as_two_users(tmp_path: Path) -> None:
    records = write_sites(tmp_path / "records", {"north": 8, "east": 8}, test_size=2)
    with installed(tmp_path, "consortium", "server", *SITES) as book:
        shutil.copy(PARTY, book.world.shared("party.sh"))
        book.world.shared("stick").mkdir()
        for name in SITES:
            shutil.copytree(records / name, book.path(name, "/srv/given") / name)
        start(book, "consortium", "site", "try-consortium")
        start(book, "server", "server", "try-server")
        for name in SITES:
            start(book, name, "site", f"try-site {name}")
        wait_until(lambda: online(book) == set(SITES), 300, lambda: told(book))
        for name in SITES:
            users = book.machines[name].run("ps -eo user:20,args | grep 'yoriai site start' | grep -v grep")
            assert {line.split()[0] for line in users.splitlines() if "--only daemon" in line} == {"yoriai-site"}
            assert {line.split()[0] for line in users.splitlines() if "--only node" in line} == {"yoriai-node"}
        assert stat.S_IMODE(book.path("consortium", "/srv/passphrase").stat().st_mode) == 0o600


def told(book: Book) -> str:
    """What the parties have said."""
    return "\n".join(
        f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in book.world.logs.glob("*.log")
    )
