"""Keeps one child process alive: started again whenever it ends, and gone when whoever keeps it is gone.

The child leads a session of its own, so that one signal reaches it and what it has started in turn. When it ends, for
whatever reason, the rest of its group is killed before another is started; Flower's processes start further ones, and
two generations must not live side by side. If the supervisor's process is killed, the kernel kills the child
(`child_launcher.py`); the kernel looks at the thread that started it, so that thread does nothing but wait for it.

Not covered: a grandchild that leaves the group on purpose. Under systemd the unit's control group ends it as well.
"""

import contextlib
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from yoriai.errors import ConfigError, StorageError
from yoriai.system import child_launcher
from yoriai.system.files import PRIVATE
from yoriai.system.log import EventLog

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# A child that has lived this long was well: its next end is not yet a habit.
WELL_AFTER_S = 60.0
# Killed processes are gone within milliseconds; those that only wait for a slow init to bury them need no waiting for.
_GROUP_END_S = 0.5
_PIECE_BYTES = 64 * 1024
# What a terminal takes for colours, and for a place on its screen.
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")

Command = Sequence[str] | Callable[[], Sequence[str]]


def installed(name: str) -> str:
    """The command that was installed beside this interpreter, whatever the path of the environment says.

    Raises:
        ConfigError: there is none.
    """
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise ConfigError(f"{name} is not installed beside {sys.executable}", remedy="install Yoriai there anew")
    return str(path)


class Supervisor:
    """One child process, kept alive from `start` to `stop`. Its methods may be called from any thread.

    Args:
        name: what the log calls it.
        command: absolute path and arguments; a function is asked anew for every start.
        environment: all of the child's environment.
        log: gets one event a start, end and restart.
        output: file that its standard output and error are appended to, mode 0600; None: they go where this
            process's go.
        run_as: number of the user it runs as, with that user's groups and home; only root can.
        on_restart: called before each start but the first.

    Raises:
        ConfigError: there is no such user, or this process may not become it.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        environment: Mapping[str, str],
        log: EventLog,
        output: Path | None = None,
        run_as: int | None = None,
        on_restart: Callable[[], None] | None = None,
    ) -> None:
        self._name, self._log, self._on_restart = name, log, on_restart
        self._command: Callable[[], Sequence[str]] = command if callable(command) else lambda: command
        self._environment = {**environment, **_identity(run_as)}
        self._user = "-" if run_as is None else str(run_as)
        self._output = None if output is None else OutputFile(output)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts, self._since = 0, datetime.now(UTC)
        self._thread = threading.Thread(target=self._keep, name=f"supervisor of {name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The child's number; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a child now."""
        return self._process is not None

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._restarts

    @property
    def since(self) -> datetime:
        """When the child of now was started, or when the last one ended."""
        return self._since

    def start(self) -> None:
        """Start the child, and keep it from now on."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """End the child for good: SIGTERM to its group and, after the grace in seconds, SIGKILL. None is left then."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._thread.ident is None:
            return
        self._thread.join(grace_s)
        self._signal(signal.SIGKILL)
        self._thread.join()

    def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            self._live_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - begun >= WELL_AFTER_S:
                pause_s = FIRST_PAUSE_S
            self._log.event("child_restarts", child=self._name, pause_s=pause_s)
            if self._stopping.wait(pause_s):
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._restarts += 1
            if self._on_restart is not None:
                self._on_restart()

    def _live_once(self) -> None:
        """Start the child, unless it was stopped meanwhile, and wait for its end."""
        with self._lock:
            if self._stopping.is_set():
                return
            try:
                process = self._launch()
            except (OSError, ConfigError) as error:
                self._log.event("child_not_started", child=self._name, error=type(error).__name__)
                return
            self._process, self._since = process, datetime.now(UTC)
        begun = time.monotonic()
        self._log.event("child_started", child=self._name, pid=process.pid)
        listener = self._listen(process)
        # Not reaped yet, the child's number stays its own, and so does its group's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            self._process, self._since = None, datetime.now(UTC)
        _await_group(process.pid)
        if listener is not None:
            listener.join(_GROUP_END_S)
        lived_s = round(time.monotonic() - begun, 1)
        self._log.event("child_ended", child=self._name, pid=process.pid, code=code, lived_s=lived_s)

    def _launch(self) -> "subprocess.Popen[bytes]":
        tied = [sys.executable, "-I", "-S", child_launcher.__file__, str(os.getpid()), self._user, *self._command()]
        return subprocess.Popen(
            tied,
            env=self._environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self._output is not None else None,
            stderr=subprocess.STDOUT if self._output is not None else None,
            start_new_session=True,
        )

    def _listen(self, process: "subprocess.Popen[bytes]") -> threading.Thread | None:
        if self._output is None or process.stdout is None:
            return None
        taken = threading.Thread(target=self._output.take, args=(process.stdout,), daemon=True)
        taken.start()
        return taken

    def _signal(self, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process is not None:
                os.killpg(self._process.pid, number)


class OutputFile:
    """A file that takes what a process writes, and begins anew at a size limit; one older file is kept beside it.

    Args:
        path: its folder belongs to this process's user; `path`.1 is the older file.
        limit_bytes: largest size of either.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, limit_bytes: int = 4 * 1024 * 1024) -> None:
        self._path, self._limit_bytes = path, limit_bytes
        try:
            os.close(self._open())
        except OSError as error:
            found = error.strerror or type(error).__name__
            raise StorageError(f"{path} cannot be written", found=found, remedy="check its folder's owner") from None

    def take(self, stream: IO[bytes]) -> None:
        """Append everything until the stream's end. What a full disk does not take is dropped: nobody waits for it."""
        with stream:
            while piece := os.read(stream.fileno(), _PIECE_BYTES):
                with contextlib.suppress(OSError):
                    self._append(_plain(piece))

    def _append(self, piece: bytes) -> None:
        descriptor = self._open()
        try:
            if os.fstat(descriptor).st_size + len(piece) > self._limit_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                os.close(descriptor)
                descriptor = self._open()
            os.write(descriptor, piece)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)


def _plain(piece: bytes) -> bytes:
    """Without colours, and with each state of a bar on a line of its own; a sequence that is cut in two may stay."""
    return _ESCAPES.sub(b"", piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _identity(run_as: int | None) -> dict[str, str]:
    """What the environment says of the user, who must be one of this machine, and one that this process may become."""
    if run_as is None:
        return {}
    try:
        entry = pwd.getpwuid(run_as)
    except KeyError:
        raise ConfigError("this machine has no such user", found=str(run_as), remedy="make it first") from None
    if os.geteuid() != 0:
        raise ConfigError(f"only root can start a process as {entry.pw_name}", remedy="start this as root")
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def _await_group(group: int) -> None:
    """Wait until the killed members of a group are gone; a number alone is no reason to wait for long."""
    deadline = time.monotonic() + _GROUP_END_S
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.01)
