"""Flower's SuperNode ends as a whole when a part of it has ended: otherwise nobody would start another."""

import os
import signal
from pathlib import Path

import pytest

from tests.client.nodes import supernode
from tests.commands import site, yoriai
from tests.deploy.processes import children_of, wait_until
from tests.tls import Issuer, https
from yoriai.client.folder.site_folder import SiteFolder

WAIT_S = 120.0


@pytest.fixture
def north(tmp_path: Path) -> SiteFolder:
    """A site that is to be told where its server is."""
    folder = site(tmp_path / "north", "north")
    (tmp_path / "ca.crt").write_bytes((issuer := Issuer.make()).pem)
    issuer.server(tmp_path / "server.pem")
    assert yoriai("site", "enrol", folder, "--server-ca", tmp_path / "ca.crt", "--yes").code == 0
    return SiteFolder(folder)


@pytest.mark.parametrize("fails", ["pull-messages", "send-node-heartbeat"])
def test_it_ends_with_any_of_its_threads(north: SiteFolder, tmp_path: Path, fails: str) -> None:
    """Which thread asks first is chance, and an empty answer may end another one before: each start must end."""
    with https(tmp_path / "server.pem") as server:
        calls = ("activate-node", "pull-messages", "send-node-heartbeat")
        server.statuses = {f"/v1/fleet/{call}": 500 if call == fails else 200 for call in calls}
        for _ in range(8):
            with supernode(north, f"localhost:{server.port}") as process:
                process.wait(WAIT_S)
            if f"POST /v1/fleet/{fails}" in server.seen:
                return
    pytest.fail(f"{fails} was never asked for")


def test_it_ends_with_its_executor(north: SiteFolder) -> None:
    with supernode(north, "localhost:1") as process:
        wait_until(lambda: bool(children_of(process.pid, "executor.py")), WAIT_S, "it has no executor")
        assert process.poll() is None
        os.kill(children_of(process.pid, "executor.py")[0], signal.SIGKILL)
        process.wait(WAIT_S)
        assert "the SuperNode's executor has ended" in process.stdout.read()


def test_its_executor_ends_with_it(north: SiteFolder) -> None:
    with supernode(north, "localhost:1") as process:
        wait_until(lambda: bool(children_of(process.pid, "executor.py")), WAIT_S, "it has no executor")
        (executor,) = children_of(process.pid, "executor.py")
        process.kill()
        wait_until(lambda: not Path(f"/proc/{executor}/exe").exists(), WAIT_S, "its executor lives on")


def test_flower_starts_no_program_of_its_own_for_a_message(north: SiteFolder) -> None:
    with supernode(north, "localhost:1") as process:
        wait_until(lambda: catches(process.pid, signal.SIGTERM), WAIT_S, "it has not started")
        assert not children_of(process.pid, "flower-superexec")


def test_it_ends_well_when_it_is_told_to(north: SiteFolder) -> None:
    with supernode(north, "localhost:1") as process:
        wait_until(lambda: catches(process.pid, signal.SIGTERM), WAIT_S, "it hears no SIGTERM")
        process.terminate()
        assert process.wait(WAIT_S) == 0


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal, as the kernel knows it."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)
