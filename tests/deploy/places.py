"""Places with faults of their own, made by root: a disk that can be filled, a network whose cable can be pulled."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system import needed


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own for a folder."""
    folder.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


@dataclass(frozen=True)
class Network:
    """A network namespace with one cable to this one.

    Attributes:
        prefix: a command line begins with it to run inside.
        outside: the address of this machine as seen from inside.
    """

    prefix: tuple[str, ...]
    outside: str
    cable: str

    def cut(self) -> None:
        """Pull the cable."""
        _run("ip", "link", "set", self.cable, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", self.cable, "up")


@contextmanager
def network(number: int) -> Iterator[Network]:
    """A network, of a number below 250 that no other test uses at once."""
    needed("ip", "iproute2")
    name = f"y{uuid.uuid4().hex[:8]}"
    inside, outside = f"10.201.{number}.2", f"10.201.{number}.1"
    within = ("ip", "netns", "exec", name)
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", f"{name}o", "type", "veth", "peer", "name", f"{name}i")
        _run("ip", "link", "set", f"{name}i", "netns", name)
        _run("ip", "addr", "add", f"{outside}/24", "dev", f"{name}o")
        _run("ip", "link", "set", f"{name}o", "up")
        _run(*within, "ip", "addr", "add", f"{inside}/24", "dev", f"{name}i")
        for device in (f"{name}i", "lo"):
            _run(*within, "ip", "link", "set", device, "up")
        yield Network(within, outside, f"{name}o")
    finally:
        subprocess.run(["ip", "link", "del", f"{name}o"], check=False, capture_output=True)
        _run("ip", "netns", "del", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
