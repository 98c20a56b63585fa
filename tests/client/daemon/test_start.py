"""`site start` with a server: daemon and Flower's real SuperNode live and crash apart, and end together."""

import fcntl
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.client.daemons import run_command
from tests.commands import site, yoriai
from tests.proxies import tinyproxy
from tests.tls import Issuer, https
from tests.waiting import is_alive, wait_for
from tests.world import write_records
from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.daemon.listener import lock_of
from yoriai.client.daemon.socket_protocol import FrameKind, Line
from yoriai.client.node.node import node_socket_in, node_state
from yoriai.client.node.site_stop import running
from yoriai.errors import EXIT_PARTIAL, YoriaiError

YORIAI = Path(sys.executable).with_name("yoriai")
WAIT_S = 120.0


class Started:
    """A `yoriai site start` in a process of its own."""

    def __init__(self, folder: Path, log: Path, *options: str) -> None:
        self.folder = folder
        line = [YORIAI, "site", "start", folder, "--log-json", "--same-user", *options]
        with log.open("a") as stream:
            self.process = subprocess.Popen(line, stderr=stream, stdin=subprocess.DEVNULL)

    def node(self) -> Mapping[str, Any]:
        """What the node's keeper says."""
        return node_state(self.folder)

    def ready(self) -> "Started":
        """Wait until both answer."""
        wait_for(lambda: self.daemon() and self.node().get("running"))
        return self

    def daemon(self) -> int | None:
        """The daemon's number."""
        return answering(socket_in(self.folder))

    def keeper(self) -> int | None:
        """The number of the node's keeper."""
        return answering(node_socket_in(self.folder))


def answering(socket: Path) -> int | None:
    try:
        return DaemonClient(socket).pid()
    except YoriaiError:
        return None


def told(folder: Path) -> list[tuple[int, str]]:
    """Which processes `site stop` would tell to end."""
    return [(process.holder.pid, process.what) for process in running(folder)]


def children_of(pid: int) -> list[int]:
    """Every process below this one."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for thread in threads for child in thread.read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in children_of(child))]


@pytest.fixture
def north(tmp_path: Path, base_folder: Path) -> Path:
    """A site that knows a server at which nobody listens."""
    folder = site(tmp_path / "s", "north")
    settings = (folder / "site.toml").read_text().replace('address = ""', 'address = "localhost:1"')
    (folder / "site.toml").write_text(settings.replace("smollm2-135m-instruct", str(base_folder)))
    (folder / "data").mkdir()
    for part in ("train", "test"):
        write_records(folder / "data" / f"{part}.jsonl", [{"prompt": "leaks", "response": "pump"}] * 4)
    (tmp_path / "ca.crt").write_bytes(Issuer.make().pem)
    assert yoriai("site", "enrol", folder, "--server-ca", tmp_path / "ca.crt", "--yes").code == 0
    return folder


@pytest.fixture
def both(north: Path, tmp_path: Path) -> Iterator[Started]:
    started = Started(north, tmp_path / "log")
    try:
        yield started.ready()
    finally:
        started.process.kill()
        started.process.wait()


def test_what_crashes_comes_back_without_the_other_and_one_stop_ends_all(
    both: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon, supernode, keeper = wait_for(both.daemon), both.node()["pid"], both.keeper()
    assert run_command("site", "status", str(both.folder), "--json") == 0
    shown = json.loads(capsys.readouterr().out)["node"]
    assert (shown["running"], shown["pid"], shown["restarts"]) == (True, supernode, 0)

    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: both.daemon() not in (None, daemon))
    assert (both.node()["pid"], both.node()["restarts"]) == (supernode, 0)

    daemon = both.daemon()
    os.kill(supernode, signal.SIGKILL)
    wait_for(lambda: both.node()["pid"] not in (None, supernode))
    assert (both.daemon(), both.keeper(), both.node()["restarts"]) == (daemon, keeper, 1)

    assert told(both.folder) == [(both.process.pid, "`site start`")]
    below = children_of(both.process.pid)
    assert len(below) >= 3
    assert run_command("site", "stop", str(both.folder)) == 0
    assert both.process.wait(WAIT_S) == 0
    assert [pid for pid in below if is_alive(pid)] == []
    assert run_command("site", "status", str(both.folder)) == EXIT_PARTIAL


def test_killed_it_takes_all_its_processes_along(both: Started) -> None:
    wait_for(lambda: len(children_of(both.process.pid)) >= 4)  # Flower's own second process among them.
    below = children_of(both.process.pid)
    both.process.kill()
    both.process.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in below))


def test_alone_or_under_systemd_but_never_both(both: Started, tmp_path: Path) -> None:
    for options, told in (([], "started already"), (["--only", "node"], "kept by another process already")):
        second = Started(both.folder, tmp_path / "second", *options)
        assert second.process.wait(WAIT_S) == EXIT_PARTIAL
        assert told in (tmp_path / "second").read_text().splitlines()[-1]
    assert both.node()["running"]


def test_parts_that_were_started_alone_are_stopped_one_by_one(north: Path, tmp_path: Path) -> None:
    node = Started(north, tmp_path / "log", "--only", "node")
    try:
        wait_for(lambda: node.node().get("running"))
        assert told(north) == [(node.process.pid, "the SuperNode's keeper")]
        assert (north / "node" / "supernode.log").stat().st_mode & 0o777 == 0o600
        assert run_command("site", "stop", str(north)) == 0
        assert node.process.wait(WAIT_S) == 0
    finally:
        node.process.kill()
        node.process.wait()


def test_the_real_supernode_takes_the_proxy_of_the_settings_and_the_installed_ca(
    north: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    issuer = Issuer.make()
    (tmp_path / "ca.crt").write_bytes(issuer.pem)
    assert yoriai("site", "enrol", north, "--server-ca", tmp_path / "ca.crt", "--yes").code == 0
    with https(issuer.server(tmp_path / "server.pem")) as server, tinyproxy(tmp_path, server.port) as (port, log):
        text = (north / "site.toml").read_text().replace("localhost:1", f"localhost:{server.port}")
        (north / "site.toml").write_text(text.replace('proxy = ""', f'proxy = "http://127.0.0.1:{port}"'))
        node = Started(north, tmp_path / "log", "--only", "node")
        try:
            wait_for(lambda: any(path.startswith("POST /v1/fleet/") for path in server.seen))
            assert f"CONNECT localhost:{server.port}" in log.read_text()
        finally:
            node.process.terminate()
            assert node.process.wait(WAIT_S) == 0


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_somebody_says_at_the_nodes_socket_ends_no_process(
    north: Path, bystander: "subprocess.Popen[bytes]", capsys: pytest.CaptureFixture[str]
) -> None:
    """An orphan of a bundle listens in the keeper's stead, and names its keeper: nobody is told to end."""
    said = {"site": "\x1b[2Jnorth", "running": True, "pid": bystander.pid, "supervisor": bystander.pid}
    with listening(node_socket_in(north), said):
        assert run_command("site", "stop", str(north)) == EXIT_PARTIAL
        assert bystander.poll() is None
        assert "does not answer as Yoriai does" in node_state(north)["reason"]
    whole = {**said, "server": "s", "version": "1", "restarts": 0, "since": "\x1b]0;x\x07"}
    with listening(node_socket_in(north), whole):
        capsys.readouterr()
        assert run_command("site", "status", str(north)) == EXIT_PARTIAL
        shown = capsys.readouterr().out
        assert ("running as process" in shown, "\x1b" in shown) == (True, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have another user's process")
@pytest.mark.parametrize("lie", ["another user's", "another moment", "the first process", "a link"])
def test_root_ends_no_process_that_the_nodes_user_has_chosen(
    north: Path, bystander: "subprocess.Popen[bytes]", lie: str
) -> None:
    """The lock in node/ is its user's word: it is held, and says what that user likes."""
    nobody = pwd.getpwnam("nobody")
    lock = lock_of(node_socket_in(north))
    os.chown(north / "node", nobody.pw_uid, nobody.pw_gid)
    with subprocess.Popen(["sleep", "60"], user=nobody.pw_uid) as own:
        try:
            victim = {"another user's": bystander.pid, "the first process": 1}.get(lie, own.pid)
            target = north / "elsewhere" if lie == "a link" else lock
            target.write_text(f"{victim} {1 if lie == 'another moment' else started(victim)}")
            os.chown(target, nobody.pw_uid, nobody.pw_gid)
            if lie == "a link":
                lock.symlink_to(target)
            with target.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                assert run_command("site", "stop", str(north), "--timeout", "1") == EXIT_PARTIAL
                assert (bystander.poll(), own.poll()) == (None, None)
                if lie == "another moment":
                    target.write_text(f"{own.pid} {started(own.pid)}")
                    assert run_command("site", "stop", str(north), "--timeout", "10") == 0
                    assert own.wait(WAIT_S) == -signal.SIGTERM
        finally:
            own.kill()


def started(pid: int) -> int:
    """When a process was started, as locks have it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@contextmanager
def listening(path: Path, said: Mapping[str, object]) -> Iterator[None]:
    """Somebody else than Yoriai at a socket, who answers every question so."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_answer_all, args=(listener, dict(said)), daemon=True).start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _answer_all(listener: socket.socket, said: dict[str, object]) -> None:
    with suppress(OSError):
        while True:
            with listener.accept()[0] as connection, suppress(OSError, YoriaiError):
                Line(connection).preamble()
                Line(connection).send_note(FrameKind.ANSWER, said)
