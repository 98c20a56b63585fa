"""How the process that keeps a server ends. Jobs and sites are the deployment tests'."""

import ctypes
import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import server
from tests.deploy.processes import Program, children_of, free_port, wait_until
from tests.server.faulty import BASE_DIGEST, initial_adapter, small_job
from yoriai.prepared_job import PreparedJob
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.service.keeper import Keeper
from yoriai.server.service.keeper_lock import keeper_of
from yoriai.system.log import EventLog


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Program]:
    """A server that was started, whose SuperLink is a process by now."""
    folder = server(tmp_path / "server", "--control-port", free_port())
    with heeded(signal.SIGINT, signal.SIGHUP):
        program = Program.yoriai("server", "start", folder, log=tmp_path / "log")
    try:
        wait_until(lambda: "child_started" in program.said(), 60.0, program.said)
        assert keeper_of(ServerFolder(folder).run) is not None
        yield program
        assert keeper_of(ServerFolder(folder).run) is None
    finally:
        program.stop()


@contextmanager
def heeded(*numbers: signal.Signals) -> Iterator[None]:
    """Signals as a terminal's programs have them, for those that are started meanwhile: nohup ignores some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def threads_of(pid: int) -> set[int]:
    return {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()}


def ends_well(program: Program) -> bool:
    """Whether it ends of itself, takes the SuperLink along, and says so."""
    wait_until(lambda: not program.is_alive, 60.0, program.said)
    return program.stop() == 0 and program.said().splitlines()[-1].endswith("stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server_and_its_superlink(kept: Program, number: signal.Signals) -> None:
    (superlink,) = children_of(kept.pid, "superlink.py")[:1]
    os.kill(kept.pid, number)
    assert ends_well(kept)
    assert not Path(f"/proc/{superlink}").exists()


def test_a_signal_that_another_thread_than_the_main_one_gets_ends_the_server(kept: Program) -> None:
    others = threads_of(kept.pid) - {kept.pid}
    assert ctypes.CDLL(None, use_errno=True).tgkill(kept.pid, min(others), signal.SIGTERM) == 0
    assert ends_well(kept)


def test_the_log_says_that_a_job_is_over_once(tmp_path: Path) -> None:
    said = io.StringIO()
    keeper = Keeper(ServerFolder(server(tmp_path / "server")), EventLog(said, as_json=True))
    prepared = PreparedJob(small_job(), BASE_DIGEST, initial_adapter().to_bytes(), 1.0)
    job = keeper._jobs.submit(prepared, b"")
    for phase in ("queued", "finished", "finished"):
        job.change(phase=phase)
        keeper._say_what_ended(keeper._jobs.live())
    over = [event for event in map(json.loads, said.getvalue().splitlines()) if event["event"] == "job_over"]
    assert [(event["job"], event["phase"]) for event in over] == [(job.run_id, "finished")]
