"""Real daemons in processes of their own, forked from one that has loaded the model libraries, which takes seconds."""

import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.client.daemon.daemon_config import DaemonConfig
from yoriai.config import SiteConfig, SpeedSection
from yoriai.errors import YoriaiError
from yoriai.system.log import EventLog

MARKER = "swordfish"
# Longer than a busy machine takes for anything here, and shorter than what is to hang: no test waits for so long.
WAIT_S = 120.0
FOR_EVER_S = 1000.0


def context() -> ForkServerContext:
    """Where processes come from."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["yoriai.client.daemon.daemon", "yoriai.client.daemon.daemon_site"])
    return made


def stub_config(home: Path, site: SiteConfig) -> DaemonConfig:
    """A daemon without a base, all of whose places lie in one folder."""
    return DaemonConfig(
        site=site,
        base="none",
        data=home / "data",
        ledgers=home / "ledgers",
        witnesses=home / "elsewhere",
        socket=home / "run" / "daemon.sock",
        dataset="north",
        speed=SpeedSection(threads=1, physical_batch_size=8, device="cpu"),
    )


class StubSite:
    """A site without a model: what it does stands in the message. A file `released` beside its ledger ends a wait."""

    def __init__(self, config: DaemonConfig, checkpoint: Callable[[], None]) -> None:
        self._closed, self._released = config.ledgers / "closed", config.ledgers / "released"
        self._checkpoint, self._at_work = checkpoint, 0
        self._later_s = 0.0

    def handle(self, data: bytes) -> bytes:
        """Wait to be released, hang, fail, tell of the process, or give the message back."""
        self._at_work += 1
        try:
            return self._handled(data)
        finally:
            self._at_work -= 1

    def _handled(self, data: bytes) -> bytes:
        verb, _, value = data[:40].partition(b" ")
        self._later_s = float(value) if verb == b"later" else 0.0
        if verb == b"wait":
            while not self._released.exists():
                self._checkpoint()
                time.sleep(0.01)
        elif verb == b"hang":
            time.sleep(FOR_EVER_S)
        elif verb == b"fail":
            raise RuntimeError(MARKER)
        elif verb == b"process":
            dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
            umask = os.umask(0o077)
            return f"{dumpable} {resource.getrlimit(resource.RLIMIT_CORE)} {umask:o} {self._at_work}".encode()
        return data

    def afterwards(self) -> None:
        """Go on for as long as the last message said."""
        until = time.monotonic() + self._later_s
        while time.monotonic() < until:
            self._checkpoint()
            time.sleep(0.01)

    def budget(self) -> Mapping[str, float]:
        """Some budget."""
        return {"epsilon_budget": 8.0, "spent": 1.0, "left": 7.0, "charged_rounds": 2}

    def close(self) -> None:
        """Leave a mark."""
        self._closed.touch()


def open_stub(config: DaemonConfig, _log: EventLog, checkpoint: Callable[[], None]) -> StubSite:
    """Open a stub, which hangs for no longer than a test has time."""
    from yoriai.client.daemon import message_worker as worker

    worker.ABANDON_S = 0.3
    config.ledgers.mkdir(parents=True, exist_ok=True)
    return StubSite(config, checkpoint)


def open_for_ever(_config: DaemonConfig, _log: EventLog, _checkpoint: Callable[[], None]) -> StubSite:
    """Never get done with loading."""
    while True:
        time.sleep(FOR_EVER_S)


def open_seeded(config: DaemonConfig, log: EventLog, checkpoint: Callable[[], None]) -> Any:
    """Open a real site with known noise, whose steps drag for as long as a file `slow` lies beside its ledgers."""
    from yoriai.client.daemon.daemon_site import open_site

    slow, begun = config.ledgers.parent / "slow", config.ledgers.parent / "begun"

    def on_step(_: int) -> None:
        if slow.exists():
            begun.touch()
            time.sleep(0.2)

    site = open_site(config, log, checkpoint, replace(seeded_hooks(), on_step=on_step))
    logging.getLogger("some.package").warning("it quotes %s", MARKER)
    return site


def seeded_hooks() -> Any:
    """Known noise."""
    from yoriai.client.site.round_trainer import SiteHooks
    from yoriai.privacy.dp.randomness import SeededSource

    return SiteHooks(randomness=lambda run, index: SeededSource(f"{run}:{index}".encode()))


class Daemon:
    """A daemon's process, with some signals ignored from before. Its standard error, the log among it, is a file."""

    def __init__(
        self, config: DaemonConfig, open_site: Callable[..., Any], log: Path, *, ignored: Sequence[int] = ()
    ) -> None:
        self.daemon, self._log = DaemonClient(config.socket, patience_s=WAIT_S), log
        self._process: BaseProcess = context().Process(
            target=_be_daemon, args=(config, open_site, log, ignored), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def ready(self) -> Self:
        """Wait until it has loaded."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and self._process.is_alive():
            try:
                if self.daemon.health()["state"] == "ready":
                    return self
            except YoriaiError:
                time.sleep(0.02)
        raise AssertionError(self.log())

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> int | None:
        """Send a signal, wait for the end, and give the exit code."""
        if number is not None and self._process.is_alive():
            self.send(number)
        self._process.join(WAIT_S)
        return self._process.exitcode

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text() if self._log.exists() else ""

    def __enter__(self) -> Self:
        return self.ready()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)


def refused(config: DaemonConfig, open_site: Callable[..., Any], log: Path) -> str:
    """The last line of a daemon that ends by itself with an error."""
    daemon = Daemon(config, open_site, log)
    try:
        assert daemon.end(None) == 1, daemon.log()
    finally:
        daemon.end(signal.SIGKILL)
    return daemon.log().splitlines()[-1]


def identity_of(consortium: Path, name: str) -> Any:
    """The identity of a consortium's site."""
    from yoriai.client.site_identity import SiteIdentity
    from yoriai.privacy.identity.roster import RosterMemory
    from yoriai.privacy.statements.instruction import SequenceMemory
    from yoriai.simulations.scenarios.consortium import Consortium

    found = Consortium(consortium)
    memory = RosterMemory(consortium / "sites" / f"{name}.seen")
    taken = SequenceMemory(consortium / "sites" / f"{name}.coordinator.seen")
    return SiteIdentity(found.key(name), found.certificate(name), found.trust, memory, taken)


def command(arguments: list[str], log: Path) -> None:
    """Be the `yoriai` command in a process of its own, whose output is a file."""
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.exit(run_command(*arguments))


def run_command(*arguments: str) -> int:
    """Be the `yoriai` command here, and give its exit code."""
    from yoriai.cli import app

    try:
        return app(list(arguments), standalone_mode=False) or 0
    except YoriaiError as error:
        return error.exit_code


def _be_daemon(config: DaemonConfig, open_site: Callable[..., Any], log: Path, ignored: Sequence[int]) -> None:
    from yoriai.client.daemon.daemon import run

    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        run(config, EventLog(sys.stderr, as_json=True), open_site)
    except YoriaiError as error:
        sys.exit(f"error: {error}")


def asked_as(uid: int, gid: int, socket: Path) -> str:
    """What a daemon's health says to another user of this machine, in a process of theirs."""
    made = context()
    receiving, sending = made.Pipe(duplex=False)
    process = made.Process(target=_ask_as, args=(uid, gid, socket, sending), daemon=True)
    process.start()
    try:
        assert receiving.poll(WAIT_S)
        return str(receiving.recv())
    finally:
        process.join(WAIT_S)


def _ask_as(uid: int, gid: int, socket: Path, sending: Any) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    try:
        sending.send(repr(DaemonClient(socket).health()))
    except YoriaiError as error:
        sending.send(str(error))
