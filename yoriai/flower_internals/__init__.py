"""All that Yoriai needs of Flower beyond its public interfaces. No other module reaches so deep.

Each of the names below belongs to one version of Flower, so another one is refused when a program starts.
`tests/test_flower_internals.py` says what of it each function counts on. Flower is imported when it is needed.

    supernode.py    the SuperNode: its waits are the caller's, it opens no bundle, and leaves no minute behind a kill
    runtime.py      the executor: what a SuperNode has to be answered, over the interface that Flower's own uses
    control.py      the coordinator's commands to its SuperLink, without a process of Flower's each
    superlink.py    the SuperLink: it tells what comes and goes
    state.py        what it knows: in memory, with large objects on disk
    backend.py      the simulation: threads of this process answer in place of Flower's workers
    straight.py     in the SuperLink, the requests of messages: by Flower's handlers, past its layers
"""

from yoriai.flower_internals.backend import answering_threads
from yoriai.flower_internals.control import Control, is_key_in_use
from yoriai.flower_internals.runtime import Runtime, Task
from yoriai.flower_internals.state import KnownNode, keep_in_memory
from yoriai.flower_internals.superlink import Listener, serve_superlink
from yoriai.flower_internals.supernode import LeftBehind, Waits, serve_node
from yoriai.flower_internals.version import VERSION, check_version

__all__ = [
    "VERSION",
    "Control",
    "KnownNode",
    "LeftBehind",
    "Listener",
    "Runtime",
    "Task",
    "Waits",
    "answering_threads",
    "check_version",
    "is_key_in_use",
    "keep_in_memory",
    "serve_node",
    "serve_superlink",
]
