"""Files of Yoriai's own: whole, private from the first byte, and never replaced where they must be new."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from yoriai.errors import StorageError
from yoriai.system.files import PRIVATE, make_private_folder, read_carried, write_atomically, write_new

Writer = Callable[..., Path]


@pytest.mark.parametrize("write", [write_atomically, write_new])
def test_a_private_file_is_private_before_it_holds_a_byte(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    opened = os.open

    def watching(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = opened(path, flags, mode)
        seen.append((os.fstat(descriptor).st_size, stat.S_IMODE(os.fstat(descriptor).st_mode)))
        return descriptor

    monkeypatch.setattr(os, "open", watching)
    umask = os.umask(0)
    try:
        write(tmp_path / "key", b"secret", mode=PRIVATE)
    finally:
        os.umask(umask)
    assert seen[0] == (0, 0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "key", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("key", b"old")]


@pytest.mark.parametrize("write", [write_atomically, write_new])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("other", b"old")]


def test_a_private_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    assert stat.S_IMODE(make_private_folder(tmp_path / "a" / "keys").stat().st_mode) == 0o700
    make_private_folder(tmp_path / "a" / "keys")
    (tmp_path / "a" / "keys").chmod(0o710)
    with pytest.raises(StorageError, match="chmod 700"):
        make_private_folder(tmp_path / "a" / "keys")


def test_a_folder_in_place_of_a_carried_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the roster .* cannot be read"):
        read_carried(tmp_path, "the roster")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for another user")
def test_what_root_writes_for_a_folders_owner_is_theirs_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server at work reads its roster at any moment: for none of them may it be root's."""
    os.chown(tmp_path, 4242, 4242)
    owners = []
    renamed = Path.replace

    def replace(self: Path, target: Path) -> Path:
        owners.append((self.stat().st_uid, self.stat().st_gid))
        return renamed(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "roster", b"new", mode=PRIVATE, is_folders=True)
    write_atomically(tmp_path / "other", b"new", mode=PRIVATE)
    assert owners == [(4242, 4242), (0, os.getegid())]
