"""All that Yoriai needs of Flower beyond its public interfaces. No other module reaches so deep.

Each of the names below belongs to one version of Flower, so another one is refused when a program starts.
`tests/test_flower_internals.py` says what of it each function counts on.

    serve_node       the SuperNode: its waits are the caller's, it opens no bundle, and leaves no minute behind a kill
    Runtime, Task    the executor: what a SuperNode has to be answered, over the interface that Flower's own uses
    Control          the coordinator's commands to its SuperLink, without a process of Flower's each
    serve_superlink  the SuperLink: patient with its database, and it tells what comes and goes
"""

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from yoriai.errors import ConfigError

if TYPE_CHECKING:
    from flwr.app import Message

VERSION: Final = "1.41.0"
# What Flower's SuperNode sleeps after an empty answer, and while a message is not answered yet.
_NO_MESSAGE_S: Final = 3
_NO_REPLY_S: Final = 0.5
# Between two attempts to reach a server that is away; Flower's own is 20.
_LONGEST_RETRY_S: Final = 5.0
# How often, and after which pause, a server that does not know a node is asked again before the SuperNode ends.
_ADMISSIONS: Final = 15
_ADMISSION_S: Final = 2.0
# SQLite waits so long for its lock; Flower's own is 5 s, and whoever has waited so long gets HTTP 500.
_LOCKED_MS: Final = 120_000
# For the SuperNode on this machine to answer its executor, retries included.
_RUNTIME_S: Final = 60.0
_CLEAN_UP_S: Final = 1.0
# Layers around each request that do nothing without plug-ins, licences and tracing, at half a millisecond each.
_UNUSED: Final = frozenset(
    {"ControlLicenseMiddleware", "ControlEventLogMiddleware", "FleetEventLogMiddleware", "RuntimeTracingMiddleware"}
)
_TASK_TYPES: Final = ("flwr-clientapp", "flwr-agentapp")
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"


def check_version() -> None:
    """Raise ConfigError unless Flower is the version that this module was written for."""
    found = metadata.version("flwr")
    if found != VERSION:
        raise ConfigError(
            "Yoriai reaches into Flower's own modules, which differ from version to version",
            found=f"flwr {found}",
            expected=f"flwr {VERSION}",
            remedy=f"pip install flwr=={VERSION}",
        )


def _replace(place: Any, name: str, value: object) -> None:
    """Set what is there already."""
    getattr(place, name)
    setattr(place, name, value)


# A site's SuperNode


class Waits(Protocol):
    """What a SuperNode does when there is nothing to do."""

    def for_message(self) -> None:
        """The server had no message; return when it is to be asked again."""
        ...

    def for_reply(self) -> None:
        """A message waits for its answer; return when there may be one."""
        ...


class LeftBehind(Protocol):
    """Remembers the number of a node that the server may still take for connected."""

    def number(self) -> int | None:
        """Of a SuperNode of this place that has ended without a word; None if there was none."""
        ...

    def is_connected(self, node_id: int) -> None:
        """The server has let this process in."""
        ...

    def has_left(self) -> None:
        """This process has told the server that it leaves."""
        ...


class _Clock:
    """Stands in for the module `time` where the SuperNode sleeps."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def sleep(self, seconds: float) -> None:
        if seconds == _NO_MESSAGE_S:
            self._waits.for_message()
        elif seconds == _NO_REPLY_S:
            self._waits.for_reply()
        else:
            time.sleep(seconds)


def serve_node(waits: Waits, left: LeftBehind) -> None:
    """Be Flower's SuperNode, by the arguments in `sys.argv`, until it ends.

    A SuperNode that was killed leaves a node that the server takes for connected, and lets in no other of its key for a
    minute. So what an earlier process left behind is signed off first, by the node's own key.
    """
    import httpx
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.fleet_http_client import FleetHttpClient

    class Client(FleetHttpClient):
        def ActivateNode(self, request: Any) -> Any:
            if (number := left.number()) is not None:
                with suppress(httpx.HTTPError):
                    super().DeactivateNode(DeactivateNodeRequest(node_id=number))
            response = _admitted(super().ActivateNode, request)
            left.is_connected(response.node_id)
            return response

        def DeactivateNode(self, request: Any) -> Any:
            response = super().DeactivateNode(request)
            left.has_left()
            return response

    _replace(start_client_internal, "time", _Clock(waits))
    _replace(start_client_internal, "get_fused_config_from_fab", lambda *_: {})
    _replace(fleet_http_connection, "FleetHttpClient", Client)
    _replace(http_retry, "MAX_RETRY_DELAY", _LONGEST_RETRY_S)
    flower_supernode()


def _admitted(activate: Callable[[Any], Any], request: Any) -> Any:
    """Ask again for a while where the server does not know the key yet: a new member is registered within seconds.

    What it says is written as Flower writes it at the end, for `node_words.py` to find.
    """
    import httpx

    for _ in range(_ADMISSIONS):
        try:
            return activate(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if not 400 <= status < 500 or status == httpx.codes.UNAUTHORIZED:
                raise
            sys.stderr.write(f"Failed to initialize the connection to the SuperLink.\n{error.response.text}\n")
            time.sleep(_ADMISSION_S)
    return activate(request)


# Its executor


class Runtime:
    """The SuperNode's interface for whoever answers its messages.

    Args:
        address: HOST:PORT on loopback.
        secret: by which the SuperNode knows its executor; others get no message.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

        self._address = address
        signs = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))
        self._client = _client(address, signs)

    def acquire(self) -> "Task | None":
        """The oldest message that nobody answers yet; None if there is none."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest

        found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=_TASK_TYPES))
        return Task(self._address, found.token) if found.HasField("task") and found.token else None


class Task:
    """One message to be answered. Not safe for several threads, but for `beat`."""

    def __init__(self, address: str, token: str) -> None:
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor

        self._client = _client(address, RuntimeTokenHttpInterceptor(token))
        self._node_id = self._run_id = 0

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def beat(self) -> None:
        """Say that the message is being worked on; Flower wants to hear so every minute."""
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def pull(self) -> "tuple[Message, Mapping[str, object]] | None":
        """The message, and the node's own configuration as the site's operator set it.

        The bundle comes along in Flower's answer. It is neither opened nor kept. A message that cannot be read is one
        without content. None where parts of it are not here: the SuperNode has given it up, its run being over, and
        left the task behind; nobody waits for an answer.
        """
        from flwr.app import Message
        from flwr.common.serde import message_from_proto
        from flwr.proto.node_pb2 import Node
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullTaskInputRequest, PushTaskOutputRequest
        from flwr.supercore.inflatable import inflatable_protobuf_utils as over_http
        from flwr.supercore.inflatable import inflatable_utils
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.task_identity import TaskIdentity

        found = self._client.PullTaskInput(PullTaskInputRequest())
        self._node_id, self._run_id = found.context.node_id, found.run.run_id
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = found.task_id, self._run_id, self._node_id
        configuration = {key: value.string for key, value in found.context.node_config.items()}
        del found
        told = self._client.PullMessages(PullAppMessagesRequest())
        node, (tree,) = Node(node_id=self._node_id), told.message_object_trees
        pull = over_http.make_pull_object_fn_protobuf(self._client.PullObject, node, self._run_id)
        try:
            parts = [each.object_id for each in iterate_object_tree(tree)]
            contents = inflatable_utils.pull_objects(list(dict.fromkeys(parts)), pull, max_tries_per_object=1)
        except inflatable_utils.ObjectPullError:
            self._client.PushTaskOutput(PushTaskOutputRequest(sub_status="failed"))
            return None
        confirm = over_http.make_confirm_message_received_fn_protobuf
        confirm(self._client.ConfirmMessageReceived, node, self._run_id)(tree.object_id)
        try:
            message = inflatable_utils.inflate_object_from_contents(tree.object_id, contents)
            assert isinstance(message, Message)
        except Exception:  # Whatever a stranger's bytes lead to.
            message = message_from_proto(told.messages_list[0])
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message, configuration

    def push(self, reply: "Message") -> None:
        """Give the SuperNode the answer to the message that was pulled; the task is done then."""
        from flwr.app.message import remove_content_from_message
        from flwr.common.serde import message_to_proto
        from flwr.proto.node_pb2 import Node
        from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushTaskOutputRequest
        from flwr.supercore.inflatable import inflatable_object
        from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
        from flwr.supercore.inflatable.inflatable_utils import push_objects

        reply.metadata.__dict__["_message_id"] = reply.object_id
        bare = message_to_proto(remove_content_from_message(reply))
        with inflatable_object.no_object_id_recompute():
            tree = inflatable_object.get_object_tree(reply)
            told = self._client.PushMessages(PushAppMessagesRequest(messages_list=[bare], message_object_trees=[tree]))
            objects = inflatable_object.get_all_nested_objects(reply)
            del reply
            node = Node(node_id=self._node_id)
            put = make_push_object_fn_protobuf(self._client.PushObject, node, self._run_id, told.session_id)
            push_objects(objects, put, object_ids_to_push=set(told.objects_to_push))
        self._client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed"))


def _client(address: str, interceptor: Any) -> Any:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    patient = make_simple_http_retry_invoker()
    patient.max_time = _RUNTIME_S
    versioned = RuntimeVersionHttpInterceptor(component_name="yoriai-executor")
    return RuntimeHttpClient.from_server_address(
        address, insecure=True, root_certificates=None, interceptors=[versioned, interceptor], retry_invoker=patient
    )


# The server's SuperLink


class Control:
    """A SuperLink's control interface, over which jobs are started and nodes registered.

    Every method raises httpx.HTTPError where the SuperLink cannot be reached, or refuses.

    Args:
        address: HOST:PORT.
        authority: the CA of its certificate, in PEM.
    """

    def __init__(self, address: str, authority: bytes) -> None:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        versioned = RuntimeVersionHttpInterceptor(component_name="yoriai-server")
        self._client = ControlHttpClient.from_server_address(
            address, insecure=False, root_certificates=authority, interceptors=[versioned]
        )

    def start(self, bundle: Path, settings: Mapping[str, str | int]) -> int:
        """Start a run of a bundle, which lies unpacked in a folder; the run's number."""
        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        packed = build_fab_from_disk(bundle)
        fab = fab_to_proto(Fab(hashlib.sha256(packed).hexdigest(), packed, {}))
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(settings)), federation="")
        return int(self._client.StartRun(request).run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._client.StopRun(StopRunRequest(run_id=run_id))

    def register(self, name: str, key: bytes) -> int:
        """Register a node by its public key in OpenSSH's form; its number."""
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key
        from flwr.proto.control_pb2 import RegisterNodeRequest
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        public = load_ssh_public_key(key)
        assert isinstance(public, EllipticCurvePublicKey)
        request = RegisterNodeRequest(public_key=public_key_to_bytes(public), name=name)
        return int(self._client.RegisterNode(request).node_id)

    def unregister(self, node_id: int) -> None:
        """Take a node out."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[int, tuple[bool, str]]:
        """Registered nodes by number: whether each is connected, and since when it is or is not, as ISO 8601 writes it.

        One that was never connected has no time.
        """
        from flwr.proto.control_pb2 import ListNodesRequest

        found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {
            int(node.node_id): (True, node.last_activated_at)
            if node.status == "online"
            else (False, node.last_deactivated_at)
            for node in found
        }


def is_key_in_use(error: Exception) -> bool:
    """Whether a refusal says that a node's key is registered already."""
    from flwr.supercore.error import ApiErrorCode, FlowerError

    response = getattr(error, "response", None)
    told = FlowerError.from_json(response.text) if response is not None else None
    return told is not None and told.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE


class Listener(Protocol):
    """Is told what comes and goes at a SuperLink. Called from several threads."""

    def expects(self, session: str, message_id: str, to: "int | str", objects: set[str]) -> None:
        """A message was announced, to a node by its number or as the reply to a message; these parts are to come."""
        ...

    def has_part(self, session: str, object_id: str) -> None:
        """A part has come."""
        ...

    def has_asked(self, node_id: int, since: int, *, in_vain: bool) -> None:
        """A node has got a message, or there was none of those that had come before `since`, as `now` gave it."""
        ...

    def now(self, node_id: int) -> int:
        """How many messages have come for a node."""
        ...

    def has_left(self, node_id: int) -> None:
        """A node has signed off."""
        ...

    def is_over(self) -> None:
        """The SuperLink is to end: nobody waits any longer."""
        ...


Wrap = Callable[[Any], Any]
"""Around the ASGI application, inside of what authenticates."""


def serve_superlink(listener: Listener, around: Wrap) -> None:
    """Be Flower's SuperLink, by the arguments in `sys.argv`, until it ends.

    Args:
        around: puts an application of the caller's around Flower's; it finds a node's request authenticated.
    """
    _be_patient()
    import uvicorn
    from fastapi.middleware import Middleware
    from flwr.superlink import main
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.superlink.servicer.runtime import runtime_handlers

    _spare_the_database()
    _tell_of_replies(fleet_handlers, listener)
    _tell_of_messages(runtime_handlers, listener)
    flowers, ends = main._get_middleware, uvicorn.Server.handle_exit
    needed = [each for each in flowers() if getattr(each.cls, "__name__", "") not in _UNUSED]
    _replace(main, "_get_middleware", lambda: [*needed, Middleware(around)])

    def handle_exit(server: uvicorn.Server, *signal: Any) -> None:
        listener.is_over()
        ends(server, *signal)

    _replace(uvicorn.Server, "handle_exit", handle_exit)
    flower_superlink()


def _be_patient() -> None:
    """Have SQLite wait for its lock. What uses the setting takes it when it is first imported."""
    from flwr.supercore import constant

    # On every connection in this order, so the last one counts.
    _replace(constant, "SQLITE_PRAGMAS", (*constant.SQLITE_PRAGMAS, ("busy_timeout", str(_LOCKED_MS))))


def _spare_the_database() -> None:
    """Let requests take turns at the database, and have them write what they are about alone.

    SQLite takes one writer at a time, and lets the others sleep for up to 0.1 s before they look again. Flower's
    requests write on all occasions: traffic that nobody reads, and whether some task has gone silent, which to know
    once a second is enough.
    """
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.corestate.sql_corestate import SqlCoreState
    from flwr.supercore.sql_mixin import SqlMixin

    turn, session, clean_up = threading.RLock(), SqlMixin.session, SqlCoreState._cleanup_expired_task_tokens
    cleaned_at = float("-inf")

    @contextmanager
    def taking_turns(self: SqlMixin) -> Iterator[Any]:
        with turn, session(self) as found:
            yield found

    def now_and_then(self: SqlCoreState) -> None:
        nonlocal cleaned_at
        if time.monotonic() - cleaned_at >= _CLEAN_UP_S:
            cleaned_at = time.monotonic()
            clean_up(self)

    _replace(SqlMixin, "session", taking_turns)
    _replace(SqlCoreState, "_cleanup_expired_task_tokens", now_and_then)
    _replace(SqlLinkState, "store_traffic", lambda *_, **__: None)


def asking_node(scope: Mapping[str, Any]) -> int | None:
    """The node that asks for messages, if this is what an ASGI application was called with."""
    if scope.get("path") != "/v1/fleet/pull-messages":
        return None
    return int(scope["state"]["protobuf_request"].node.node_id)


def _tell_of_replies(handlers: Any, listener: Listener) -> None:
    """Of what nodes ask and say, once Flower has dealt with it."""
    push, part = handlers.push_messages, handlers.push_object
    pull, leave = handlers.pull_messages, handlers.deactivate_node

    def push_messages(request: Any, state: Any) -> Any:
        response = push(request=request, state=state)
        sent = request.messages_list[0].metadata
        listener.expects(response.session_id, sent.message_id, sent.reply_to_message_id, set(response.objects_to_push))
        return response

    def push_object(request: Any, state: Any) -> Any:
        response = part(request=request, state=state)
        if response.stored:
            listener.has_part(request.session_id, request.object_id)
        return response

    def pull_messages(request: Any, state: Any, store: Any) -> Any:
        node_id = int(request.node.node_id)
        since = listener.now(node_id)
        response = pull(request=request, state=state, store=store)
        listener.has_asked(node_id, since, in_vain=not response.messages_list)
        return response

    def deactivate_node(request: Any, state: Any) -> Any:
        response = leave(request=request, state=state)
        listener.has_left(int(request.node_id))
        return response

    for wrapped in (push_messages, push_object, pull_messages, deactivate_node):
        _replace(handlers, wrapped.__name__, wrapped)


def _tell_of_messages(handlers: Any, listener: Listener) -> None:
    """Of what the coordinator sends, once Flower has dealt with it."""
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

    push, part = handlers.push_messages, handlers.push_object

    def push_messages(request: Any, state: Any, task: Any) -> Any:
        response = push(request, state, task)
        missing = set(response.objects_to_push)
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            parts = {each.object_id for each in iterate_object_tree(tree)} & missing
            sent = message.metadata
            listener.expects(response.session_id, sent.message_id, int(sent.dst_node_id), parts)
        return response

    def push_object(request: Any, state: Any, task: Any) -> Any:
        response = part(request, state, task)
        if response.stored:
            listener.has_part(request.session_id, request.object_id)
        return response

    for wrapped in (push_messages, push_object):
        _replace(handlers, wrapped.__name__, wrapped)
