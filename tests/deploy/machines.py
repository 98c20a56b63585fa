"""Machines of one's own on this one: each with its /etc, users, /usr/local, /var, /srv and /run, on one network.

Made of the kernel's namespaces, by root: what commands change there is in memory, and gone at the end, as is every
process. The network has no way out.
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.processes import wait_until
from tests.system import needed

# What every machine has to itself; /root, or another home of Python's, so that every user may pass through it there.
_OWN = ("/etc", "/usr/local", "/var", "/srv")
_SHARED = "/mnt"
DESK = "/srv/desk"  # Where commands are typed.
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INIT = "while :; do sleep 1; done"
_SETUP = """
set -e
here={shared}/machines/{name}
for folder in {folders}; do
  lower=$folder
  image={shared}/machines/image/usr-local
  if test $folder = /usr/local && test -d $image; then lower=$image:$folder; fi
  part=$(echo $folder | cut -c2- | tr / -)
  mkdir -p $here/$part $here/work-$part
  mount -t overlay overlay -o lowerdir=$lower,upperdir=$here/$part,workdir=$here/work-$part $folder
done
mount -t tmpfs tmpfs /run
for folder in {closed}; do chmod o+x $folder; done
touch $here/ready
{init}
"""


def can_be_made() -> bool:
    """Whether the kernel lets this process make machines: root may, unless a container's engine has taken the right."""
    line = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
    return os.geteuid() == 0 and subprocess.run(line, check=False, capture_output=True).returncode == 0


class Ended(AssertionError):
    """A command did not end well; its screen."""


class Machine:
    """One of them."""

    def __init__(self, world: "World", name: str) -> None:
        self.name, self._world = name, world
        closed = [path for path in _parents_of_python() if not path.stat().st_mode & 0o001]
        folders = [*_OWN, *sorted({f"/{path.parts[1]}" for path in closed} - {"/usr"})]
        text = _SETUP.format(
            shared=_SHARED,
            name=name,
            folders=" ".join(folders),
            closed=" ".join(map(str, closed)) or "/srv",
            init=_INIT,
        )
        with (world.logs / f"{name}.machine.log").open("wb") as log:
            unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            command = [*world.prefix, *unshared, "bash", "-c", text]
            self._shell = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        place = world.root / _SHARED[1:] / "machines" / name / "ready"
        wait_until(place.exists, 30, f"no machine {name}")
        init = _init_of(f"here={_SHARED}/machines/{name}\n")
        self.root = Path(f"/proc/{init}/root")
        self._prefix = ["nsenter", "-t", str(init), "-m", "-n", "-p", "--"]
        self.path(DESK).mkdir()

    def path(self, inside: str) -> Path:
        """A path of the machine's, as this process reaches it."""
        return self.root / inside.lstrip("/")

    def run(self, command: str, answer: Callable[[str], str | None] | None = None, seconds: float = 300.0) -> str:
        """Type a command into a shell of root's, at a terminal, in the machine's own folder; its screen.

        Args:
            answer: what is typed when the screen ends in a question; None as long as it ends in none.

        Raises:
            Ended: it exits with another code than 0, or takes too long.
        """
        code, screen = self.attempt(command, answer, seconds)
        if code != 0:
            raise Ended(f"{self.name}$ {command}\n{screen}\nexit code {code}")
        return screen

    def attempt(
        self, command: str, answer: Callable[[str], str | None] | None = None, seconds: float = 300.0
    ) -> tuple[int, str]:
        """As `run`, with the exit code in place of the error."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            self._line(command), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        try:
            return _converse(process, ours, answer or (lambda _: None), seconds)
        finally:
            os.close(ours)

    def begin(self, command: str) -> "subprocess.Popen[bytes]":
        """Start a command that stays in the foreground until another one stops it."""
        with (self._world.logs / f"{self.name}.foreground.log").open("ab") as log:
            return subprocess.Popen(self._line(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _line(self, command: str) -> list[str]:
        settings = {"PATH": _PATH, "HOME": "/root", "TERM": "dumb", "COLUMNS": "200", "LANG": "C.UTF-8"}
        settings |= {
            "OMP_NUM_THREADS": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        return [*self._prefix, "env", "-i", *words, "bash", "-c", f"cd {DESK} && {command}"]


class World:
    """The network, and the process whose end is everybody's."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        setup = (
            f"mount --make-rprivate / && mount -t tmpfs tmpfs {_SHARED} && mkdir {_SHARED}/machines"
            f" && {needed('ip', 'iproute2')} link set lo up && touch {_SHARED}/ready && {_INIT}"
        )
        command = [
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            setup,
        ]
        self._outer = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        wait_until(lambda: children.read_text().strip() != "", 30, "no namespaces")
        self.init = int(children.read_text().split()[0])
        self.root = Path(f"/proc/{self.init}/root")
        self.prefix = ["nsenter", "-t", str(self.init), "-m", "-n", "-p", "--"]
        wait_until((self.root / _SHARED[1:] / "ready").exists, 30, "the namespaces are not set up")

    def shared(self, name: str) -> Path:
        """A place that every machine sees, as this process reaches it; there it is /mnt/NAME."""
        return self.root / _SHARED[1:] / name

    def close(self) -> None:
        """End every process of every machine."""
        os.kill(self.init, signal.SIGKILL)
        self._outer.wait()


@contextmanager
def world(logs: Path) -> Iterator[World]:
    """A network of machines, for as long as it is wanted."""
    made = World(logs)
    try:
        yield made
    finally:
        made.close()


def _parents_of_python() -> list[Path]:
    """The folders through which whoever runs this Python, with its packages, has to pass."""
    places = [Path(sys.base_prefix), *(Path(path) for path in sys.path if path.endswith("site-packages"))]
    found = {parent for place in places for parent in (place, *place.parents) if parent != Path("/")}
    return sorted(found)


def _init_of(line: str) -> int:
    """The first process of a machine, two namespaces below this one, by a line of the script that it runs."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            first = re.search(r"(?m)^NSpid:\t\d+\t\d+\t1$", (entry / "status").read_text())
            if first is not None and line in (entry / "cmdline").read_text():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"there is no machine with {line!r}")


def _converse(
    process: "subprocess.Popen[bytes]", terminal: int, answer: Callable[[str], str | None], seconds: float
) -> tuple[int, str]:
    screen, fresh, deadline = "", "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                piece = os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # Nobody has the other end any more.
                break
            screen, fresh = screen + piece, fresh + piece
        elif process.poll() is not None:
            break
        elif (typed := answer(fresh)) is not None:
            os.write(terminal, f"{typed}\n".encode())
            fresh = ""
    else:
        process.kill()
        return 124, screen
    return process.wait(30), screen.replace("\r\n", "\n")
