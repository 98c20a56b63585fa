"""A site's SuperNode: its waits are the caller's, it opens no bundle, and leaves no minute behind a kill."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from yoriai.flower_internals.straight import straight
from yoriai.flower_internals.version import replace

# What Flower's SuperNode sleeps after an empty answer, and while a message is not answered yet.
_NO_MESSAGE_S: Final = 3
_NO_REPLY_S: Final = 0.5
# Between two attempts to reach a server that is away; Flower's own is 20.
_LONGEST_RETRY_S: Final = 5.0
# How often, and after which pause, a server that does not know a node is asked again before the SuperNode ends.
_ADMISSIONS: Final = 15
_ADMISSION_S: Final = 2.0


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
    from flwr.supernode import fleet_http_connection, main, start_client_internal
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

    flowers = main.create_app

    def create_app(*arguments: Any, **named: Any) -> Any:
        app = flowers(*arguments, **named)
        app.add_middleware(straight)
        return app

    replace(main, "create_app", create_app)
    replace(start_client_internal, "time", _Clock(waits))
    replace(start_client_internal, "get_fused_config_from_fab", lambda *_: {})
    replace(fleet_http_connection, "FleetHttpClient", Client)
    replace(http_retry, "MAX_RETRY_DELAY", _LONGEST_RETRY_S)
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
