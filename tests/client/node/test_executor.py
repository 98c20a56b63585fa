"""A site's executor at the interface of a real SuperNode: messages in, answers out, and no bundle is opened."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from tests.deploy.processes import wait_until
from yoriai.client.daemon.daemon_client import NODE_CONFIG_KEY
from yoriai.client.daemon.listener import Listener
from yoriai.client.daemon.socket_protocol import FrameKind, Line
from yoriai.client.node.executor import execute
from yoriai.flower_internals import Runtime
from yoriai.flower_payload import label_of, pack, payload_of

SECRET = b"known to node and executor"
WAIT_S = 60.0
RUN, NODE = 7, 2


@dataclass
class Node:
    """A SuperNode's interface and what lies in it."""

    port: int
    state: object
    store: object
    daemon: Path

    def has(
        self,
        message_type: str = "query",
        payload: bytes = b"message",
        task: str = "flwr-clientapp",
        run_id: int = RUN,
        given_up: bool = False,
    ) -> None:
        """A message has come, of a run whose bundle is no bundle at all; it has its parts unless it was given up."""
        state = self.state
        fab = Fab("", b"nothing that could be unpacked", {})
        run = Run.create_empty(run_id)
        run.fab_hash = state.store_fab(fab)  # type: ignore[attr-defined]
        state.store_run(run)  # type: ignore[attr-defined]
        configured = {NODE_CONFIG_KEY: str(self.daemon)}
        state.set_run_series_context(0, Context(run_id, NODE, configured, RecordDict(), {}))  # type: ignore[attr-defined]
        state.create_task(task_type=task, run_id=run_id, fab_hash=run.fab_hash)  # type: ignore[attr-defined]
        TaskIdentity.run_id = run_id
        message = Message(pack(payload), dst_node_id=NODE, message_type=message_type)
        start_client_internal._insert_message(message, state, self.store)  # type: ignore[arg-type]
        if given_up:
            identity = message.metadata.message_id
            for part in _parts(self.store.get_object_tree(identity)):  # type: ignore[attr-defined]
                entry = self.store.store[part]  # type: ignore[attr-defined]
                entry.content, entry.is_available = b"", False

    def answer(self) -> RecordDict:
        """What the SuperNode would send on."""
        replies: list[Message] = []

        def there() -> bool:
            replies.extend(self.state.get_messages_legacy(is_reply=True))  # type: ignore[attr-defined]
            return bool(replies)

        wait_until(there, WAIT_S, "no answer")
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        identity = replies[0].metadata.message_id
        contents: dict[str, bytes] = {}

        def whole() -> bool:  # The message is there before its parts are.
            parts = _parts(self.store.get_object_tree(identity))  # type: ignore[attr-defined]
            contents.update({key: self.store.get(key) for key in parts})  # type: ignore[attr-defined]
            return all(contents.values())

        wait_until(whole, WAIT_S, "parts are missing")
        message = inflate_object_from_contents(identity, contents)
        assert isinstance(message, Message)
        return message.content


def _parts(tree: object) -> list[str]:
    return [tree.object_id, *(part for child in tree.children for part in _parts(child))]  # type: ignore[attr-defined]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, RUN)
    stores = ObjectStoreFactory()
    states = NodeStateFactory(objectstore_factory=stores)
    states.state().set_node_id(NODE)
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(state_factory=states, superexec_auth_secret=SECRET)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield Node(listening.getsockname()[1], states.state(), stores.store(), tmp_path / "sock")
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def news(node: Node) -> Iterator[socket.socket]:
    """Where the SuperNode talks with its executor, which runs."""
    ours, theirs = socket.socketpair()
    runtime = Runtime(f"127.0.0.1:{node.port}", SECRET)
    executor = threading.Thread(target=execute, args=(runtime, theirs), daemon=True)
    executor.start()
    ours.settimeout(WAIT_S)
    yield ours
    ours.close()
    executor.join(WAIT_S)
    assert not executor.is_alive()  # It ends when the SuperNode hangs up.


@pytest.fixture
def daemon(node: Node) -> Iterator[Callable[[], list[bytes]]]:
    """A daemon that echoes, and what it was asked."""
    heard: list[bytes] = []

    def serve(listener: Listener) -> None:
        while True:
            try:
                connection = listener.socket.accept()[0]
            except OSError:
                return
            with connection:
                line = Line(connection).within(WAIT_S)
                if (asked := line.preamble()).kind == FrameKind.HELLO:
                    hello = {"site": "north", "socket": 1, "protocol": 1, "version": "0"}
                    line.send_note(FrameKind.ANSWER, hello)
                else:
                    line.announce(FrameKind.PROCEED)
                    heard.append(line.bytes_of(asked.size_bytes))
                    line.send(FrameKind.ANSWER, heard[-1])

    with Listener(node.daemon) as listener:
        listener.socket.setblocking(True)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield lambda: heard


@pytest.mark.parametrize("task", ["flwr-clientapp", "flwr-agentapp"])
def test_a_message_is_answered_by_the_daemon_and_the_bundle_left_as_it_is(
    node: Node, news: socket.socket, daemon: Callable[[], list[bytes]], task: str
) -> None:
    node.has(task=task)
    news.send(b"?")
    assert news.recv(1) == b"!"
    answer = node.answer()
    assert (label_of(answer, "failure"), label_of(answer, "site"), payload_of(answer)) == ("", "north", b"message")
    assert daemon() == [b"message"]


def test_large_messages_come_through_whole_and_one_after_the_other(
    node: Node, news: socket.socket, daemon: Callable[[], list[bytes]]
) -> None:
    for size in (11_000_000, 1):
        node.has(payload=bytes(size))
        news.send(b"?")
        assert news.recv(1) == b"!"
        assert payload_of(node.answer()) == bytes(size)


def test_a_message_that_is_none_of_yoriais_is_answered_and_reaches_no_daemon(
    node: Node, news: socket.socket, daemon: Callable[[], list[bytes]]
) -> None:
    node.has(message_type="train")
    news.send(b"?")
    assert label_of(node.answer(), "failure")
    assert daemon() == []


def test_what_the_supernode_gave_up_with_its_run_holds_up_no_message_that_comes_later(
    node: Node, news: socket.socket, daemon: Callable[[], list[bytes]]
) -> None:
    node.has(run_id=RUN + 1, given_up=True)
    node.has()
    news.send(b"?")
    assert payload_of(node.answer()) == b"message"
    states = {task.run_id: task.status.status for task in node.state.get_tasks()}  # type: ignore[attr-defined]
    assert states[RUN + 1] == "finished"


def test_without_a_word_from_the_supernode_nothing_is_asked(node: Node, news: socket.socket) -> None:
    node.has()
    assert [task.status.status for task in node.state.get_tasks()] == ["pending"]  # type: ignore[attr-defined]


def test_who_does_not_know_the_secret_gets_no_message(node: Node) -> None:
    node.has()
    headers = {"content-type": "application/protobuf"}
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

    headers["content-type"] = PROTOBUF_MEDIA_TYPE
    asked = AcquireTaskRequest(supported_task_types=["flwr-clientapp"]).SerializeToString()
    url = f"http://127.0.0.1:{node.port}/v1/runtime/acquire-task"
    assert httpx.post(url, content=asked, headers=headers).status_code == 401
    assert Runtime(f"127.0.0.1:{node.port}", SECRET).acquire() is not None
