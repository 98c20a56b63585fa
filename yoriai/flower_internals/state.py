"""What a SuperLink knows: in memory, as is Flower's own default, but for large objects and the numbers of its nodes.

A request is answered from memory in a fifth of the time that Flower's SQLite state takes. Nothing is lost that was of
use: a run ends with its SuperLink either way, and the nodes stand in the server's own book.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from yoriai.flower_internals.control import public_key
from yoriai.flower_internals.version import replace

# A page or two of a disk; the objects of which large payloads consist have 5 MiB.
_SMALL_BYTES: Final = 64 * 1024
_IN_A_FILE: Final = b"in a file"
# Of a node's first heartbeat, in seconds; its next one tells its own.
_HEARTBEAT_S: Final = 30.0


@dataclass(frozen=True)
class KnownNode:
    """A node that was registered before: its name, and its public key in OpenSSH's form."""

    name: str
    key: bytes


def keep_in_memory(nodes: Mapping[int, KnownNode], objects: Path) -> None:
    """Have the SuperLink begin with these nodes, by their numbers, and with no run; to be called before it starts.

    Args:
        objects: folder for large objects, which is emptied.
    """
    from flwr.server.superlink.linkstate import in_memory_linkstate, linkstate_factory
    from flwr.supercore.object_store import object_store_factory

    shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(mode=0o700)

    class State(in_memory_linkstate.InMemoryLinkState):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for number, node in nodes.items():
                _remember(self, number, node)

        def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
            """Forget what a run has left behind, with its coordinator's end or, where that was killed, the next one's.

            Flower does so only for runs that are stopped.
            """
            is_done = super().finish_task(task_id, sub_status, details)
            for run_id in list(self.run_ids):
                if is_done and self._is_finished_run(run_id):
                    self.cleanup_run(run_id)
            return is_done

    replace(linkstate_factory, "InMemoryLinkState", State)
    replace(object_store_factory, "InMemoryObjectStore", lambda: _object_store(objects))


def _remember(state: Any, number: int, node: KnownNode) -> None:
    """Create a node under a number that it had before; it is taken for away until it is heard of."""
    from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
    from flwr.server.superlink.linkstate import in_memory_linkstate

    draws = replace(in_memory_linkstate, "generate_rand_int_from_bytes", lambda *_, **__: number)
    state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key(node.key), 0, name=node.name)
    replace(in_memory_linkstate, "generate_rand_int_from_bytes", draws)
    state.activate_node(number, _HEARTBEAT_S)
    state.deactivate_node(number)


def is_there(state: Any, node_id: int) -> None:
    """A node asks, which it does before its next heartbeat where the SuperLink has been started meanwhile."""
    from flwr.supercore.constant import NodeStatus

    (node,) = state.get_node_info(node_ids=[node_id])
    if node.status == NodeStatus.OFFLINE:
        state.acknowledge_node_heartbeat(node_id, _HEARTBEAT_S)


def _object_store(folder: Path) -> Any:
    """Flower's store in memory, with large contents in files."""
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

    in_files: set[str] = set()

    class Store(InMemoryObjectStore):
        def put(self, object_id: str, object_content: bytes) -> None:
            with self.lock_store:
                super().put(object_id, object_content)
                if len(object_content) > _SMALL_BYTES and object_id not in in_files:
                    (folder / object_id).write_bytes(object_content)
                    in_files.add(object_id)
                    self.store[object_id].content = _IN_A_FILE

        def get(self, object_id: str) -> bytes | None:
            with self.lock_store:
                return (folder / object_id).read_bytes() if object_id in in_files else super().get(object_id)

        def delete(self, object_id: str) -> None:
            with self.lock_store:
                super().delete(object_id)
                if object_id in in_files and object_id not in self.store:
                    in_files.remove(object_id)
                    (folder / object_id).unlink(missing_ok=True)

    return Store()
