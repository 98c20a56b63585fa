"""Two users: the SuperNode's, who runs what bundles bring, reads nothing of a real daemon's, and may ask it."""

import os
import pwd
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.client.users import Pair, as_user, asking, daemon_as, memory_of, reading, tracing, two_users
from tests.commands import found, yoriai
from tests.tls import Issuer
from tests.world import save_tiny_base, write_records
from yoriai.client.cli.check import own_check
from yoriai.client.cli.check.site_check import check_site
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node import site_start
from yoriai.errors import EXIT_BAD_INPUT, YoriaiError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make users")


@pytest.fixture(scope="module")
def users() -> Iterator[Pair]:
    with two_users() as pair:
        yield pair


@pytest.fixture(scope="module")
def north(users: Pair) -> Iterator[SiteFolder]:
    """An enrolled site of two users, made by root. Not in pytest's own folder, which no other user may enter."""
    with tempfile.TemporaryDirectory(prefix="yoriai-") as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "records").mkdir(mode=0o700)
        for part in ("train", "test"):
            write_records(home / "records" / f"{part}.jsonl", [{"prompt": "leaks", "response": "pump"}] * 4)
        subprocess.run(["chown", "-R", f"{users.site}:", home / "records"], check=True)
        base = save_tiny_base(home / "base")
        subprocess.run(["chmod", "-R", "a+rX", base], check=True)  # Weights are written for their owner alone.
        office, folder = found(home / "consortium"), home / "site"
        who = ("--user", users.site, "--node-user", users.node)
        places = ("--data", home / "records", "--base", base, "--server", "localhost:1")
        done = yoriai("site", "init", folder, "--name", "north", "--yes", *who, *places)
        assert (done.code, "usermod" in done.screen) == (0, False), done.screen
        assert yoriai("site", "enrol", folder).code == 0
        assert office.run("sign", folder / "north.request", "--yes").code == 0
        assert office.run("roster").code == 0
        (home / "ca.crt").write_bytes(Issuer.make().pem)
        lists = ("--roster", office.folder / "roster", "--revocations", office.folder / "revocations.der")
        trust_files = ("--certificate", office.member("north"), "--authority", office.folder / "authority.der", *lists)
        assert yoriai("site", "enrol", folder, *trust_files, "--server-ca", home / "ca.crt", "--yes").code == 0
        yield SiteFolder(folder)


@pytest.fixture(scope="module")
def daemon(users: Pair, north: SiteFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The real daemon, as its own user: its number, once it has loaded."""
    log = tmp_path_factory.mktemp("daemon") / "log"
    log.touch()
    with daemon_as(users.site, north.path, users.node, log) as daemon:
        deadline = time.monotonic() + 60
        state = ""
        while state != "ready":
            assert time.monotonic() < deadline, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
            time.sleep(0.05)
            try:
                state = str(daemon.health()["state"])
            except YoriaiError:
                continue
        yield daemon.pid()


def test_everything_belongs_to_the_one_or_the_other(users: Pair, north: SiteFolder, daemon: int) -> None:
    site, node = (pwd.getpwnam(name).pw_uid for name in (users.site, users.node))
    owners = {path: path.lstat().st_uid for path in north.path.rglob("*") if north.units not in (path, path.parent)}
    nodes = {path for path in owners if path.is_relative_to(north.node)}
    assert {owners[path] for path in nodes} == {node}
    assert {owners[path] for path in owners.keys() - nodes} == {site}
    assert stat.S_IMODE(north.path.stat().st_mode) == 0o750


PRIVATE = "../records ../records/train.jsonl keys keys/identity.key trust trust/site.cert ledgers adapters witness"


@pytest.mark.parametrize("place", [*PRIVATE.split(), "ledgers/records.sqlite"])
def test_nothing_private_can_be_read_by_the_nodes_user(users: Pair, north: SiteFolder, daemon: int, place: str) -> None:
    path = north.path / place
    assert path.exists()
    assert as_user(users.node, reading, path) == "EACCES"
    assert as_user(users.site, reading, path) == "read"


def test_the_nodes_own_key_and_the_servers_ca_can(users: Pair, north: SiteFolder) -> None:
    assert [as_user(users.node, reading, path) for path in (north.node_key, north.server_ca, north.settings)] == [
        "read"
    ] * 3


def test_the_nodes_user_may_ask_the_daemon_and_learns_no_budget(users: Pair, north: SiteFolder, daemon: int) -> None:
    told = as_user(users.node, asking, socket_in(north.path))
    assert told["hello"]["site"] == "north"
    assert told["health"] == {"state": "ready"}
    assert "budget" in as_user(users.site, asking, socket_in(north.path))["health"]


def test_another_user_does_not_get_as_far_as_the_socket(north: SiteFolder, daemon: int) -> None:
    assert "may not reach the daemon" in as_user("nobody", asking, socket_in(north.path))["error"]


def test_the_daemons_memory_is_closed_to_the_nodes_user_and_even_to_its_own(users: Pair, daemon: int) -> None:
    for user in (users.node, users.site):
        assert as_user(user, memory_of, daemon) == "EACCES"
        assert as_user(user, tracing, daemon) == "EPERM"


def test_the_check_finds_the_two_apart(north: SiteFolder, daemon: int) -> None:
    from datetime import UTC, datetime

    rows = {row.what: row for row in check_site(north, now=datetime.now(UTC), base_of=None)}
    assert {rows[what].mark for what in ("keys", "users", "daemon", "certificate")} == {"ok"}


def test_a_link_that_the_nodes_user_has_put_there_is_given_to_nobody(
    users: Pair, north: SiteFolder, tmp_path: Path
) -> None:
    from yoriai.client.folder.owners import settle

    (tmp_path / "roots").write_text("root's")
    before = north.server_ca.read_bytes()
    for put in (Path.symlink_to, Path.hardlink_to):
        north.server_ca.unlink()
        put(north.server_ca, tmp_path / "roots")
        with suppress(YoriaiError):  # A symbolic link is refused by the system itself.
            settle(north)
        assert (tmp_path / "roots").stat().st_uid == 0
    north.server_ca.unlink()
    north.server_ca.write_bytes(before)
    settle(north)
    assert north.server_ca.stat().st_uid == pwd.getpwnam(users.node).pw_uid


@pytest.mark.parametrize("name", ["keys", "trust", "node"])
def test_a_folder_that_was_replaced_by_a_link_gives_nobody_what_lies_there(
    users: Pair, north: SiteFolder, tmp_path: Path, name: str
) -> None:
    """As the daemon's user could, while root enrols the site."""
    from yoriai.client.folder.owners import settle

    roots = tmp_path / "roots"
    roots.mkdir()
    for file in ("identity.key", "roster", "node.key"):
        (roots / file).write_text("root's")
    place, aside = north.path / name, north.path / "aside"
    place.rename(aside)
    try:
        place.symlink_to(roots)
        with pytest.raises(YoriaiError):
            settle(north)
        place.unlink()
        if name != "node":
            roots.rename(place)
            with pytest.raises(YoriaiError, match="is not the site's own"):
                settle(north)
            place.rename(roots)
        assert {path.stat().st_uid for path in roots.iterdir()} == {0}
    finally:
        place.unlink(missing_ok=True)
        aside.rename(place)


def test_a_new_site_gives_away_no_file_that_has_another_name_elsewhere(users: Pair, tmp_path: Path) -> None:
    from yoriai.client.folder.owners import Names, give, owners_of

    site, secret = SiteFolder(tmp_path / "s"), tmp_path / "shadow"
    owners = owners_of(Names(users.site, users.node), asked_for=True)
    assert owners is not None
    site.node.mkdir(parents=True)
    secret.write_text("root's")
    site.settings.hardlink_to(secret)
    (site.path / "keys").symlink_to(tmp_path)
    with pytest.raises(YoriaiError):
        give(site, tmp_path / "witness", owners)
    (site.path / "keys").unlink()
    give(site, tmp_path / "witness", owners)
    assert (secret.stat().st_uid, tmp_path.stat().st_uid, site.path.stat().st_uid) == (0, 0, owners.site.pw_uid)


def test_users_that_are_not_there_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = yoriai("site", "init", tmp_path / "s", "--name", "n", "--yes", "--user", "no-such-user-here")
    assert (done.code, "no such user" in done.screen, (tmp_path / "s").exists()) == (EXIT_BAD_INPUT, True, False)


_SAYS = """#!/bin/sh
[ "$1 $2" = "site check" ] || exit 0
printf '{"rows": [{"what": "base", "mark": "ok", "found": "%s %s %s %s"}]}' \\
  "$(id -un)" "$YORIAI_CACHE" "$HF_HUB_OFFLINE" "${HF_HOME:-none}"
"""


def command_at(folder: Path, mode: int) -> str:
    """A command in a folder of this mode, which says as whom and with what caches it was run."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "yoriai"
    command.write_text(_SAYS)
    command.chmod(0o755)
    (folder / "bin").chmod(mode)
    return str(command)


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="yoriai-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_roots_check_has_the_daemons_user_look_in_the_daemons_environment(
    users: Pair, north: SiteFolder, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root may read, or has in a cache of its own, ticks nothing."""
    monkeypatch.setattr(own_check, "installed", lambda _: command_at(outside, 0o755))
    monkeypatch.setenv("HF_HOME", "/elsewhere/huggingface")
    monkeypatch.setenv("YORIAI_CACHE", "/elsewhere/yoriai")
    own = own_check.asked_of_daemons_user(north, quick=False)
    assert own is not None
    assert [row.found for row in own()] == [f"{users.site} {north.path}/cache 1 none"]


def test_a_python_that_the_daemons_user_may_not_run_is_a_cross_and_no_traceback(
    users: Pair, north: SiteFolder, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = command_at(outside, 0o700)
    monkeypatch.setattr(own_check, "installed", lambda _: place)
    own = own_check.asked_of_daemons_user(north, quick=True)
    assert own is not None
    (row,) = own()
    assert (row.mark, f"user {users.site} cannot run {place}" in row.found) == ("fail", True)
    monkeypatch.setattr(site_start, "installed", lambda _: place)
    done = yoriai("site", "start", north.path, "--node-user", users.node)
    assert (done.code, f"cannot run {place}" in done.screen, "elsewhere" in done.screen) == (EXIT_BAD_INPUT, True, True)


def test_the_check_names_users_by_their_names(users: Pair, north: SiteFolder) -> None:
    from datetime import UTC, datetime

    row = next(row for row in check_site(north, now=datetime.now(UTC), base_of=None) if row.what == "users")
    assert row.found == f"daemon: {users.site}, SuperNode: {users.node}"
