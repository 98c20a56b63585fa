"""A supervised process: it comes back, it is alone, it ends with all that it started, and never outlives its keeper."""

import io
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import is_alive, wait_for
from yoriai.errors import ConfigError
from yoriai.system import supervisor
from yoriai.system.log import EventLog
from yoriai.system.supervisor import OutputFile, Supervisor

ENVIRONMENT = {"PATH": os.defpath}
SHELL = "/bin/sh"


class Kept:
    """A supervisor of a shell's script, and its log."""

    def __init__(self, script: str, **more: Any) -> None:
        self._log = io.StringIO()
        log = EventLog(self._log, as_json=True)
        self.supervisor = Supervisor("child", [SHELL, "-c", script], environment=ENVIRONMENT, log=log, **more)
        self.supervisor.start()

    def events(self, name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [event for event in found if event["event"] == name]


Keep = Callable[..., Kept]


@pytest.fixture
def keep(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keep]:
    """Starts supervisors whose pauses are short, and stops them at the end."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.2)
    made: list[Kept] = []

    def start(script: str, **more: Any) -> Kept:
        made.append(Kept(script, **more))
        return made[-1]

    yield start
    for kept in made:
        kept.supervisor.stop(0.0)


def numbers(path: Path, count: int) -> list[int]:
    """The process numbers that a script has written, once there are this many."""
    wait_for(lambda: path.exists() and len(path.read_text().split()) >= count)
    return [int(word) for word in path.read_text().split()]


def test_a_child_that_ends_is_started_again_with_growing_pauses(keep: Keep) -> None:
    kept = keep("exit 3")
    wait_for(lambda: kept.supervisor.restarts >= 4)
    kept.supervisor.stop(1.0)
    pauses = [event["pause_s"] for event in kept.events("child_restarts")]
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.2]
    assert [event["code"] for event in kept.events("child_ended")][:4] == [3] * 4
    assert len(kept.events("child_started")) == len(kept.events("child_ended"))


def test_after_a_long_life_the_pause_is_short_again(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WELL_AFTER_S", 0.0)
    kept = keep("exit 3")
    wait_for(lambda: kept.supervisor.restarts >= 3)
    kept.supervisor.stop(1.0)
    assert {event["pause_s"] for event in kept.events("child_restarts")} == {0.05}


def test_a_killed_child_comes_back_under_another_number(keep: Keep) -> None:
    told: list[int] = []
    kept = keep("sleep 60", on_restart=lambda: told.append(1))
    wait_for(lambda: kept.supervisor.is_running)
    first = kept.supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: kept.supervisor.pid not in (None, first))
    assert (kept.supervisor.restarts, told) == (1, [1])


def test_what_a_dead_child_had_started_is_gone_before_the_next_is_there(keep: Keep, tmp_path: Path) -> None:
    kept = keep(f"sleep 60 & echo $! >> {tmp_path}/pids; echo $$ >> {tmp_path}/pids; wait")
    grandchild, child = numbers(tmp_path / "pids", 2)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: len(kept.events("child_started")) == 2)
    assert not is_alive(grandchild)


def test_stop_lets_the_child_end_in_its_own_way_and_starts_none_again(keep: Keep, tmp_path: Path) -> None:
    kept = keep(
        f"trap 'echo done > {tmp_path}/end; exit 0' TERM; echo $$ > {tmp_path}/pids; while :; do sleep 0.01; done"
    )
    numbers(tmp_path / "pids", 1)
    kept.supervisor.stop(10.0)
    assert (tmp_path / "end").read_text() == "done\n"
    assert (kept.supervisor.is_running, kept.supervisor.restarts) == (False, 0)


def test_a_group_that_ignores_the_request_is_killed_after_the_grace(keep: Keep, tmp_path: Path) -> None:
    kept = keep(f"trap '' TERM; sleep 1000 & echo $! $$ > {tmp_path}/pids; while :; do sleep 1; done")
    pids = numbers(tmp_path / "pids", 2)
    kept.supervisor.stop(0.2)
    assert [is_alive(pid) for pid in pids] == [False, False]


def test_a_supervisor_that_is_killed_takes_its_child_along(tmp_path: Path) -> None:
    code = f"""
import sys, time
from yoriai.system.log import EventLog
from yoriai.system.supervisor import Supervisor
Supervisor("c", ["/bin/sh", "-c", "echo $$ > {tmp_path}/pids; exec sleep 60"], environment={{}},
           log=EventLog(sys.stderr)).start()
time.sleep(60)
"""
    keeper = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    (child,) = numbers(tmp_path / "pids", 1)
    keeper.kill()
    keeper.wait()
    wait_for(lambda: not is_alive(child))


def test_a_child_whose_parent_died_before_it_was_tied_does_not_begin(tmp_path: Path) -> None:
    from yoriai.system import child_launcher

    mark = tmp_path / "mark"
    line = [sys.executable, "-I", "-S", child_launcher.__file__, str(os.getpid() + 1), "-", "/usr/bin/touch", str(mark)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, "parent process is gone" in done.stderr, mark.exists()) == (1, True, False)


def test_a_command_that_is_not_there_is_tried_again_and_named_in_the_log(keep: Keep, tmp_path: Path) -> None:
    commands = iter([ConfigError("missing")])

    def command() -> list[str]:
        for error in commands:
            raise error
        return [SHELL, "-c", "sleep 60"]

    log = io.StringIO()
    kept = Supervisor("child", command, environment=ENVIRONMENT, log=EventLog(log))
    kept.start()
    try:
        wait_for(lambda: kept.is_running)
        assert 'child_not_started child="child" error="ConfigError"' in log.getvalue()
    finally:
        kept.stop(0.0)


def test_output_goes_to_a_file_for_its_owner_alone(keep: Keep, tmp_path: Path) -> None:
    keep("echo out; echo err >&2; sleep 60", output=tmp_path / "log")
    wait_for(lambda: (tmp_path / "log").read_text() == "out\nerr\n")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_output_files_stay_below_their_limit_and_keep_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_PIECE_BYTES", 64)
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as end:
        end.write(b"".join(b"%07d\n" % line for line in range(40)))
    with open(reading, "rb", buffering=0) as stream:
        OutputFile(tmp_path / "log", limit_bytes=200).take(stream)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert (len(sizes), max(sizes) <= 200) == (2, True)
    assert (tmp_path / "log").read_bytes().endswith(b"0000039\n")


def test_output_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="cannot be written"):
        OutputFile(tmp_path / "log")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_a_child_runs_as_the_user_it_was_given(keep: Keep, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    keep('id -u; id -g; id -G; echo "$HOME"; sleep 60', run_as=nobody.pw_uid, output=tmp_path / "log")
    told = [str(nobody.pw_uid), str(nobody.pw_gid)]
    groups = " ".join(str(group) for group in os.getgrouplist("nobody", nobody.pw_gid))
    wait_for(lambda: (tmp_path / "log").read_text().split("\n")[:4] == [*told, groups, nobody.pw_dir])


def test_a_user_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such user"):
        Supervisor("c", [SHELL], environment={}, log=EventLog(io.StringIO()), run_as=4_000_000)


def test_what_a_process_says_is_kept_without_colours_and_bars(tmp_path: Path) -> None:
    receiving, sending = os.pipe()
    os.write(sending, b"\x1b[92mINFO \x1b[0m: up\r\n 10%|#   |\r 90%|### |\r\x1b[2K\x1b[1Adone\n")
    os.close(sending)
    with open(receiving, "rb", buffering=0) as stream:
        OutputFile(tmp_path / "log").take(stream)
    assert (tmp_path / "log").read_bytes() == b"INFO : up\n 10%|#   |\n 90%|### |\ndone\n"
