"""The registry: what was stored comes back to the bit, and no crash, full disk or altered file loses the last round."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crashes import full_disk
from tests.server.checkpoints import checkpoint
from yoriai.errors import CheckpointError
from yoriai.server.round.registry import Registry, factor_digests
from yoriai.system.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]


def test_stored_checkpoint_comes_back_equal(tmp_path: Path) -> None:
    Registry(tmp_path).save(checkpoint(2))
    assert Registry(tmp_path).load() == checkpoint(2)


def test_checkpoint_before_the_first_round_comes_back_equal(tmp_path: Path) -> None:
    start = replace(checkpoint(0), lanes={})
    Registry(tmp_path).save(start)
    assert Registry(tmp_path).load() == start


def test_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert Registry(tmp_path).load() is None


def test_factors_that_stand_still_are_stored_once_and_past_states_are_forgotten(tmp_path: Path) -> None:
    store = Registry(tmp_path)
    for rounds in range(4):
        store.save(checkpoint(rounds))
    assert len(list((tmp_path / "adapters").iterdir())) == 1 + 4
    assert len(list((tmp_path / "state").iterdir())) == 2
    assert store.load() == checkpoint(3)


@pytest.mark.parametrize("name", ["adapters/*.safetensors", "state/*.bin", "checkpoint.json"])
@pytest.mark.parametrize("change", ["flip", "cut", "empty", "remove"])
def test_altered_file_is_detected(name: str, change: str, tmp_path: Path) -> None:
    Registry(tmp_path).save(checkpoint(1))
    for path in tmp_path.glob(name):
        data = path.read_bytes()
        if change == "remove":
            if name == "checkpoint.json":
                path.unlink()
                assert Registry(tmp_path).load() is None
                return
            path.unlink()
        elif change == "flip":
            middle = data.rindex(b'"state') if name == "checkpoint.json" and b'"state' in data else len(data) - 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        else:
            path.write_bytes(data[: len(data) // 2] if change == "cut" else b"")
        with pytest.raises(CheckpointError):
            Registry(tmp_path).load()
        path.write_bytes(data)
    assert Registry(tmp_path).load() == checkpoint(1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "3"),
        ("next_round", 7),
        ("next_round", "1"),
        ("lanes", {"B": {"optimizer_state": "../../etc/passwd", "value_range": None}}),
        ("adapter", {"digest": "0" * 64, "factors": {}}),
        ("rounds", [{}]),
        ("rounds", None),
        ("more", 1),
    ],
)
def test_manifest_that_does_not_fit_is_refused(key: str, value: object, tmp_path: Path) -> None:
    Registry(tmp_path).save(checkpoint(1))
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match="damaged"):
        Registry(tmp_path).load()


def old_manifest(folder: Path) -> Path:
    """A run of one round as schema 2 stored it."""
    Registry(folder).save(checkpoint(1))
    path = folder / "checkpoint.json"
    document = json.loads(path.read_text())
    old = json.loads((Path(__file__).parent / "checkpoint-2.json").read_text())
    path.write_text(json.dumps(old))
    assert document["adapter"] == old["adapter"]
    return path


def test_a_checkpoint_of_schema_2_is_read_and_written_anew_as_schema_3(tmp_path: Path) -> None:
    path = old_manifest(tmp_path)
    stored = Registry(tmp_path).load()
    assert stored == checkpoint(1)
    assert (stored.base_digest, stored.delivered, stored.rounds[0].roster_digest) == ("", {}, "")
    with pytest.raises(CheckpointError, match="after round 1 cannot be read; found a round of an older Yoriai version"):
        Registry(tmp_path).adapter_after(stored.rounds[0])
    Registry(tmp_path).save(stored)
    assert json.loads(path.read_text())["schema"] == 3
    assert Registry(tmp_path).load() == stored


@pytest.mark.parametrize(
    ("schema", "said"),
    [(4, "newer version; found schema 4; expected at most 3"), (1, "too old a version; found schema 1")],
)
def test_a_checkpoint_of_another_version_is_refused_by_its_number(schema: int, said: str, tmp_path: Path) -> None:
    Registry(tmp_path).save(checkpoint(1))
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema, "whatever": "it holds"}))
    with pytest.raises(CheckpointError, match=said):
        Registry(tmp_path).load()


def test_an_adapter_of_a_past_round_that_was_altered_is_not_given_out(tmp_path: Path) -> None:
    store, after = Registry(tmp_path), checkpoint(1)
    record = replace(after.rounds[0], adapter_digest=after.adapter.digest(), factors=factor_digests(after.adapter))
    store.save(replace(after, rounds=(record,)))
    assert store.adapter_after(record) == after.adapter
    with pytest.raises(CheckpointError, match="altered"):
        store.adapter_after(replace(record, adapter_digest="0" * 64))
    for path in (tmp_path / "adapters").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="after round 1 cannot be read"):
        store.adapter_after(record)


def test_factors_of_two_versions_do_not_make_one(tmp_path: Path) -> None:
    store = Registry(tmp_path)
    store.save(checkpoint(1))
    old = json.loads((tmp_path / "checkpoint.json").read_text())
    store.save(checkpoint(2))
    new = json.loads((tmp_path / "checkpoint.json").read_text())
    new["adapter"]["factors"] = old["adapter"]["factors"]
    (tmp_path / "checkpoint.json").write_text(json.dumps(new))
    with pytest.raises(CheckpointError, match="altered"):
        store.load()


KILLED = """
import sys
from pathlib import Path
from tests.server.checkpoints import checkpoint
from yoriai.server.round.registry import Registry
store = Registry(Path(sys.argv[1]))
for rounds in range(1, 1000):
    store.save(checkpoint(rounds, width=20000))
    print(rounds, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.011])
def test_kill_in_the_middle_of_saving_leaves_the_last_checkpoint(delay_s: float, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 3:
                break
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        finished = [3, *(int(line) for line in process.stdout.read().split())][-1]
    stored = Registry(tmp_path).load()
    assert stored is not None
    assert stored.next_round in (finished, finished + 1)
    assert stored == checkpoint(stored.next_round, width=20000)
    Registry(tmp_path).save(checkpoint(2000))
    assert Registry(tmp_path).load() == checkpoint(2000)


# Every system call of a save at which a process may die.
@pytest.mark.parametrize("step", range(12))
def test_death_at_any_step_of_saving_leaves_the_old_or_the_new_whole(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        pass

    store = Registry(tmp_path)
    store.save(checkpoint(1))
    left = step
    sync, move = os.fsync, Path.replace

    def count() -> None:
        nonlocal left
        if left == 0:
            raise Death
        left -= 1

    def dying_sync(descriptor: int) -> None:
        count()
        sync(descriptor)

    def dying_move(self: Path, target: Path) -> Path:
        count()
        return move(self, target)

    monkeypatch.setattr(os, "fsync", dying_sync)
    monkeypatch.setattr(Path, "replace", dying_move)
    died = False
    try:
        store.save(checkpoint(2))
    except Death:
        died = True
    monkeypatch.undo()
    # Content, rename and folder of three files: the factor that changed, the state, the checkpoint.
    assert died == (step < 9)
    assert Registry(tmp_path).load() == checkpoint(1 if step < 8 else 2)


def test_full_disk_is_an_error_and_the_last_checkpoint_stays_good(tmp_path: Path) -> None:
    store = Registry(tmp_path)
    store.save(checkpoint(1))
    with full_disk(1000), pytest.raises(CheckpointError, match=r"cannot be written.*the last checkpoint is intact"):
        store.save(checkpoint(2, width=4000))
    assert Registry(tmp_path).load() == checkpoint(1)
    assert list(tmp_path.rglob("*.part")) == []
    store.save(checkpoint(2))
    assert Registry(tmp_path).load() == checkpoint(2)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".json"])
def test_no_space_for_any_of_the_files_leaves_the_last_checkpoint(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Registry(tmp_path)
    store.save(checkpoint(1))
    sync = os.fsync

    def full(descriptor: int) -> None:
        if suffix in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="found No space left on device"):
        store.save(checkpoint(2))
    monkeypatch.undo()
    assert Registry(tmp_path).load() == checkpoint(1)
    assert list(tmp_path.rglob("*.part")) == []


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        Registry(tmp_path / "file")


def test_write_syncs_content_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    sync, move = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (seen.append("rename"), move(self, target))[1])
    write_atomically(tmp_path / "new" / "file", b"x")
    assert [Path(entry).name for entry in seen] == [f".file.{os.getpid()}.part", "rename", "new"]
