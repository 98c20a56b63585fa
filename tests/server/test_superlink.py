"""The SuperLink's state in memory, and its short way for the requests of messages, next to Flower's own."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.middleware import Middleware
from flwr.app import Message, MessageType
from flwr.common.constant import NOOP_FLWR_AID, TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate import LinkStateFactory, linkstate_factory
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
    NOOP_FEDERATION_ID,
    TASK_TOKEN_HEADER,
)
from flwr.supercore.date import now
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory, object_store_factory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink import main
from flwr.superlink.config_loader import get_federation_manager

from yoriai.flower_internals import KnownNode, keep_in_memory
from yoriai.flower_internals.state import _SMALL_BYTES, is_there
from yoriai.flower_internals.straight import _PATHS, _PULL, straight
from yoriai.flower_payload import pack

NUMBER = 77
KEY, OTHER_KEY = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())


def open_ssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of large objects of a SuperLink that keeps its state in memory, and knows one node."""
    for place, name in ((linkstate_factory, "InMemoryLinkState"), (object_store_factory, "InMemoryObjectStore")):
        monkeypatch.setattr(place, name, getattr(place, name))  # To be put back at the end.
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "left behind").touch()
    keep_in_memory({NUMBER: KnownNode("north", open_ssh(KEY))}, tmp_path / "objects")
    return tmp_path / "objects"


@pytest.fixture
def state(objects: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, get_federation_manager(), ObjectStoreFactory()).state()


def status_of(state: Any) -> str:
    (node,) = state.get_node_info(node_ids=[NUMBER])
    return str(node.status)


def test_a_node_of_the_book_has_its_number_again_and_is_away_until_it_is_heard_of(state: Any) -> None:
    assert state.get_node_id_by_public_key(public_key_to_bytes(KEY.public_key())) == NUMBER
    assert status_of(state) == "offline"
    is_there(state, NUMBER)
    assert status_of(state) == "online"
    later = state.create_node("", "", public_key_to_bytes(OTHER_KEY.public_key()), 0)
    assert later not in (0, NUMBER)


def sent(state: Any, run_id: int, payload: bytes) -> Message:
    """A coordinator has sent this to the node, every part of it."""
    TaskIdentity.run_id = run_id
    message = Message(pack(payload), dst_node_id=NUMBER, message_type=MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = message.object_id
    session = state.start_session(run_id)
    stored, _ = state.store_message_and_object_tree(message, get_object_tree(message), session)
    assert stored
    for identity, part in get_all_nested_objects(message).items():
        state.store_object(run_id, session, identity, part.deflate())
    return message


def run_of(state: Any) -> int:
    return int(state.create_run("", "", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, "flwr-serverapp"))


def test_large_objects_lie_in_files_until_they_were_received(state: Any, objects: Path) -> None:
    assert list(objects.iterdir()) == []  # What an earlier SuperLink left behind is gone.
    payload = os.urandom(3 * 2**20)
    message = sent(state, run_of(state), payload)
    store = state.object_store
    assert sum(path.stat().st_size for path in objects.iterdir()) > len(payload)
    assert max(len(entry.content) for entry in store.store.values()) <= _SMALL_BYTES
    for identity, part in get_all_nested_objects(message).items():
        assert store.get(identity) == part.deflate()
    store.delete(message.metadata.message_id)
    assert list(objects.iterdir()) == []
    assert len(store) == 0


def test_what_a_run_leaves_behind_goes_with_it_and_another_runs_stays(state: Any, objects: Path) -> None:
    over, at_work = run_of(state), run_of(state)
    sent(state, over, os.urandom(2**20))
    kept = sent(state, at_work, os.urandom(2**20))
    (run,) = state.get_run_info(run_ids=[over])
    assert state.finish_task(run.primary_task_id, "failed", "")
    assert set(state.message_ins_store) == {kept.metadata.message_id}
    assert {path.name for path in objects.iterdir()} <= set(get_all_nested_objects(kept))
    assert list(objects.iterdir()) != []


# The short way


async def at_once(_: int) -> None:
    """A question that is not kept."""


def application(monkeypatch: pytest.MonkeyPatch, kept: Callable[[int], Awaitable[None]] | None = None) -> Any:
    """Flower's application; with `kept`, with the short way."""
    with monkeypatch.context() as patch:
        if kept is not None:
            flowers = main._get_middleware()
            patch.setattr(main, "_get_middleware", lambda: [Middleware(straight, kept), *flowers])
        return main.create_app()


def asked(app: Any, path: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as client:
            return await client.post(path, content=body, headers=headers)

    return asyncio.run(ask())


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    at = now().isoformat()
    return {
        "content-type": PROTOBUF_MEDIA_TYPE,
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public_key_to_bytes(key.public_key())).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, at.encode())).decode(),
        TIMESTAMP_HEADER: at,
    }


@pytest.mark.parametrize("path", _PATHS)
def test_who_may_not_ask_and_what_cannot_be_read_is_answered_as_by_flower_itself(
    path: str, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, flowers = application(monkeypatch, at_once), application(monkeypatch)
    right = {"content-type": PROTOBUF_MEDIA_TYPE}
    for body, headers in (
        (b"", right),
        (b"", signed(OTHER_KEY)),
        (b"", signed(KEY)),  # Of another node than it says.
        (b"", {**right, TASK_TOKEN_HEADER: "no task's"}),
        (b"", {"content-type": "text/plain"}),
        (b"\xff\xff", right),
    ):
        mine, theirs = (asked(app, path, body, headers) for app in (ours, flowers))
        assert mine.is_error
        assert (mine.status_code, mine.content) == (theirs.status_code, theirs.content)


def test_a_question_is_kept_once_the_key_of_the_node_that_asks_was_verified(
    objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    async def keep(node_id: int) -> None:
        kept.append(node_id)

    app = application(monkeypatch, keep)
    question = PullMessagesRequest(node=Node(node_id=NUMBER)).SerializeToString()
    assert asked(app, _PULL, question, signed(OTHER_KEY)).status_code == httpx.codes.UNAUTHORIZED
    assert kept == []
    assert asked(app, _PULL, question, signed(KEY)).status_code == httpx.codes.OK
    assert kept == [NUMBER]
    assert status_of(app.state.linkstate_factory.state()) == "online"


def test_a_node_that_has_hung_up_takes_no_message_away(
    objects: Path, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = application(monkeypatch, at_once)
    known = app.state.linkstate_factory.state()
    is_there(known, NUMBER)
    sent(known, run_of(known), b"payload")
    question = PullMessagesRequest(node=Node(node_id=NUMBER)).SerializeToString()

    def messages(*then: Mapping[str, object]) -> int:
        said = iter([{"type": "http.request", "body": question, "more_body": False}, *then])
        got: list[bytes] = []

        async def receive() -> Mapping[str, object]:
            return next(said, None) or await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: Mapping[str, Any]) -> None:
            got.append(message.get("body", b""))

        headers = [(name.encode(), value.encode()) for name, value in signed(KEY).items()]
        scope = {"type": "http", "method": "POST", "path": _PULL, "headers": headers, "query_string": b""}
        asyncio.run(app(scope, receive, send))
        return len(PullMessagesResponse.FromString(b"".join(got)).messages_list)

    assert messages({"type": "http.disconnect"}) == 0
    assert messages() == 1


@pytest.mark.parametrize("name", ["push-messages", "push-object", "pull-object", "confirm-message-received"])
def test_a_late_word_of_a_run_that_is_not_here_is_refused_as_of_one_that_is_over(
    name: str, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is told of a fault would say it again for ever: a SuperLink that was killed knows no earlier run."""
    app, gone = application(monkeypatch, at_once), 4711
    known = app.state.linkstate_factory.state()
    is_there(known, NUMBER)
    node = Node(node_id=NUMBER)
    monkeypatch.setattr(TaskIdentity, "_run_id", gone)
    late = Message(pack(b"reply"), dst_node_id=NUMBER, message_type=MessageType.QUERY)
    body = {
        "push-messages": PushMessagesRequest(node=node, messages_list=[message_to_proto(late)]),
        "push-object": PushObjectRequest(node=node, run_id=gone),
        "pull-object": PullObjectRequest(node=node, run_id=gone),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=node, run_id=gone),
    }[name]
    answer = asked(app, f"/v1/fleet/{name}", body.SerializeToString(), signed(KEY))
    assert answer.status_code == httpx.codes.FORBIDDEN
    told = FlowerError.from_json(answer.text)
    assert told is not None
    assert told.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED


def test_all_other_requests_go_flowers_own_way(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, flowers = application(monkeypatch, at_once), application(monkeypatch)
    for path in ("/v1/fleet/get-run", "/v1/runtime/push-task-output", "/v1/control/list-nodes", "/no/such"):
        mine, theirs = (asked(app, path, b"", {"content-type": PROTOBUF_MEDIA_TYPE}) for app in (ours, flowers))
        assert (mine.status_code, mine.headers["content-type"]) == (theirs.status_code, theirs.headers["content-type"])
