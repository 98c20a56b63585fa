"""The requests that messages are made of, straight to Flower's handlers.

Flower leads a request through layers of Starlette's and through FastAPI's router, which takes most of its 10 ms of a
core, and a message is some eighteen requests. What these layers do for such a request is done here once, by the same
parts of Flower: its body is read, who asks is verified, the handler is called, and an error is put into words.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib import import_module
from typing import Any, Final

from yoriai.flower_internals.state import is_there

Scope = MutableMapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Send], Awaitable[None]]
Kept = Callable[[int], Awaitable[None]]
"""Given the number of a node that asks for messages, and is verified: returns when it is to be answered."""

_FLEET: Final = "/v1/fleet/"
_RUNTIME: Final = "/v1/runtime/"
_PULL: Final = f"{_FLEET}pull-messages"
# Both sides' names of them; the routers' functions are named alike.
_OF_MESSAGES: Final = ("pull-messages", "push-messages", "pull-object", "push-object", "confirm-message-received")
_PATHS: Final = (
    *(_FLEET + name for name in (*_OF_MESSAGES, "send-node-heartbeat")),
    *(_RUNTIME + name for name in (*_OF_MESSAGES, "get-nodes", "pull-task-input")),
)


def straight(app: Application, kept: Kept | None = None) -> Application:
    """A SuperLink's or a SuperNode's application, with a short way for the requests of messages.

    A caller's version is not compared: Flower lets nodes of any version in here, and a ServerApp or executor runs
    what the process runs that has started it.

    Args:
        app: what is left out for these requests, and gets all others; called within Flower's application.
        kept: of a SuperLink; None for a SuperNode, which no node asks.
    """
    from fastapi import Request
    from flwr.supercore.error import http_error_translator

    ways = _ways(kept)

    async def answered(scope: Scope, receive: Any, send: Send) -> None:
        way = ways.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if way is None:
            await app(scope, receive, send)
            return
        response = await http_error_translator(Request(scope, receive), way)
        await response(scope, receive, send)

    return answered


def _ways(kept: Kept | None) -> Mapping[str, Callable[[Any], Awaitable[Any]]]:
    """From a path to what answers a request for it."""
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    def way(path: str) -> Callable[[Any], Awaitable[Any]]:
        kind = PROTOBUF_REQUEST_TYPES["POST", path]
        name = path.rpartition("/")[2].replace("-", "_")
        if path.startswith(_FLEET):
            handler = getattr(import_module("flwr.superlink.routers.fleet.router"), f"fleet_{name}")
            return _from_node(kind, handler, kept if path == _PULL else None)
        return _from_task(kind, getattr(import_module("flwr.supercore.routers.runtime.router"), name))

    return {path: way(path) for path in _PATHS if kept is not None or path.startswith(_RUNTIME)}


def _from_node(kind: type, handler: Callable[..., Any], kept: Kept | None) -> Callable[[Any], Awaitable[Any]]:
    """What answers a node, whose key is verified."""
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import Response
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.node_auth import authenticate_node

    async def answer(request: Any) -> Any:
        asked = request.state.protobuf_request = await _read(request, kind)

        def verify() -> None:
            authenticate_node(request)
            is_there(get_linkstate(request), int(asked.node.node_id))

        def handled() -> Any:
            if kept is None:
                authenticate_node(request)
            try:
                return handler(request=asked, state=get_linkstate(request))
            except KeyError as error:
                if error.args != (_run_of(asked),):
                    raise
                # As of a run that has ended: a node that is told of a fault would send its late reply for ever.
                raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "no such run is here any more") from error

        if kept is not None:
            await run_in_threadpool(verify)
            await kept(int(asked.node.node_id))
            if await request.is_disconnected():  # What a node that was killed is given, nobody else would get.
                return Response(status_code=503)
        return _written(await run_in_threadpool(handled))

    return answer


def _run_of(asked: Any) -> int | None:
    """The run that a node's request is about, if it is about one."""
    messages = getattr(asked, "messages_list", ())
    return messages[0].metadata.run_id if messages else getattr(asked, "run_id", None)


def _from_task(kind: type, handler: Callable[..., Any]) -> Callable[[Any], Awaitable[Any]]:
    """What answers a ServerApp or executor, which shows the token of its task."""
    from fastapi.concurrency import run_in_threadpool
    from flwr.supercore.constant import TASK_TOKEN_HEADER
    from flwr.supercore.dependencies.runtime import get_runtime_handlers, get_runtime_state
    from flwr.supercore.dependencies.task import authenticate_task

    async def answer(request: Any) -> Any:
        asked = await _read(request, kind)

        def handled() -> Any:
            state = get_runtime_state(request)
            task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
            return handler(request=asked, state=state, handlers=get_runtime_handlers(request), task=task)

        return _written(await run_in_threadpool(handled))

    return answer


async def _read(request: Any, kind: type) -> Any:
    from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware as Flowers

    Flowers._check_request_media_type(request)
    return Flowers._parse_request(await request.body(), kind)


def _written(answer: Any) -> Any:
    from fastapi.responses import Response
    from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

    return Response(answer.SerializeToString(), media_type=PROTOBUF_MEDIA_TYPE)
