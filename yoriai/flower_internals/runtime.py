"""What a SuperNode has to be answered, over the interface that Flower's own executor uses."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from flwr.app import Message

# For the SuperNode on this machine to answer its executor, retries included.
_RUNTIME_S: Final = 60.0
_TASK_TYPES: Final = ("flwr-clientapp", "flwr-agentapp")
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"


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
