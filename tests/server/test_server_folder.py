"""`server init` and its folder: what is written, asked and refused, and that systemd and Flower take it."""

import os
import pwd
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.commands import Outcome, server, yoriai
from tests.crashes import survives
from tests.system import needed
from yoriai.config import ServerConfig, load_server, parse_server, server_of, server_to_toml
from yoriai.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_REFUSED, ConfigError
from yoriai.flower import environment
from yoriai.privacy.identity.signing_key import read_key
from yoriai.server.folder.server_files import rendered
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.folder.server_setup import make_server
from yoriai.server.folder.tls import KeyPair, issue, make_authority

NOW = datetime.now(UTC)
CONFIG = ServerConfig(name="office", hosts=("server.example.org",))


def init(folder: Path, *options: object, answers: str = "") -> Outcome:
    return yoriai("server", "init", folder, *options, answers=answers)


def me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def plant_files(folder: Path, host: str) -> tuple[object, ...]:
    """Options that bring a certificate of the plant's own CA."""
    authority = make_authority("plant", now=NOW)
    pair = issue(authority, [host], now=NOW)
    for name, data in (("plant.crt", pair.certificate), ("plant.key", pair.key), ("root.crt", authority.certificate)):
        (folder / name).touch(0o600)
        (folder / name).write_bytes(data)
    return ("--certificate", folder / "plant.crt", "--key", folder / "plant.key", "--ca", folder / "root.crt")


# Settings.


def test_init_writes_what_was_answered_with_every_setting_explained(tmp_path: Path) -> None:
    done = init(tmp_path / "s", answers="office\nserver.example.org, 10.1.2.3\n443\n\nyoriai\n")
    assert done.code == 0
    config = load_server(tmp_path / "s" / "server.toml")
    assert (config.name, config.hosts) == ("office", ("server.example.org", "10.1.2.3"))
    assert (config.port, config.control_port, config.user) == (443, 9093, "yoriai")
    assert (tmp_path / "s" / "server.toml").read_text().count("\n# ") > 12


def test_a_written_server_reads_as_it_was() -> None:
    config = ServerConfig(
        name="n", hosts=("a.example", "::1"), port=1, control_port=2, metrics_port=3, body_limit_mib=7
    )
    assert parse_server(server_to_toml(config)) == config


def test_init_asks_again_after_a_wrong_answer_and_says_why(tmp_path: Path) -> None:
    done = init(tmp_path / "s", answers="../x\noffice\n*.example.org\nhost\nmany\n70000\n9093\n443\n443\n\n\n")
    assert done.code == 0
    for said in (
        "--name is not valid",
        "--host is neither a host's name nor an IP address",
        "--port has the wrong type",
        "--port is out of range",
        "--control-port is port too",
    ):
        assert said in done.screen
    config = load_server(tmp_path / "s" / "server.toml")
    assert (config.hosts, config.port, config.control_port) == (("host",), 443, 9093)


def test_init_without_questions_names_what_it_needs_and_every_fault(tmp_path: Path) -> None:
    done = init(tmp_path / "s", "--yes", "--name", "office")
    assert (done.code, "add --host" in done.screen) == (EXIT_BAD_INPUT, True)
    done = init(tmp_path / "s", "--yes", "--name", "a b", "--host", "a_b", "--user", "Root", "--port", 0)
    assert done.code == EXIT_BAD_INPUT
    assert all(f"  {option} is" in done.screen or option in done.screen for option in ("--name", "--user", "--port"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("host", ["", "a b", "a..b", "-a.b", "0.0.0.0", "::", "fe80::1%eth0", "1.2.3", "a;b", "x" * 64])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="hosts"):
        parse_server(server_to_toml(CONFIG).replace("server.example.org", host))


@pytest.mark.parametrize(
    "change",
    [
        ("port = 9092", "port = 9093"),
        ("metrics_port = 0", "metrics_port = 9092"),
        ("control_port = 9093", "control_port = 9092"),
    ],
)
def test_two_things_cannot_have_one_port(change: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="is port too"):
        parse_server(server_to_toml(CONFIG).replace(*change))


def test_a_port_that_only_a_default_has_is_taken_too() -> None:
    with pytest.raises(ConfigError, match="--control-port is port too"):
        server_of({"name": "office", "hosts": ["a"], "port": 9093}, {"control_port": "--control-port"})


def test_a_server_file_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    folder = server(tmp_path / "s")
    text = (folder / "server.toml").read_text()
    (folder / "server.toml").write_text(text.replace("schema = 1", "schema = 2"))
    done = yoriai("server", "enrol", folder)
    assert (done.code, "this Yoriai reads schema 1; found 2" in done.screen) == (EXIT_BAD_INPUT, True)


# The folder.


def test_init_interrupted_writes_nothing(tmp_path: Path) -> None:
    done = init(tmp_path / "s", answers="office\n")
    assert (done.code, "nothing was written" in done.screen) == (EXIT_INTERRUPTED, True)
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_not_made_twice_nor_over_other_things(tmp_path: Path) -> None:
    folder = server(tmp_path / "s")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = init(folder, "--name", "other", "--host", "a", "--yes")
    assert (done.code, "exists" in done.screen) == (EXIT_BAD_INPUT, True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "data").write_text("x")
    assert "is in use" in init(tmp_path, "--name", "other", "--host", "a", "--yes").screen


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    steps = 0
    while not survives(steps, lambda path: make_server(path, CONFIG, None, now=NOW), tmp_path / f"s{steps}"):
        path = tmp_path / f"s{steps}"
        assert not path.exists() or load_server(path / "server.toml") == CONFIG
        steps += 3
    assert steps > 20


def test_nothing_private_is_ever_open_to_others(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        folder = server(tmp_path / "s", *plant_files(tmp_path, "127.0.0.1"))
    finally:
        os.umask(umask)
    paths = [folder, *folder.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    keys = [path for path in paths if path.suffix == ".key"]
    assert sorted(path.name for path in keys) == ["ca.key", "coordinator.key", "public.key", "server.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    read_key(folder / "keys" / "coordinator.key")


def test_a_path_that_nginx_or_systemd_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    for name in ("a b", "a;b", "a$b", "a%b", 'a"b', "a{b", "a#b", "a\nb"):
        done = init(tmp_path / name, "--name", "office", "--host", "a", "--yes")
        assert (done.code, "choose another folder" in done.screen) == (EXIT_BAD_INPUT, True)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_written_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert init(Path("../s"), "--name", "office", "--host", "a", "--yes").code == 0
    for file in ("nginx/yoriai.conf", "systemd/yoriai-server.service", "flower/config.toml"):
        text = (tmp_path / "s" / file).read_text()
        assert f"{tmp_path}/s" in text
        assert ".." not in re.sub(r"#.*", "", text)


def test_all_is_handed_over_to_the_user_that_the_server_runs_as(tmp_path: Path) -> None:
    user = "nobody" if os.geteuid() == 0 else me()
    outside = tmp_path / "outside"
    outside.write_text("root's own")
    folder = server(tmp_path / "s", "--user", user)
    (folder / "log" / "link").symlink_to(outside)
    done = yoriai("server", "enrol", folder)
    assert (done.code, "chown" in done.screen) == (0, False)
    assert {path.owner() for path in [folder, *folder.rglob("*")] if not path.is_symlink()} == {user}
    assert outside.stat().st_uid == os.geteuid()


def test_a_user_that_is_not_there_yet_is_named_with_what_to_do(tmp_path: Path) -> None:
    done = init(tmp_path / "s", "--name", "office", "--host", "a", "--user", "no-such-user-here", "--yes")
    assert done.code == 0
    assert f"chown -R no-such-user-here: {tmp_path / 's'}" in done.screen
    assert "systemd-sysusers" in done.screen


# Certificates.


def test_the_plants_own_certificate_takes_the_public_side_alone(tmp_path: Path) -> None:
    options = plant_files(tmp_path, "127.0.0.1")
    folder = ServerFolder(server(tmp_path / "s", *options))
    site = folder.nginx_site.read_text()
    assert f"ssl_certificate {folder.path}/tls/public.crt;" in site
    assert f"ssl_certificate_key {folder.path}/tls/public.key;" in site
    assert f"proxy_ssl_trusted_certificate {folder.tls_ca};" in site
    assert folder.public_ca.read_bytes() == (tmp_path / "root.crt").read_bytes()
    flower = tomllib.loads((folder.flower_home / "config.toml").read_text())["superlink"]["yoriai"]
    assert flower["root-certificates"] == str(folder.tls_ca)


def test_a_brought_certificate_that_sites_would_refuse_makes_no_folder(tmp_path: Path) -> None:
    options = plant_files(tmp_path, "other.example.org")
    done = init(tmp_path / "s", "--name", "office", "--host", "server.example.org", *options, "--yes")
    assert (done.code, "would refuse the certificate for server.example.org" in done.screen) == (EXIT_REFUSED, True)
    assert not (tmp_path / "s").exists()


def test_what_is_brought_for_the_public_side_is_brought_whole(tmp_path: Path) -> None:
    done = init(tmp_path / "s", "--name", "o", "--host", "a", *plant_files(tmp_path, "a")[:4], "--yes")
    assert (done.code, "--certificate, --key and --ca go together" in done.screen) == (EXIT_BAD_INPUT, True)


def test_renewal_gives_a_new_certificate_for_the_settings_hosts_from_the_same_ca(tmp_path: Path) -> None:
    folder = ServerFolder(server(tmp_path / "s"))
    ca, first, key = (path.read_bytes() for path in (folder.tls_ca, folder.tls_certificate, folder.coordinator_key))
    text = folder.settings.read_text()
    text = text.replace('hosts = ["127.0.0.1"]', 'hosts = ["new.example.org", "::1"]')
    folder.settings.write_text(text.replace("port = 9092", "port = 444", 1))
    done = init(folder.path, "--renew")
    assert (done.code, "valid until" in done.screen) == (0, True)
    assert (folder.tls_ca.read_bytes(), folder.coordinator_key.read_bytes()) == (ca, key)
    assert folder.tls_certificate.read_bytes() != first
    issue(KeyPair(ca, folder.tls_ca_key.read_bytes()), ["x"], now=NOW)
    assert "listen 444 ssl;" in folder.nginx_site.read_text()
    assert "listen [::]:444 ssl;" in folder.nginx_site.read_text()


def test_renewal_takes_settings_from_the_file_only(tmp_path: Path) -> None:
    done = init(server(tmp_path / "s"), "--renew", "--port", 443)
    assert (done.code, "found --port; change them there" in done.screen) == (EXIT_BAD_INPUT, True)
    done = init(tmp_path / "none", "--renew")
    assert (done.code, "is not the folder of a server" in done.screen) == (EXIT_BAD_INPUT, True)


# systemd and Flower.


def test_systemd_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    # The unit's user is to be there when it is verified; here that is whoever runs the test.
    folder = ServerFolder(server(tmp_path / "s", "--user", me()))
    done = subprocess.run(
        [needed("systemd-analyze", "systemd"), "verify", "--man=no", str(folder.unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Other units of the machine may have faults of their own.
    complaints = [line for line in done.stderr.splitlines() if "yoriai" in line]
    assert (complaints, done.returncode) == ([], 0)


def test_the_unit_starts_this_yoriai_as_the_servers_user_and_writes_nowhere_else(tmp_path: Path) -> None:
    unit = rendered(Path("/srv/yoriai"), CONFIG, brought=False)["systemd/yoriai-server.service"].splitlines()
    assert f"ExecStart={Path(sys.executable).parent}/yoriai server start /srv/yoriai --log-json" in unit
    for line in ("User=yoriai-server", "ProtectSystem=strict", "NoNewPrivileges=yes",
                 "CapabilityBoundingSet=", "Restart=always", "UMask=0077", "IPAddressDeny=any"):  # fmt: skip
        assert line in unit
    (written,) = [line for line in unit if line.startswith("ReadWritePaths=")]
    assert written.removeprefix("ReadWritePaths=").split() == [
        f"/srv/yoriai/{n}" for n in ("flower", "jobs", "versions", "run", "log")
    ]


def test_a_unit_still_finds_its_folder_at_home_and_in_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr/lib/yoriai")
    monkeypatch.setattr(sys, "base_prefix", "/usr")

    def unit(place: str) -> str:
        return rendered(Path(place), CONFIG, brought=False)["systemd/yoriai-server.service"]

    assert all(line in unit("/srv/yoriai") for line in ("ProtectHome=yes\n", "PrivateTmp=yes\n"))
    assert "ProtectHome=read-only\n" in unit("/home/me/yoriai")
    assert "PrivateTmp" not in unit("/tmp/yoriai")


def test_systemd_would_make_the_servers_user(tmp_path: Path) -> None:
    folder = ServerFolder(server(tmp_path / "s", "--user", "no-such-user-here"))
    command = [needed("systemd-sysusers", "systemd"), "--dry-run", str(folder.sysusers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no-such-user-here" in done.stdout + done.stderr


@pytest.mark.xfail(find_spec("yoriai.server.flower_app") is None, reason="comes with `server start`", strict=True)
def test_flower_builds_the_bundle_and_it_carries_no_code(tmp_path: Path) -> None:
    folder = ServerFolder(server(tmp_path / "s"))
    (folder.bundle / "stray.py").write_text("raise SystemExit")
    (tmp_path / "home").mkdir()
    command = [str(Path(sys.executable).parent / "flwr"), "build", "--app", str(folder.bundle)]
    settings = environment(tmp_path / "home")
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [fab] = tmp_path.glob("yoriai.yoriai-job.*.fab")
    with zipfile.ZipFile(fab) as opened:
        assert sorted(opened.namelist()) == [".info/CONTENT", "pyproject.toml"]
        app = tomllib.loads(opened.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "yoriai.server.flower_app:app",
        "clientapp": "yoriai.server.flower_app:app",
    }
    assert app["config"] == {"job": ""}


def test_flower_reads_where_its_superlink_is(tmp_path: Path) -> None:
    folder = ServerFolder(server(tmp_path / "s", "--control-port", 9555))
    code = "from flwr.cli.flower_config import read_superlink_connection as read; c = read()"
    code += "; print(c.name, c.address, c.insecure)"
    settings = environment(folder.flower_home)
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["yoriai", "127.0.0.1:9555", "False"]


def test_a_server_certificate_ends_later_than_two_years(tmp_path: Path) -> None:
    folder = ServerFolder(server(tmp_path / "s"))
    pair = KeyPair(folder.tls_certificate.read_bytes(), folder.tls_key.read_bytes())
    assert pair.expires > datetime.now(UTC) + timedelta(days=800)


@pytest.mark.parametrize(("address", "said"), [("192.0.2.7", "192.0.2.7:9092"), ("2001:db8::7", "[2001:db8::7]:9092")])
def test_nginx_listens_on_the_address_that_the_settings_name_and_no_other(
    tmp_path: Path, address: str, said: str
) -> None:
    folder = ServerFolder(server(tmp_path / "s"))
    assert "listen 9092 ssl;" in folder.nginx_site.read_text()
    folder.settings.write_text(folder.settings.read_text().replace('listen = ""', f'listen = "{address}"'))
    assert init(folder.path, "--renew").code == 0
    lines = [line.strip() for line in folder.nginx_site.read_text().splitlines() if line.strip().startswith("listen ")]
    assert lines == [f"listen {said} ssl;"]
