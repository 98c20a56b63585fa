"""Flower's simulation without worker processes of Flower's: threads of this process answer its messages.

Flower's own backend hands a message to any process that is idle, and goes on handing them to one whose machine died.
Whoever plays the sites elsewhere has to choose the process by the site, and so takes the backend's place.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from yoriai.flower_internals.version import check_version, replace

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp


@contextmanager
def answering_threads(threads: int, on_end: Callable[[], None]) -> Iterator[None]:
    """Within the block, `run_simulation` calls its ClientApp in threads of this process.

    Args:
        threads: how many messages are answered at a time.
        on_end: called when the simulation ends, however it does; a ClientApp that waits then has to return or raise.

    Raises:
        ConfigError: another version of Flower is installed.
    """
    check_version()
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.server.superlink.fleet.vce.backend import raybackend
    from flwr.server.superlink.fleet.vce.backend.backend import Backend

    class Threads(Backend):
        def __init__(self, backend_config: Any) -> None:
            super().__init__(backend_config)

        def build(self, app_fn: "Callable[[], ClientApp]") -> None:
            self._app = app_fn()

        @property
        def num_workers(self) -> int:
            return threads

        def is_worker_idle(self) -> bool:
            return True

        def process_message(self, message: "Message", context: "Context") -> "tuple[Message, Context]":
            return self._app(message=message, context=context), context

        def terminate(self) -> None:
            on_end()

    kept_backend = replace(raybackend, "RayBackend", Threads)
    # Flower's own pool has a few more threads than this machine has processors, however many workers there are.
    kept_pool = replace(vce_api, "ThreadPoolExecutor", partial(ThreadPoolExecutor, max_workers=threads))
    try:
        yield
    finally:
        replace(raybackend, "RayBackend", kept_backend)
        replace(vce_api, "ThreadPoolExecutor", kept_pool)
