"""What took long, in the cache: made once for each asking, read again, and never in the way."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from yoriai.client.base import kept as module
from yoriai.client.base.base_files import base_files
from yoriai.client.base.kept import Kept, code_digest, stamps

NUMBERS = Kept("numbers", read=int, write=lambda number: str(number).encode(), mode=0o600)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the numbers are kept, in an empty cache."""
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "numbers"


def refuse() -> int:
    raise AssertionError("made again")


def test_what_was_made_is_read_for_the_same_asking_alone() -> None:
    assert NUMBERS.made(["a", 1], lambda: 7) == 7
    assert NUMBERS.made(["a", 1], refuse) == 7
    assert NUMBERS.made(["a", 2], lambda: 8) == 8
    assert NUMBERS.made(["a", 1], lambda: 9, anew=True) == 9
    assert NUMBERS.made(["a", 1], refuse) == 9


def test_a_file_has_the_mode_that_was_asked_for(folder: Path) -> None:
    NUMBERS.made("a", lambda: 7)
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("data", [b"", b"no number", b"\xff\x00"])
def test_something_else_in_its_place_is_made_anew_and_replaced(folder: Path, data: bytes) -> None:
    NUMBERS.made("a", lambda: 7)
    (file,) = folder.iterdir()
    file.write_bytes(data)
    assert NUMBERS.made("a", lambda: 8) == 8
    assert NUMBERS.made("a", refuse) == 8


def test_what_writes_as_nothing_and_what_takes_no_time_are_not_kept(folder: Path) -> None:
    assert replace(NUMBERS, write=lambda number: None).made("a", lambda: 7) == 7
    assert replace(NUMBERS, worth_s=60.0).made("a", lambda: 7) == 7
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_costs_time_alone(folder: Path) -> None:
    folder.parent.write_text("no folder")
    assert NUMBERS.made("a", lambda: 7) == 7


def test_those_used_last_stay(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    for day, asked in enumerate("abc"):
        before = set(folder.glob("*"))
        NUMBERS.made(asked, lambda: 7)
        (new,) = set(folder.iterdir()) - before
        os.utime(new, (day, day))
    NUMBERS.made("a", refuse)  # Used now, though made first.
    NUMBERS.made("d", lambda: 7)
    assert len(list(folder.iterdir())) == 3
    for asked in "acd":
        NUMBERS.made(asked, refuse)
    assert NUMBERS.made("b", lambda: 8) == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text("four"),
        lambda file: file.write_text("fives"),
        lambda file: (file.with_name("other").write_text("same"), file.with_name("other").replace(file)),
    ],
)
def test_stamps_tell_a_file_that_was_written_to_or_replaced(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "file"
    file.write_text("same")
    os.utime(file, ns=(0, 0))
    before = stamps([file])
    assert stamps([file]) == before
    last = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == last:  # The kernel's clock has ticks.
        change(file)
        os.utime(file, ns=(0, 0))  # As a copy that keeps the time of its original.
    assert stamps([file]) != before
    with pytest.raises(OSError, match="absent"):
        stamps([file, tmp_path / "absent"])


def test_the_code_of_a_room_has_one_digest_and_that_of_two_another() -> None:
    assert code_digest("client/base") == code_digest("client/base") != code_digest("client/base", "strategies")


def test_the_files_of_a_base_are_named_without_loading_it(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "base").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "base" / name).touch()
    assert [file.name for file in base_files(str(tmp_path / "base"))] == ["config.json", "model.safetensors"]
    assert base_files("/some/model.gguf") == (Path("/some/model.gguf"),)
    assert base_files("owner/name") == ()
    (packaged,) = base_files("smollm2-135m-instruct")
    assert packaged.is_relative_to(folder.parent / "assets")
