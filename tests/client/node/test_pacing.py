"""The pauses of a SuperNode, and what one that was killed leaves to the next."""

import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from yoriai.client.node import supernode
from yoriai.client.node.left_behind import LeftBehind
from yoriai.client.node.pacing import Pacing
from yoriai.client.node.supernode import NodeWaits

BUSY_S, IDLE_S = 0.2, 3.0


def test_an_executor_that_works_for_hours_holds_its_supernode_up_by_no_reminder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supernode, "_REMIND_S", 0.0)
    monkeypatch.setattr(supernode, "_LOOK_S", 0.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waits = NodeWaits(Pacing(BUSY_S, IDLE_S, 0.0), ours)
        waiting = threading.Thread(target=lambda: [waits.for_reply() for _ in range(1000)], daemon=True)
        waiting.start()
        waiting.join(60.0)
        assert not waiting.is_alive()


def test_between_jobs_the_pause_is_long_and_after_a_message_short_for_a_minute() -> None:
    pacing = Pacing(BUSY_S, IDLE_S, now=0.0)
    assert pacing.pause(0.1) == IDLE_S
    pacing.message(10.0)
    assert pacing.pause(10.1) == BUSY_S
    assert pacing.pause(69.0) == BUSY_S
    pacing.message(70.0)
    assert pacing.pause(129.0) == BUSY_S


def test_a_minute_after_the_last_message_it_is_long_again() -> None:
    pacing = Pacing(BUSY_S, IDLE_S, now=0.0)
    pacing.message(0.0)
    now = 0.1
    while now < 60.0:
        now += pacing.pause(now) + 0.1
    assert pacing.pause(now) == IDLE_S


def test_a_question_that_the_server_kept_is_asked_again_at_once() -> None:
    pacing = Pacing(BUSY_S, IDLE_S, now=0.0)
    assert pacing.pause(20.0) == BUSY_S
    assert pacing.pause(40.3) == BUSY_S
    assert pacing.pause(40.6) == IDLE_S


def test_the_executor_is_told_once_of_a_message_and_its_word_ends_the_wait() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waits = NodeWaits(Pacing(BUSY_S, IDLE_S, 0.0), ours)
        waits.for_reply()
        waits.for_reply()
        assert theirs.recv(64) == b"?"
        waiting = threading.Thread(target=waits.for_reply)
        theirs.send(b"!")
        waiting.start()
        waiting.join(10)
        waits.for_reply()  # Of the next message.
        assert theirs.recv(64) == b"?"


def dead() -> int:
    """The number of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def of(left: LeftBehind, pid: int) -> None:
    left.is_connected(42)
    left.path.write_text(left.path.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{pid}'))


def test_a_supernode_that_was_killed_is_known_to_the_next_and_one_that_left_is_not(tmp_path: Path) -> None:
    left = LeftBehind(tmp_path / "connected")
    assert left.number() is None
    of(left, dead())
    assert left.number() == 42
    left.has_left()
    assert left.number() is None


def test_one_that_still_runs_is_not_signed_off(tmp_path: Path) -> None:
    left = LeftBehind(tmp_path / "connected")
    of(left, os.getppid())
    assert left.number() is None


def test_a_copy_of_the_folder_does_not_sign_off_the_original(tmp_path: Path) -> None:
    left = LeftBehind(tmp_path / "node" / "connected")
    left.path.parent.mkdir()
    of(left, dead())
    shutil.copytree(tmp_path / "node", tmp_path / "copy")
    assert left.number() == 42
    assert LeftBehind(tmp_path / "copy" / "connected").number() is None


def test_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "connected").write_text("not json")
    assert LeftBehind(tmp_path / "connected").number() is None
