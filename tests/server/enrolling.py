"""A server that is enrolled by a consortium of two sites."""

from pathlib import Path

from tests.commands import Office, Outcome, yoriai
from yoriai.server.folder.server_folder import ServerFolder

NAMES = ("north", "south")


def sign(office: Office, machine: ServerFolder, sites: dict[str, Path], *options: object) -> None:
    """The consortium signs every request and issues a roster."""
    assert office.run("sign", machine.path / "office.request", "--yes", *options).code == 0
    for name, folder in sites.items():
        assert office.run("sign", folder / f"{name}.request", "--yes").code == 0
    assert office.run("roster").code == 0


def files(office: Office) -> dict[str, Path]:
    """What the consortium hands out, by the option that takes it."""
    folder = office.folder
    names = {"coordinator": "coordinator.cert", "authority": "authority.der", "roster": "roster"}
    names |= {"revocations": "revocations.der", "member": "members"}
    return {option: folder / name for option, name in names.items()}


def bring(machine: ServerFolder, brought: dict[str, Path], *, answers: str = "") -> Outcome:
    """Bring files to the server, and answer its questions; without answers it asks none."""
    options = [part for option, path in brought.items() for part in (f"--{option}", path)]
    return yoriai("server", "enrol", machine.path, *options, *(() if answers else ("--yes",)), answers=answers)


def enrolled(machine: ServerFolder, office: Office, sites: dict[str, Path]) -> None:
    """Enrol the server, with these sites for members."""
    sign(office, machine, sites)
    done = bring(machine, files(office))
    assert done.code == 0, done.screen
