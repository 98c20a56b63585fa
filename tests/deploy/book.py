"""Machines on which Yoriai is installed as the runbook says, and an operator who types the runbook's commands."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.deploy import systemctl
from tests.deploy.machines import DESK, Ended, Machine, World, world
from tests.deploy.pages import Command, commands
from tests.deploy.processes import ROOT
from tests.system import needed
from tests.world import save_tiny_base
from yoriai.server.jobs.job_store import StoredJob

PASSPHRASE = "correct horse battery"
# What is not run, and why.
LEFT_OUT = {
    "apt-get install": "the machines have no way out; nginx is installed before they are made",
    "pip install torch": "0.2 GB from an index; the machines borrow the torch that runs this test",
}
VALUES = {
    "YORIAI.whl": "/mnt/wheel/yoriai-0-py3-none-any.whl",
    "CA": "/srv/ca",
    "FEDERATION": "miyagi",
    "SERVER": "/srv/server",
    "COORDINATOR": "office",
    "HOST": "localhost",
    "SITE": "/srv/site",
    "NEW_SITE": "/srv/moved",
    "RECORDS": "/srv/records",
    "OTHER_DISK": "/var/witness",
    "BASE": "/mnt/base",
    "BACKUP": "/mnt/backup",
    "EPSILON": "20",
    "TEXT": "trial",
    "KEY": "/mnt/second.key",
    "REQUEST": "/mnt/raise.request",
}


def typed(screen: str) -> str | None:
    """What a careful operator types at a question."""
    last = screen.rpartition("\n")[2].strip()
    if re.search(r"(assphrase|confirmation).*:$", last):
        return PASSPHRASE
    return "y" if last.endswith("[y/N]:") else None


class Book:
    """The runbook at work, and which of its commands were typed."""

    def __init__(self, machines: Mapping[str, Machine], network: World) -> None:
        self.machines, self.world = machines, network
        self.typed: set[Command] = set()

    def type(self, machine: str, command: Command, *, patience_s: float = 0.0, **values: str) -> str:
        """Type a command; where something has to come up first, again until it ends well."""
        text = command.filled({**VALUES, "NAME": machine.removesuffix("-again"), **values})
        deadline = time.monotonic() + patience_s
        while True:
            try:
                screen = self.machines[machine].run(text, typed)
                break
            except Ended:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
        self.typed.add(command)
        return screen

    def play(self, machine: str, page: str, section: str, *, patience_s: float = 0.0, **values: str) -> None:
        """Type all commands of a section in order, but those that are left out or stay in the foreground."""
        for command in commands(page, section):
            if not is_left_out(command) and not re.search(r"yoriai (server|site) (start|stop) ", command.text):
                self.type(machine, command, patience_s=patience_s, **values)

    def find(self, page: str, section: str, words: str) -> Command:
        """A section's command, by some of its words."""
        return next(command for command in commands(page, section) if words in command.text)

    def path(self, machine: str, inside: str) -> Path:
        """A path of a machine's."""
        return self.machines[machine].path(inside)

    def carry(self, source: str, files: list[str], *targets: str) -> None:
        """Bring files, or folders, to the folders of others, on a stick."""
        for file in files:
            for target in targets:
                place, found = self.path(target, DESK), self.path(source, file)
                if found.is_dir():
                    shutil.copytree(found, place / found.name, dirs_exist_ok=True)
                else:
                    shutil.copy(found, place)

    def job(self, run: str) -> StoredJob:
        """A job of the server's."""
        return StoredJob(self.path("server", f"/srv/server/jobs/{run}"))

    def adapters(self, machine: str, folder: str, run: str) -> list[Path]:
        """What a site has of a job."""
        return list(self.path(machine, f"{folder}/adapters").glob(f"{run}*/adapter_model.safetensors"))

    def tell(self, run: str) -> str:
        """What may explain where a job is."""
        logs = [*self.world.logs.glob("*.log")]
        for name, machine in self.machines.items():
            logs += [*machine.path("/run/units").glob("*.log"), *machine.path("/srv").glob("*/node/supernode.log")]
            logs += [machine.path(f"/srv/server/jobs/{run}/log.jsonl")] if name == "server" else []
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())


def is_left_out(command: Command) -> bool:
    return any(words in command.text for words in LEFT_OUT)


@contextmanager
def installed(folder: Path, *names: str) -> Iterator[Book]:
    """Machines of these names, each with Yoriai; a tiny base and a place for backups are where all see them."""
    needed("nginx", "nginx-light")
    with world(folder) as network:
        wheel = build_wheel(folder)
        shutil.copytree(wheel.parent, network.shared("wheel"))
        save_tiny_base(network.shared("base"))
        network.shared("backup").mkdir()
        subprocess.run(["chmod", "-R", "a+rX", network.shared("base"), network.shared("wheel")], check=True)
        machines = {"image": Machine(network, "image")}
        book = Book(machines, network)
        _install(book, wheel)
        for name in names:
            machines[name] = Machine(network, name)
        yield book


def build_wheel(folder: Path) -> Path:
    """The wheel of this source tree."""
    tree, place = folder / "tree", folder / "wheel"
    for name in ("yoriai", "client", "privacy", "server", "simulations", "strategies"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    line = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, tree]
    subprocess.run(line, check=True, capture_output=True)
    return next(place.glob("*.whl"))


def _install(book: Book, wheel: Path) -> None:
    """What everybody does first; done once, for every machine begins with what this one has."""
    image = book.machines["image"]
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    _write_script(image.path("/usr/local/bin/python3"), f'#!/bin/sh\nexec {python} "$@"\n')
    stand_in = Path(systemctl.__file__).read_text()
    _write_script(image.path("/usr/local/bin/systemctl"), f"#!/usr/local/bin/python3\n{stand_in}")
    shutil.copy(ROOT / "constraints.txt", image.path(DESK))
    for command in commands("operate", "Install Yoriai"):
        if not is_left_out(command):
            book.type("image", command, **{"YORIAI.whl": f"/mnt/wheel/{wheel.name}"})
    _borrow_packages(image)


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _borrow_packages(image: Machine) -> None:
    """Let the new environment see the packages that this test runs with, Flower's programs among them."""
    places = [path for path in sys.path if path.endswith("site-packages")]
    own = next(image.path("/usr/local/yoriai/lib").glob("python*")) / "site-packages"
    (own / "borrowed.pth").write_text("".join(f"{place}\n" for place in places))
    for program in Path(sys.executable).parent.glob("fl*"):
        rest = program.read_text().partition("\n")[2]
        _write_script(image.path(f"/usr/local/yoriai/bin/{program.name}"), f"#!/usr/local/yoriai/bin/python\n{rest}")
