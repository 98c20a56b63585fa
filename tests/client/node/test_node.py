"""A site's SuperNode: how it is started, as whom, and what is refused before it is."""

import io
import os
import pwd
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.commands import site, yoriai
from tests.tls import Issuer
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.folder.server_ca import installed_ca
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node import node
from yoriai.client.node import site_start as starting
from yoriai.client.node.node import check_ready, node_command, node_environment
from yoriai.client.node.site_start import Users, refuse_same, users_of
from yoriai.config import SiteConfig, load_site
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, ConfigError
from yoriai.system.log import EventLog

ROOT = os.geteuid() == 0


@pytest.fixture
def north(tmp_path: Path) -> SiteFolder:
    """A site that knows a server."""
    folder = site(tmp_path / "north", "north")
    settings = (folder / "site.toml").read_text().replace('address = ""', 'address = "example.org:9092"')
    (folder / "site.toml").write_text(settings)
    return SiteFolder(folder)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes(Issuer.make().pem)
    return tmp_path / "ca.crt"


def through(north: SiteFolder, proxy: str) -> SiteConfig:
    text = north.settings.read_text().replace('proxy = ""', f'proxy = "{proxy}"')
    north.settings.write_text(text)
    return load_site(north.settings)


def test_the_supernode_knows_server_ca_key_and_socket_and_listens_on_loopback_alone(north: SiteFolder) -> None:
    line = node_command(north, north.config())
    options = dict(zip(line[5::2], line[6::2], strict=True))
    assert (line[0], Path(line[2]).name) == (sys.executable, "supernode.py")
    assert line[3:5] == ["0.2", "3.0"]  # Its pauses.
    assert options.pop("--port").isdigit()
    assert options == {
        "--superlink": "example.org:9092",
        "--root-certificates": str(north.path / "node" / "server-ca.crt"),
        "--auth-supernode-private-key": str(north.path / "node" / "node.key"),
        "--node-config": f'daemon-socket="{socket_in(north.path)}"',
        "--host": "127.0.0.1",
    }


def test_a_port_that_is_taken_is_not_chosen(north: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_PORTS", range(20_000, 20_002))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 20_000))
        assert {node_command(north, north.config())[-1] for _ in range(20)} == {"20001"}


def test_a_path_that_flowers_settings_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quotation mark"):
        node_command(SiteFolder(tmp_path / 'a"b'), SiteConfig(name="n"))


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "http_proxy", "NO_PROXY"])
def test_the_proxy_is_the_settings_whatever_the_environment_says(
    north: SiteFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://elsewhere:1")
    assert "http://elsewhere:1" not in node_environment(north, north.config()).values()
    found = node_environment(north, through(north, "http://proxy:8080"))
    assert {key: value for key, value in found.items() if key.lower().endswith("_proxy")} == {
        "HTTPS_PROXY": "http://proxy:8080"
    }


def test_what_roots_session_holds_reaches_no_bundle(
    north: SiteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the SuperNode's own environment nor that of its keeper, which the SuperNode's user may read."""
    for name in ("GITHUB_TOKEN", "SSH_AUTH_SOCK", "LD_PRELOAD", "HTTPS_PROXY", "ANYTHING"):
        monkeypatch.setenv(name, "secret")
    kept: dict[str, Mapping[str, str]] = {}
    monkeypatch.setattr(starting, "Supervisor", lambda name, _, environment, **__: kept.update({name: environment}))
    monkeypatch.setattr(starting, "wake_up_call", None)
    with pytest.raises(TypeError):
        starting.keep_both(north, Users(os.geteuid(), os.geteuid()), EventLog(io.StringIO()))
    for found in (node_environment(north, north.config()), kept["node"]):
        assert "secret" not in found.values()
        assert found["HOME"] == os.environ["HOME"]
    monkeypatch.setenv("YORIAI_PASS_ENV", "LD_PRELOAD HTTPS_PROXY")
    assert {k for k, v in node_environment(north, north.config()).items() if v == "secret"} == {"LD_PRELOAD"}


def test_flowers_own_files_lie_in_the_nodes_folder(north: SiteFolder) -> None:
    found = node_environment(north, north.config())
    assert (found["FLWR_HOME"], found["FLWR_TELEMETRY_ENABLED"]) == (str(north.path / "node" / "flower"), "0")


def test_what_is_missing_is_named_with_its_remedy(north: SiteFolder) -> None:
    with pytest.raises(ConfigError, match=r"CA of the server's certificate.*--server-ca ca.crt"):
        check_ready(north, north.config())
    with pytest.raises(ConfigError, match="knows no server"):
        check_ready(north, SiteConfig(name="n"))
    north.node_key.unlink()
    with pytest.raises(ConfigError, match=r"SuperNode's key.*yoriai site enrol"):
        check_ready(north, north.config())


# The CA of the server's TLS


def test_the_servers_ca_is_installed_by_itself_and_its_fingerprint_shown(north: SiteFolder, ca: Path) -> None:
    done = yoriai("site", "enrol", north.path, "--server-ca", ca, "--yes")
    assert done.code == 0
    digest = installed_ca(north, now=datetime.now(UTC)).fingerprints[0].hex()
    assert digest in "".join(done.screen.split())
    assert not (north.path / "trust" / "authority.der").exists()


@pytest.mark.parametrize(
    ("kind", "word"), [("server", "no CA's"), ("text", "cannot be read"), ("old", "not valid today")]
)
def test_what_is_no_ca_of_today_is_refused(north: SiteFolder, tmp_path: Path, kind: str, word: str) -> None:
    path = tmp_path / "given"
    if kind == "server":
        Issuer.make().server(path)
    else:
        path.write_bytes(Issuer.make(days=-1).pem if kind == "old" else b"nothing")
    done = yoriai("site", "enrol", north.path, "--server-ca", path, "--yes")
    assert (done.code, word in done.screen, north.server_ca.exists()) == (EXIT_REFUSED, True, False)


def test_another_ca_of_the_server_is_installed_only_once_its_fingerprint_was_compared(
    north: SiteFolder, ca: Path, tmp_path: Path
) -> None:
    refused = yoriai("site", "enrol", north.path, "--server-ca", ca, answers="n\n")
    assert (refused.code, north.server_ca.exists()) == (EXIT_REFUSED, False)
    assert yoriai("site", "enrol", north.path, "--server-ca", ca, answers="y\n").code == 0
    (tmp_path / "foreign.crt").write_bytes(Issuer.make().pem)
    refused = yoriai("site", "enrol", north.path, "--server-ca", tmp_path / "foreign.crt", answers="n\n")
    assert (refused.code, north.server_ca.read_bytes()) == (EXIT_REFUSED, ca.read_bytes())
    again = yoriai("site", "enrol", north.path, "--server-ca", ca)
    assert (again.code, "read out" in again.screen) == (0, False)


# As whom


def test_the_supernode_is_never_the_daemons_user_or_root_unless_it_is_wanted(north: SiteFolder, ca: Path) -> None:
    assert yoriai("site", "enrol", north.path, "--server-ca", ca, "--yes").code == 0
    for options in ([], ["--only", "node"]):
        done = yoriai("site", "start", north.path, *options)
        assert (done.code, "--same-user" in done.screen) == (EXIT_BAD_INPUT, True)
    for users in (Users(daemon=7, node=7), Users(daemon=7, node=0)):
        with pytest.raises(ConfigError, match="a user of its own"):
            refuse_same(north, users)
    refuse_same(north, Users(daemon=7, node=8))


@pytest.mark.skipif(not ROOT, reason="only root can give folders to others")
def test_root_starts_each_as_the_owner_of_its_folder(north: SiteFolder) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(north.path, 4242, nobody.pw_gid)
    os.chown(north.node, nobody.pw_uid, nobody.pw_gid)
    assert users_of(north, None) == Users(daemon=4242, node=nobody.pw_uid)
    os.chown(north.path, 4242, 4242)
    with pytest.raises(ConfigError, match=r"nobody cannot pass through .*usermod --append"):
        users_of(north, None)
    with pytest.raises(ConfigError, match=r"is not daemon's; chown -R daemon:"):
        users_of(north, "daemon")


def test_a_user_that_is_not_there_is_named(north: SiteFolder) -> None:
    with pytest.raises(ConfigError, match="no such user"):
        users_of(north, "no-such-user-here")


def test_others_than_root_cannot_choose_the_nodes_user(north: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting.os, "geteuid", lambda: 4242)
    with pytest.raises(ConfigError, match="only root can start"):
        users_of(north, "nobody")


def test_one_part_and_another_user_do_not_go_together(north: SiteFolder) -> None:
    done = yoriai("site", "start", north.path, "--only", "node", "--node-user", "nobody")
    assert (done.code, "leave one of the two out" in done.screen) == (EXIT_BAD_INPUT, True)


@pytest.mark.skipif(not ROOT, reason="only root can give folders to others")
def test_root_runs_no_daemon_in_another_users_folder(north: SiteFolder) -> None:
    os.chown(north.path, 4242, 4242)
    done = yoriai("site", "start", north.path, "--only", "daemon")
    assert (done.code, "belongs to user 4242" in done.screen) == (EXIT_BAD_INPUT, True)
    assert not (north.path / "run").exists()
