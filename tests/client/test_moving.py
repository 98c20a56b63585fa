"""A site's folder that moved, or came back from a backup; its one cache; and what it leaves behind."""

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.users import Pair, two_users
from tests.commands import site, yoriai
from tests.world import save_tiny_base, write_records
from yoriai.client.cli.uninstall import left_behind
from yoriai.client.folder.daemon_environment import daemon_environment, keep_caches_here
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import EXIT_BAD_INPUT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make users")


@pytest.fixture
def users() -> Iterator[Pair]:
    with two_users() as pair:
        yield pair


def unit_of(folder: Path) -> str:
    return (folder / "systemd" / "yoriai-site-north.service").read_text()


def test_a_moved_folder_gets_units_for_where_it_lies_now(tmp_path: Path) -> None:
    old = site(tmp_path / "old", "north")
    moved = old.rename(tmp_path / "new")
    assert f'"{tmp_path}/old"' in unit_of(moved)
    done = yoriai("site", "init", moved, "--renew")
    assert done.code == 0, done.screen
    text = unit_of(moved)
    assert f'site start "{tmp_path}/new" --only daemon' in text
    assert f'"YORIAI_CACHE={tmp_path}/new/cache"' in text
    assert f"{tmp_path}/old" not in text + (moved / "systemd" / "yoriai-node-north.service").read_text()


def test_a_renewal_keeps_settings_and_keys_and_takes_no_answers(tmp_path: Path) -> None:
    folder = site(tmp_path / "s", "north")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert yoriai("site", "init", folder, "--renew").code == 0
    assert {path: path.read_bytes() for path in before} == before
    done = yoriai("site", "init", folder, "--renew", "--name", "south")
    assert (done.code, "takes its settings from" in done.screen) == (EXIT_BAD_INPUT, True)


def test_what_lies_elsewhere_and_did_not_come_along_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    places = ("--data", tmp_path / "records", "--witness", tmp_path / "disk")
    assert yoriai("site", "init", folder, "--name", "north", *places, "--yes").code == 0
    (tmp_path / "disk").rmdir()
    said = yoriai("site", "init", folder, "--renew").screen
    assert f"there is no {tmp_path}/disk, the second place of the ledgers" in said
    assert f"there is no {tmp_path}/records, the records" in said
    assert not (tmp_path / "disk").exists()


@as_root
def test_a_copy_without_owners_modes_and_empty_folders_is_given_to_the_two_users_again(
    users: Pair, tmp_path: Path
) -> None:
    folder = site(tmp_path / "s", "north")
    shutil.rmtree(folder / "ledgers")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    subprocess.run(["chown", "-R", "12345:12345", folder], check=True)
    done = yoriai("site", "init", folder, "--renew", "--user", users.site, "--node-user", users.node)
    assert done.code == 0, done.screen
    uids = {name: pwd.getpwnam(name).pw_uid for name in (users.site, users.node)}
    own = {path: path.lstat().st_uid for path in folder.rglob("*") if "systemd" not in path.parts}
    nodes = {path for path in own if path.is_relative_to(folder / "node")}
    assert {own[path] for path in nodes} == {uids[users.node]}
    assert {own[path] for path in own.keys() - nodes} == {uids[users.site]}
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in (".", "keys", "ledgers", "node")}
    assert modes == {".": 0o750, "keys": 0o700, "ledgers": 0o700, "node": 0o700}
    again = yoriai("site", "init", folder, "--renew")  # The users are the folder's owners now.
    assert f"User={users.site}\n" in unit_of(folder), again.screen


@as_root
def test_a_renewal_follows_no_link_and_gives_away_no_file_with_a_second_name(users: Pair, tmp_path: Path) -> None:
    folder, secret, elsewhere = site(tmp_path / "s", "north"), tmp_path / "shadow", tmp_path / "elsewhere"
    secret.write_text("root's")
    (elsewhere / "deep").mkdir(parents=True)
    (folder / "node" / "link").symlink_to(secret)
    (folder / "node" / "name").hardlink_to(secret)
    (folder / "jobs" / "folder").symlink_to(elsewhere)
    (folder / "run").symlink_to(elsewhere)
    who = ("--user", users.site, "--node-user", users.node)
    yoriai("site", "init", folder, "--renew", *who)
    assert (secret.stat().st_uid, elsewhere.stat().st_uid, (elsewhere / "deep").stat().st_uid) == (0, 0, 0)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == stat.S_IMODE((elsewhere / "deep").stat().st_mode)


def test_every_cache_of_a_daemon_is_the_sites(tmp_path: Path) -> None:
    here = SiteFolder(tmp_path)
    elsewhere = {"HF_HOME": "/else/hf", "XDG_CACHE_HOME": "/else/cache", "YORIAI_CACHE": "/else/y", "LANG": "C"}
    wanted = {"YORIAI_CACHE": str(here.cache), "XDG_CACHE_HOME": str(here.cache), "LANG": "C"}
    assert daemon_environment(here, elsewhere) == wanted
    keep_caches_here(here, elsewhere)
    assert elsewhere == wanted


def test_a_site_fetches_its_base_and_nothing_of_the_scenarios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yoriai.client.base import assets

    for name in ("YORIAI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "not-here"))
    base, folder, asked = save_tiny_base(tmp_path / "base"), tmp_path / "s", []
    assert yoriai("site", "init", folder, "--name", "north", "--base", base, "--yes").code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "fetch", lambda name, **_: asked.append(name))
        done = yoriai("site", "fetch", folder)
    assert (done.code, "its digest is" in done.screen, asked) == (0, True, [])
    assert not (tmp_path / "not-here").exists()
    text = (folder / "site.toml").read_text().replace(f'model = "{base}"', 'model = "smollm2-135m-instruct"')
    (folder / "site.toml").write_text(text)
    empty = tmp_path / "wheels"
    empty.mkdir()
    done = yoriai("site", "fetch", folder, "--from", empty)
    assert (done.code != 0, "smollm2" in done.screen, "excavator" in done.screen) == (True, True, False)
    assert "yoriai site fetch SITE --from DIR" in done.screen


@as_root
def test_root_fetches_nothing_into_another_users_folder(tmp_path: Path) -> None:
    folder = site(tmp_path / "s", "north")
    os.chown(folder, 1, 1)
    done = yoriai("site", "fetch", folder)
    assert (done.code, f"yoriai site fetch {folder}" in done.screen) == (EXIT_BAD_INPUT, True)
    assert not (folder / "cache").exists()


def test_an_uninstall_lists_units_folder_witness_users_and_removes_nothing(tmp_path: Path) -> None:
    folder, systemd = tmp_path / "s", tmp_path / "systemd"
    systemd.mkdir()
    write_records(tmp_path / "records" / "train.jsonl", [{"prompt": "leaks", "response": "pump"}])
    places = ("--data", tmp_path / "records", "--witness", tmp_path / "disk")
    assert yoriai("site", "init", folder, "--name", "north", *places, "--yes").code == 0
    for kind in ("site", "node"):
        shutil.copy(folder / "systemd" / f"yoriai-{kind}-north.service", systemd)
    before = sorted(tmp_path.rglob("*"))
    here = SiteFolder(folder)
    said = "\n".join(left_behind(here, here.config(), systemd=systemd))
    assert "systemctl disable --now yoriai-node-north.service yoriai-site-north.service" in said
    assert f"rm -r {folder} {tmp_path}/disk" in said
    assert f"the records {tmp_path}/records stay" in said
    assert str(here.ledgers) in said
    assert yoriai("site", "uninstall", folder).code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_an_uninstall_of_a_server_lists_what_it_has(tmp_path: Path) -> None:
    from tests.commands import server
    from yoriai.server.cli.uninstall import left_behind as of_server
    from yoriai.server.folder.server_folder import ServerFolder

    folder = server(tmp_path / "server")
    (tmp_path / "nginx" / "conf.d").mkdir(parents=True)
    shutil.copy(folder / "nginx" / "yoriai.conf", tmp_path / "nginx" / "conf.d")
    here = ServerFolder(folder)
    said = "\n".join(of_server(here, here.config(), etc=tmp_path))
    assert f"rm {tmp_path}/nginx/conf.d/yoriai.conf && nginx -t" in said
    assert (f"rm -r {folder}" in said, f"yoriai server stop {folder}" in said) == (True, True)
    assert yoriai("server", "uninstall", folder).code == 0
    assert here.settings.exists()
