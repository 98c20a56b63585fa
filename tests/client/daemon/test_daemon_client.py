"""The way to a site's daemon: what is told when it is not there or not right, and what it loads."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from yoriai.client.daemon.daemon_client import NODE_CONFIG_KEY, DaemonClient, daemon_client_of_node
from yoriai.client.daemon.socket_protocol import LARGEST_MESSAGE_BYTES, FrameKind, Line
from yoriai.client.node.executor import reply_to
from yoriai.errors import DaemonError, WireError
from yoriai.flower_payload import label_of, pack, payload_of

Script = Callable[[Line], None]


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[[Script], DaemonClient]]:
    """A door to a daemon that plays a script on every connection."""
    listening = socket.socket(socket.AF_UNIX)

    def play(script: Script) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                script(Line(connection).within(5))

    def make(script: Script) -> DaemonClient:
        listening.bind(str(tmp_path / "sock"))
        listening.listen()
        threading.Thread(target=play, args=(script,), daemon=True).start()
        return DaemonClient(tmp_path / "sock", patience_s=0.3)

    yield make
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


HELLO = {"site": "north", "socket": 1, "protocol": 3, "version": "0"}


def honest(line: Line) -> None:
    """Give every message back, and the site's name to who asks."""
    asked = line.preamble()
    if asked.kind == FrameKind.HELLO:
        line.send_note(FrameKind.ANSWER, HELLO)
    else:
        line.announce(FrameKind.PROCEED)
        line.send(FrameKind.ANSWER, line.bytes_of(asked.size_bytes))


def after_hello(script: Script) -> Script:
    """Say the name, and play the script on the message's connection."""

    def play(line: Line) -> None:
        if line.preamble().kind == FrameKind.HELLO:
            line.send_note(FrameKind.ANSWER, HELLO)
        else:
            script(line)

    return play


def hang_up_in_the_answer(line: Line) -> None:
    line.announce(FrameKind.PROCEED)
    line.bytes_of(len(b"message"))
    line.announce(FrameKind.ANSWER, 100)
    line.send_bytes(b"half")


def keep_waiting(line: Line) -> None:
    line.connection.settimeout(5)
    line.connection.recv(1)


def send_too_much(line: Line) -> None:
    line.announce(FrameKind.PROCEED)
    line.bytes_of(len(b"message"))
    line.announce(FrameKind.ANSWER, LARGEST_MESSAGE_BYTES + 1)


def test_a_message_comes_back_whole_from_one_byte_to_many_pieces(at: Callable[[Script], DaemonClient]) -> None:
    daemon = at(honest)
    for size in (1, 1024 * 1024, 3 * 1024 * 1024 + 1):
        data = os.urandom(size)
        assert daemon.handle(data) == data
    assert daemon.name == "north"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (lambda line: line.send_bytes(b"YDMN\x00\x09\x00\x05" + bytes(8)), "another version; found 9; expected 1"),
        (lambda line: line.send_bytes(b"nothing of ours."), "broke off; found WireError"),
        (lambda line: None, "broke off"),
        (hang_up_in_the_answer, "broke off; found ConnectionError"),
        (send_too_much, "is too long; found 268435457 bytes"),
        (keep_waiting, "does not answer in time"),
        (lambda line: line.send(FrameKind.ANSWER, b""), "out of order"),
        (lambda line: line.send(FrameKind.REFUSED, b"not json"), "broke off"),
    ],
)
def test_a_daemon_that_is_not_right_is_told_by_name(
    at: Callable[[Script], DaemonClient], script: Script, told: str
) -> None:
    with pytest.raises(DaemonError, match=told):
        at(after_hello(script)).handle(b"message")


def test_a_refusal_that_came_before_the_question_is_heard(
    at: Callable[[Script], DaemonClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = at(lambda line: line.send_note(FrameKind.REFUSED, {"what": "not you"}))
    connect = socket.socket.connect

    def slowly(connection: socket.socket, place: str) -> None:
        connect(connection, place)
        time.sleep(0.1)

    monkeypatch.setattr(socket.socket, "connect", slowly)
    with pytest.raises(DaemonError, match="not you"):
        daemon.hello()


def test_no_daemon_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match=r"no daemon listens at .*yoriai site start"):
        DaemonClient(tmp_path / "sock").hello()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "sock"))
    left.close()
    with pytest.raises(DaemonError, match=r"no daemon listens at .*yoriai site start"):
        DaemonClient(tmp_path / "sock").hello()


def test_a_message_above_the_limit_does_not_set_out(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="too long; found 268435457 bytes; expected at most 268435456"):
        DaemonClient(tmp_path / "sock").handle(bytes(LARGEST_MESSAGE_BYTES + 1))


@pytest.mark.parametrize("node_config", [{}, {NODE_CONFIG_KEY: "run/daemon.sock"}, {NODE_CONFIG_KEY: 7}])
def test_a_node_that_does_not_know_the_socket_is_told_how_to(node_config: dict[str, object]) -> None:
    with pytest.raises(DaemonError, match="--node-config"):
        daemon_client_of_node(node_config)


def message_with(content: RecordDict, message_type: str = "query") -> Message:
    return Message(content, dst_node_id=2, message_type=message_type)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages want to know what task they are of."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.usefixtures("task")
def test_the_executor_hands_the_payload_to_the_daemon_and_its_answer_back(
    at: Callable[[Script], DaemonClient],
) -> None:
    daemon = at(honest)
    reply = reply_to(message_with(pack(b"message")), lambda: daemon).content
    assert (label_of(reply, "site"), payload_of(reply)) == ("north", b"message")


@pytest.mark.usefixtures("task")
def test_the_executor_says_that_the_daemon_is_not_there_and_not_where_it_looked(tmp_path: Path) -> None:
    configured = {NODE_CONFIG_KEY: str(tmp_path / "sock")}
    reply = reply_to(message_with(pack(b"message")), lambda: daemon_client_of_node(configured)).content
    assert payload_of(reply) == b""
    assert "cannot be reached" in label_of(reply, "failure")
    assert str(tmp_path) not in label_of(reply, "failure")


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("content", "message_type"),
    [
        (pack(b"message"), "train"),
        (RecordDict({"yoriai.payload": ArrayRecord({"payload": Array("float32", (1,), "pickle", b"abcd")})}), "query"),
    ],
)
def test_what_is_no_message_of_yoriais_reaches_no_daemon(content: RecordDict, message_type: str) -> None:
    reply = reply_to(message_with(content, message_type), lambda: pytest.fail("asked")).content
    assert payload_of(reply) == b""
    assert label_of(reply, "failure")


@pytest.mark.parametrize(
    "module", ["yoriai.client.node.executor", "yoriai.client.daemon.daemon", "yoriai.client.cli.daemon_cli"]
)
def test_importing_flowers_side_and_the_daemons_frame_loads_no_model_library(module: str) -> None:
    heavy = {"accelerate", "opacus", "peft", "ray", "torch", "transformers"}
    code = f"import json, sys, {module}; print(json.dumps(sorted(set(sys.modules) & {heavy})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
