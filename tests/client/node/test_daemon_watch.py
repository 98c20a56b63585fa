"""A SuperNode is on the net only as long as its site's daemon can work; `site status` says what the server thinks."""

import io
import os
import signal
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.client.daemons import Daemon, open_stub
from tests.client.nodes import supernode
from tests.commands import found, server, site, yoriai
from tests.deploy.processes import free_port
from tests.waiting import wait_for
from yoriai.client.cli import daemon_cli
from yoriai.client.cli.membership import NOT_YET, membership_of
from yoriai.client.daemon.daemon_config import DaemonConfig
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node import daemon_watch
from yoriai.client.node.daemon_watch import DaemonWatch, WatchedNode
from yoriai.client.node.node_words import Word, last_word, word_of
from yoriai.config import SiteConfig
from yoriai.flower import environment
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.service.keeper import superlink_command
from yoriai.system.log import EventLog
from yoriai.system.supervisor import Supervisor


def test_a_daemon_that_loads_for_long_or_is_started_again_leaves_its_node_on_the_net() -> None:
    watch = DaemonWatch(0.0)
    assert all(watch.is_well(float(at), 1, "loading") for at in range(0, 3600, 5))
    assert watch.is_well(3600.0, 1, "ready")
    assert all(watch.is_well(3600.0 + at, None, "") for at in range(0, 60, 5))
    assert watch.is_well(3660.0, 2, "loading")
    assert all(watch.is_well(3660.0 + at, 2, "") for at in range(0, 3600, 5))  # Too busy to answer.
    assert watch.is_well(3665.0, 2, "ready")


def test_a_daemon_that_nobody_starts_takes_its_node_off_the_net_until_it_is_ready() -> None:
    watch = DaemonWatch(0.0)
    assert watch.is_well(59.0, None, "")
    assert not watch.is_well(60.0, None, "")
    assert not watch.is_well(65.0, 7, "loading")
    assert watch.is_well(70.0, 7, "ready")


def test_a_daemon_that_dies_again_and_again_before_it_is_ready_takes_its_node_off_the_net() -> None:
    watch = DaemonWatch(0.0)
    seen = [watch.is_well(10.0 * start, pid, "loading") for start, pid in enumerate((1, 2, 3, 4))]
    assert seen == [True, True, False, False]


def test_the_real_watch_ends_the_node_without_a_daemon_and_starts_it_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_watch, "_GONE_S", 0.0)
    (tmp_path / "run").mkdir(mode=0o700)
    config = DaemonConfig(
        site=SiteConfig(name="north"), base="", data=tmp_path, ledgers=tmp_path / "l", witnesses=None,
        socket=tmp_path / "run" / "daemon.sock",
    )  # fmt: skip
    said = io.StringIO()
    log = EventLog(said)
    node = WatchedNode(
        lambda: Supervisor("node", ["/bin/sleep", "1000"], environment={}, log=log), config.socket, log, look_s=0.05
    )
    node.start()
    try:
        wait_for(lambda: node.waits and not node.is_running)
        with Daemon(config, open_stub, tmp_path / "log"):
            wait_for(lambda: node.is_running and not node.waits)
            assert node.restarts == 1
        wait_for(lambda: node.waits and not node.is_running)
    finally:
        node.stop(5.0)
    assert [line.split()[1] for line in said.getvalue().splitlines() if "daemon_is" in line] == [
        "daemon_is_gone",
        "daemon_is_back",
        "daemon_is_gone",
    ]


def test_the_real_superlinks_no_to_a_node_that_it_does_not_know_is_heard(tmp_path: Path) -> None:
    """A member that was revoked is taken out of the SuperLink's nodes, and is one that it does not know."""
    machine = ServerFolder(server(tmp_path / "server"))
    port = free_port()
    text = machine.settings.read_text().replace("control_port = 9093", f"control_port = {port}")
    machine.settings.write_text(text)
    assert machine.config().control_port == port
    folder = site(tmp_path / "north", "north")
    assert yoriai("site", "enrol", folder, "--server-ca", machine.tls_ca, "--yes").code == 0
    log = tmp_path / "superlink.log"
    with (
        log.open("w") as stream,
        subprocess.Popen(
            superlink_command(machine), env=environment(machine.flower_home), stdout=stream, stderr=stream
        ) as superlink,
    ):
        try:
            wait_for(lambda: "Uvicorn running" in log.read_text())
            with supernode(SiteFolder(folder), f"localhost:{port}") as node:
                node.wait(120.0)
                with suppress(ProcessLookupError):
                    os.killpg(node.pid, signal.SIGKILL)  # What it has started holds its output open.
                assert node.stdout is not None
                said = node.stdout.read()
        finally:
            superlink.kill()
    (tmp_path / "said").write_text(said)
    word = last_word(tmp_path / "said")
    assert (word.accepted, "not enrolled there, or revoked" in word.text) == (False, True)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", None),
        ("SuperNode ID: 7\n", True),
        ("SuperNode ID: 7\nFailed to initialize the connection to the SuperLink.\n[code: 2004] Failed to activate "
         "SuperNode.", False),
        ("Failed to initialize the connection to the SuperLink.\nClient error '401 Unauthorized' for url", False),
        ("Failed to initialize the connection to the SuperLink.\n[Errno 111] refused", None),
        ("Failed to initialize the connection to the SuperLink.\n[code: 2004] Failed to activate SuperNode.\n"
         "SuperNode ID: 8", True),
    ],
)  # fmt: skip
def test_the_last_of_the_servers_words_counts(text: str, accepted: bool | None) -> None:
    assert word_of(text).accepted is accepted


def test_the_screen_says_that_the_server_refuses_the_node_or_that_it_waits_for_the_daemon() -> None:
    node = {"reachable": True, "running": False, "since": "then", "restarts": 3, "server": "s:1", "waits": False}
    refused = Word(accepted=False, text="it knows no member by this node's key")
    shown = daemon_cli._node_in_words({**node, "accepted": False, "server_says": refused.text})
    assert "the server: it knows no member" in shown
    assert "until the site's daemon is ready" in daemon_cli._node_in_words({**node, "waits": True})


def test_status_says_whether_the_site_is_a_member_and_a_revoked_one_reads_that_it_is_none(tmp_path: Path) -> None:
    office, folder = found(tmp_path / "consortium"), site(tmp_path / "north", "north")
    north = SiteFolder(folder)
    assert membership_of(north, datetime.now(UTC)) == NOT_YET
    assert office.run("sign", folder / "north.request", "--yes").code == 0
    assert office.run("roster").code == 0
    lists = ("--roster", office.folder / "roster", "--revocations", office.folder / "revocations.der")
    brought = ("--certificate", office.member("north"), "--authority", office.folder / "authority.der", *lists)
    assert yoriai("site", "enrol", folder, *brought, "--yes").code == 0
    assert "membership north in roster 2" in " ".join(yoriai("site", "status", folder).screen.split())
    assert "none that holds" in membership_of(north, datetime.now(UTC) + timedelta(days=1000))
    assert office.run("revoke", "north", "--yes").code == 0
    north.trusted.revocations.write_bytes((office.folder / "revocations.der").read_bytes())
    screen = " ".join(yoriai("site", "status", folder).screen.split())
    assert "none that holds" in screen
    assert "revoked" in screen
