"""The transport over Flower's Grid, with a Grid of the test's own: nodes that hang, fail and lie."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from yoriai.errors import RoundError
from yoriai.flower_payload import pack, pack_all, payload_of
from yoriai.server.service import server_app
from yoriai.server.service.server_app import GridTransport

Node = Callable[[bytes], object]


@pytest.fixture(autouse=True)
def _inside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages ask their process which run it serves."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@dataclass
class FakeGrid:
    """Nodes by id. A node returns the reply's record, None for an error reply, or ... for none at all."""

    nodes: dict[int, Node]
    waiting: dict[str, Message] = field(default_factory=dict)
    broken: dict[int, Exception] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            identity = f"m{len(self.waiting)}-{id(message)}"
            message.metadata.__dict__["_message_id"] = identity
            self.waiting[identity] = message
            ids.append(identity)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for identity in list(message_ids):
            message = self.waiting[identity]
            if message.metadata.dst_node_id in self.broken:
                raise self.broken[message.metadata.dst_node_id]
            record = self.nodes[message.metadata.dst_node_id](payload_of(message.content))
            if record is None:
                replies.append(Message(Error(code=1, reason="it raised"), reply_to=message))
            elif isinstance(record, RecordDict):
                replies.append(Message(record, reply_to=message))
            elif record is not ...:
                assert isinstance(record, dict)
                payload = record.pop("payload", b"")
                replies.append(Message(pack(payload, **record), reply_to=message))
        for reply in replies:
            reply.metadata.__dict__["_src_node_id"] = self.waiting[
                reply.metadata.reply_to_message_id
            ].metadata.dst_node_id
        return replies


def site(name: str, answer: Callable[[bytes], object] | None = None) -> Node:
    """A node that knows its name, and answers the rest as told (an echo if not)."""

    def node(payload: bytes) -> object:
        if not payload:
            return {"site": name, "payload": b""}
        return {"site": name, "payload": payload + name.encode()} if answer is None else answer(payload)

    return node


def transport(nodes: dict[int, Node], *, expected: int | None = None, timeout_s: float = 0.5) -> GridTransport:
    expected = len(nodes) if expected is None else expected
    return GridTransport(FakeGrid(nodes), expected_nodes=expected, hello_timeout_s=timeout_s)  # type: ignore[arg-type]


def test_sites_are_named_by_their_hello_and_replies_come_back_by_name() -> None:
    sites = transport({7: site("b"), 3: site("a")})
    assert sites.sites() == ("a", "b")
    assert sites.exchange("train", {"a": b"1", "b": b"2"}, 1.0) == {"a": b"1a", "b": b"2b"}
    assert sites.exchange("train", {"b": b"2"}, 1.0) == {"b": b"2b"}


@pytest.mark.parametrize(
    "answer",
    [
        lambda payload: None,
        lambda payload: ...,
        lambda payload: {"site": "b"},
        lambda payload: RecordDict({"yoriai.payload": ArrayRecord([np.ones(3, np.float32)])}),
        lambda payload: RecordDict({"other": ConfigRecord({"payload": b"x"})}),
    ],
    ids=["raises", "hangs", "no payload", "another array", "another record"],
)
def test_node_that_fails_is_a_missing_reply(answer: Callable[[bytes], object]) -> None:
    sites = transport({1: site("a"), 2: site("b", answer)})
    assert sites.exchange("train", {"a": b"1", "b": b"2"}, 0.3) == {"a": b"1a"}


@pytest.mark.parametrize(
    "hello", [None, ..., {"payload": b""}, RecordDict({"yoriai": ConfigRecord({"site": 5})}), {"site": ""}]
)
def test_node_without_a_name_is_no_site(hello: object) -> None:
    nodes = {1: site("a"), 2: lambda payload: dict(hello) if isinstance(hello, dict) else hello}
    assert transport(nodes, timeout_s=2.0).sites() == ("a",)


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(RoundError, match="two nodes say that they are site 'a'"):
        transport({1: site("a"), 2: site("a")})


def test_no_node_at_all_is_an_error_after_the_wait() -> None:
    with pytest.raises(RoundError, match="no site is connected"):
        transport({}, expected=2, timeout_s=0.3)


def test_fewer_nodes_than_expected_do_after_the_wait() -> None:
    assert transport({1: site("a")}, expected=2, timeout_s=0.3).sites() == ("a",)


def test_nodes_may_come_and_go() -> None:
    nodes = {1: site("a"), 2: site("b")}
    sites = transport(nodes)
    del nodes[1]
    nodes[9] = site("c")
    assert sites.sites() == ("b", "c")
    assert sites.exchange("train", {"a": b"1", "c": b"3"}, 1.0) == {"c": b"3c"}
    nodes[10] = site("a")  # A site whose node was started anew has another id.
    assert sites.sites() == ("a", "b", "c")


def test_waiting_ends_at_once_when_the_run_is_stopped() -> None:
    stop = threading.Event()
    grid = FakeGrid({1: site("a", lambda payload: ...)})
    sites = GridTransport(grid, expected_nodes=1, hello_timeout_s=1.0, stop=stop)  # type: ignore[arg-type]
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(RoundError, match="stopped"):  # Not the empty round that it is after its deadline.
        sites.exchange("train", {"a": b"1"}, 1000.0)


def test_registered_nodes_are_asked_for_no_name_and_strangers_are_no_sites() -> None:
    asked: list[bytes] = []
    nodes: dict[int, Node] = {1: lambda payload: asked.append(payload) or {"payload": b"x"}, 2: site("b")}
    sites = GridTransport(FakeGrid(nodes), names=lambda: {1: "a", 5: "gone"})  # type: ignore[arg-type]
    assert sites.sites() == ("a",)
    assert asked == []
    assert sites.exchange("train", {"a": b"1", "b": b"2"}, 1.0) == {"a": b"x"}


def test_reason_of_a_failure_reaches_the_log_and_whoever_asks_why_a_reply_is_missing() -> None:
    told: list[tuple[str, str, str]] = []
    nodes: dict[int, Node] = {1: lambda _: {"failure": "no daemon"}, 2: lambda _: None}
    sites = GridTransport(
        FakeGrid(nodes),  # type: ignore[arg-type]
        names=lambda: {1: "a", 2: "b"},
        on_failure=lambda *words: told.append(words),
    )
    sites.sites()
    assert sites.exchange("train", {"a": b"1", "b": b"2"}, 1.0) == {}
    assert sorted(told) == [("a", "train", "no daemon"), ("b", "train", "it raised")]
    assert sites.failures() == {"a": "no daemon", "b": "it raised"}


@pytest.mark.parametrize("size", [1, 3, 12_000_000])
def test_payload_survives_flower_s_own_encoding(size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    content = pack(payload, site="a")
    pieces = {identity: piece.deflate() for identity, piece in get_all_nested_objects(content).items()}
    assert max(map(len, pieces.values())) < 6_000_000
    again = inflate_object_from_contents(content.object_id, pieces)
    assert isinstance(again, RecordDict)
    assert payload_of(again) == payload


def packed_size(contents: Iterable[RecordDict]) -> int:
    pieces = {identity: piece for content in contents for identity, piece in get_all_nested_objects(content).items()}
    return sum(len(piece.deflate()) for piece in pieces.values())


@pytest.mark.parametrize("own", [1, 4000])
def test_what_many_payloads_end_with_alike_travels_once(own: int) -> None:
    draw = np.random.default_rng(own).bytes
    adapter = draw(2_000_000)
    payloads = {node: draw(own + node) + adapter for node in range(5)}
    contents = pack_all(payloads)
    assert {node: payload_of(content) for node, content in contents.items()} == payloads
    assert packed_size(contents.values()) < 1.2 * len(adapter)


@pytest.mark.parametrize("sizes", [(10, 20), (400_000, 400_001), (400_000, 900_000), (400_000, 0)])
def test_payloads_without_a_common_end_are_packed_each_by_itself(sizes: tuple[int, int]) -> None:
    payloads = {node: np.random.default_rng(node).bytes(size) for node, size in enumerate(sizes)}
    assert {node: payload_of(content) for node, content in pack_all(payloads).items()} == payloads
    assert pack_all({}) == {}


def test_a_reply_that_flower_cannot_read_is_one_site_s_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, str]] = []
    grid = FakeGrid({1: site("a"), 2: site("b")}, broken={2: AttributeError("swordfish")})
    sites = GridTransport(
        grid,  # type: ignore[arg-type]
        names=lambda: {1: "a", 2: "b"},
        on_failure=lambda *words: told.append(words),
    )
    sites.sites()
    assert sites.exchange("mask", {"a": b"1", "b": b"2"}, 10.0) == {"a": b"1a"}
    assert told == [("b", "mask", "a reply that Flower cannot read (AttributeError)")]


def test_a_reply_that_is_announced_and_never_sent_holds_up_neither_deadline_nor_stop() -> None:
    held, stop = threading.Event(), threading.Event()
    grid = FakeGrid({1: site("a"), 2: lambda _: held.wait(1000)})
    sites = GridTransport(grid, names=lambda: {1: "a", 2: "b"}, stop=stop)  # type: ignore[arg-type]
    sites.sites()
    try:
        assert sites.exchange("mask", {"a": b"1", "b": b"2"}, 1.0) == {"a": b"1a"}
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(RoundError, match="stopped"):
            sites.exchange("mask", {"b": b"2"}, 1000.0)
        assert not held.is_set()
    finally:
        held.set()


@pytest.mark.parametrize(("status", "answered"), [(500, True), (503, True), (404, False)])
def test_an_error_of_the_superlinks_own_loses_no_reply(status: int, answered: bool) -> None:
    request = httpx.Request("POST", "https://localhost/x")
    error = httpx.HTTPStatusError("locked", request=request, response=httpx.Response(status, request=request))
    sites = transport({1: site("a")})
    grid = sites._grid
    pull, asked = grid.pull_messages, []

    def failing(ids: Iterable[str]) -> Iterable[Message]:
        asked.append(ids)
        if len(asked) == 1:
            raise error
        return pull(ids)

    grid.pull_messages = failing  # type: ignore[method-assign]
    assert sites.exchange("train", {"a": b"1"}, 5.0) == ({"a": b"1a"} if answered else {})
    assert len(asked) == 1 + answered


def test_a_reply_of_another_node_is_no_reply() -> None:
    grid = FakeGrid({1: site("a")})
    real = grid.pull_messages

    def forged(ids: Iterable[str]) -> Iterable[Message]:
        for reply in real(ids):
            reply.metadata.__dict__["_src_node_id"] = 7
            yield reply

    grid.pull_messages = forged  # type: ignore[method-assign]
    sites = GridTransport(grid, names=lambda: {1: "a"})  # type: ignore[arg-type]
    sites.sites()
    assert sites.exchange("mask", {"a": b"1"}, 1.0) == {}


class HeardNews:
    """News of what a test says, in place of a SuperLink's."""

    def __init__(self, left: set[int] | None = None) -> None:
        self.turn, self.left, self.changed, self.waited = 0, left or set(), threading.Event(), 0

    def wait(self, message_id: str, node_id: int, began: int) -> bool:
        self.waited += 1
        if self.waited > 2:  # Both have been asked for once.
            self.changed.wait(60)
        return node_id in self.left

    def has_left(self, node_id: int) -> None:
        self.left.add(node_id)
        self.changed.set()

    def wake(self) -> None:
        self.changed.set()


def with_news(grid: FakeGrid, news: HeardNews) -> GridTransport:
    transport = GridTransport(grid, names=lambda: {1: "a", 2: "b"}, news=news)  # type: ignore[arg-type]
    transport.sites()
    return transport


def test_with_news_each_reply_is_asked_for_once() -> None:
    grid, news = FakeGrid({1: pack, 2: pack}), HeardNews()
    found = with_news(grid, news).exchange("mask", {"a": b"x", "b": b"y"}, 60.0)
    assert found == {"a": b"x", "b": b"y"}
    assert news.waited == 2


def test_a_site_whose_node_has_left_is_not_waited_for() -> None:
    grid = FakeGrid({1: pack, 2: lambda data: ...})
    transport = with_news(grid, HeardNews(left={2}))
    started = time.monotonic()
    assert transport.exchange("mask", {"a": b"x", "b": b"y"}, 600.0) == {"a": b"x"}
    assert transport.failures() == {"b": "its node has left the server"}
    assert time.monotonic() - started < 300.0


def test_a_node_that_flower_takes_for_gone_is_noticed_by_one_question_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "_LOOK_S", 0.0)
    grid = FakeGrid({1: pack, 2: lambda data: ...})
    transport = with_news(grid, HeardNews())
    nodes = grid.nodes

    def without_the_second() -> list[int]:
        return [node for node in nodes if node != 2]

    monkeypatch.setattr(grid, "get_node_ids", without_the_second)
    assert transport.exchange("mask", {"a": b"x", "b": b"y"}, 600.0) == {"a": b"x"}
    assert transport.failures() == {"b": "its node has left the server"}
