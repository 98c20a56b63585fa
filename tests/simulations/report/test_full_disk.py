"""A finished training on a disk that is full, or may not be written: what is kept, and how the rest is had later."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.commands import yoriai
from tests.crashes import full_disk
from tests.simulations.report_fixture import example_report
from tests.world import Notebook, Stop, job_settings
from yoriai import cli
from yoriai.errors import CheckpointError, LedgerError
from yoriai.privacy.ledger.folder import open_in_folder
from yoriai.privacy.ledger.ledger import Policy
from yoriai.simulations.report.file import write_report
from yoriai.simulations.run.api import resume, simulate

_ROOM = 8 * 1024 * 1024
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def mount(*arguments: object) -> None:
    """Run mount."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def leave(disk: Path, left_bytes: int) -> Path:
    """Fill a disk but for so many bytes; returns the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left_bytes))
    return filler


class FillsTheDisk(Notebook):
    """An observer that fills the disk at a moment of the run."""

    def __init__(self, at: str, disk: Path, left_bytes: int) -> None:
        super().__init__()
        self._at, self._disk, self._left = at, disk, left_bytes

    def advance(self, what: str, done: int, total: int) -> None:
        super().advance(what, done, total)
        if what == self._at:
            leave(self._disk, self._left)


def files_of(folder: Path) -> set[str]:
    """What an operator opens of a run."""
    found = [path for pattern in ("report.*", "figures/*", "adapter/*") for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)) for path in found}


@pytest.fixture(scope="module")
def whole(base: Path, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a run leaves that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    simulate(data=sites, settings=job_settings(base), out=folder)
    return files_of(folder)


@as_root
@pytest.mark.parametrize("left_bytes", [0, 128 * 1024], ids=["for anything", "for some figures"])
def test_a_report_for_which_the_disk_is_full_is_written_later_and_the_adapter_is_there(
    left_bytes: int, base: Path, sites: Path, disk: Path, whole: set[str]
) -> None:
    run = disk / "run"
    full = FillsTheDisk("writing the report", disk, left_bytes)
    expected = (
        rf"the training is finished and stored, but its report cannot be written: .* found No space left on device; "
        rf"make room on that disk, then have it written without training: yoriai simulate --resume {run}"
    )
    with pytest.raises(CheckpointError, match=expected):
        simulate(data=sites, settings=job_settings(base), out=run, observer=full)
    assert load_file(run / "adapter" / "adapter_model.safetensors")
    assert not (run / "report.json").exists()
    (disk / "filler").unlink()
    heard = Notebook()
    resume(run, observer=heard)
    assert files_of(run) == whole
    assert "rounds" not in {what for what, _, _ in heard.advances}


@as_root
def test_an_adapter_for_which_the_disk_is_full_is_exported_later(base: Path, sites: Path, disk: Path) -> None:
    run = disk / "run"
    full = FillsTheDisk("exporting the adapter", disk, 0)
    with pytest.raises(CheckpointError, match=rf"its adapter cannot be exported: .*No space.*--resume {run}"):
        simulate(data=sites, settings=job_settings(base), out=run, observer=full)
    (disk / "filler").unlink()
    resume(run)
    assert load_file(run / "adapter" / "adapter_model.safetensors")


@as_root
def test_a_run_on_a_disk_that_may_only_be_read_is_shown_and_its_page_written_elsewhere(
    tmp_path: Path, disk: Path
) -> None:
    write_report(example_report(), disk / "run")
    mount("-o", "remount,ro", disk)
    done = yoriai("report", disk / "run")
    assert done.code == 2
    assert "all sites" in done.screen
    assert f"found Read-only file system; write it elsewhere: yoriai report {disk / 'run'} --out DIR" in done.screen
    assert yoriai("report", disk / "run", "--out", tmp_path / "copy").code == 0
    assert files_of(tmp_path / "copy") == files_of(disk / "run")


def test_a_report_that_is_lost_but_for_its_numbers_is_whole_again_after_a_resume(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    simulate(data=sites, settings=job_settings(base), out=run)
    whole = files_of(run)
    (run / "report.html").unlink()
    resume(run)
    assert files_of(run) == whole


@as_root
def test_a_disk_that_may_only_be_read_is_found_before_the_base_is_loaded(base: Path, sites: Path, disk: Path) -> None:
    mount("-o", "remount,ro", disk)
    heard = Notebook()
    with pytest.raises(
        CheckpointError, match=r"found Read-only file system; make it writable for this user, or.*--out"
    ):
        simulate(data=sites, settings=job_settings(base), out=disk / "runs" / "new", observer=heard)
    assert heard.advances == []


@pytest.mark.parametrize("below", ["", "deep/down"])
def test_a_place_that_takes_no_run_is_named_with_the_option_for_another(
    below: str, base: Path, sites: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "run" / below
    with pytest.raises(
        CheckpointError, match=rf"the run's folder {place} cannot be written; found Not a directory.*--out"
    ):
        simulate(data=sites, settings=job_settings(base), out=place)


def test_a_file_in_the_place_of_the_ledgers_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledgers").touch()
    with pytest.raises(LedgerError, match=r"ledger orders\.sqlite.*found File exists; move away what is there"):
        open_in_folder(tmp_path / "ledgers", "orders", "f" * 64, Policy(8.0, 1e-5))


def test_a_run_whose_ledgers_cannot_be_opened_says_how_it_goes_on(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        simulate(data=sites, settings=job_settings(base), out=run, observer=Stop("measuring", 0))
    (run / "ledgers").touch()
    monkeypatch.setattr("sys.argv", ["yoriai", "simulate", "--resume", str(run)])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    told = capsys.readouterr()
    assert "move away what is there in its place" in told.err
    assert f"carry on with: yoriai simulate --resume {run}" in told.out


def test_standard_output_on_a_full_disk_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.argv", ["yoriai", "version"])
    monkeypatch.setattr(cli.typer, "echo", full)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "standard output cannot be written; found No space left on device; make room" in capsys.readouterr().err


def test_an_adapter_of_before_outlives_a_full_disk(base: Path, sites: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    simulate(data=sites, settings=job_settings(base), out=run)
    file = run / "adapter" / "adapter_model.safetensors"
    before = file.read_bytes()
    (run / "report.json").unlink()
    with full_disk(1000), pytest.raises(CheckpointError):
        resume(run)
    assert file.read_bytes() == before
