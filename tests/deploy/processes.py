"""Processes of a deployment under test: started in groups of their own, with their output in a file, and none left."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.system import needed

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: Callable[[], str] | str) -> None:
    """Wait for something to become true.

    Raises:
        AssertionError: it does not, within this time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"after {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.25)


class Program:
    """A program that runs until it is told to stop, or is killed."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        ends_by: str = "KILL",
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                # If the tests are killed, the kernel ends this too by that signal; what it keeps ends with it.
                [needed("setpriv", "util-linux"), "--pdeathsig", ends_by, *prefix, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
            )

    @classmethod
    def yoriai(cls, *arguments: object, log: Path, **more: object) -> "Program":
        """A command of Yoriai's own, from this environment."""
        command = [str(Path(sys.executable).with_name("yoriai")), *map(str, arguments)]
        return cls(command, log, **more)  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9 of this one process, as a power cut would; what it started may live on."""
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = 60.0) -> int:
        """Ask it to end; kill its whole group when it does not, and whatever of it is left. Its exit code."""
        if self.is_alive:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def said(self) -> str:
        """Everything that it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def children_of(pid: int, name: str) -> list[int]:
    """Processes below this one, at any depth, whose command line holds a word."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue

    def below(child: int) -> bool:
        while child in parents:
            if child == pid:
                return True
            child = parents[child]
        return False

    return sorted(child for child, command in commands.items() if name in command and child != pid and below(child))
