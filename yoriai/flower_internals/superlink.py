"""The SuperLink: it tells what comes and goes."""

from collections.abc import Callable
from typing import Any, Protocol

from yoriai.flower_internals.straight import Application, Kept, straight
from yoriai.flower_internals.version import replace


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


def serve_superlink(listener: Listener, kept: Kept, around: Callable[[Application], Application]) -> None:
    """Be Flower's SuperLink, by the arguments in `sys.argv`, until it ends.

    Args:
        listener: is told what comes and goes.
        kept: keeps a node's question for messages.
        around: puts an application of the caller's around Flower's; what that answers itself nobody has authenticated.
    """
    import uvicorn
    from fastapi.middleware import Middleware
    from flwr.superlink import main
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.superlink.servicer.runtime import runtime_handlers

    _tell_of_replies(fleet_handlers, listener)
    _tell_of_messages(runtime_handlers, listener)
    flowers, ends = main._get_middleware(), uvicorn.Server.handle_exit
    replace(main, "_get_middleware", lambda: [Middleware(around), Middleware(straight, kept), *flowers])

    def handle_exit(server: uvicorn.Server, *signal: Any) -> None:
        listener.is_over()
        ends(server, *signal)

    replace(uvicorn.Server, "handle_exit", handle_exit)
    flower_superlink()


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
        replace(handlers, wrapped.__name__, wrapped)


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
        replace(handlers, wrapped.__name__, wrapped)
