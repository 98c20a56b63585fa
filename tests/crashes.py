"""A process that is killed at a chosen step of its work on files, and a disk that is full."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_KILLED, _FAILED = 86, 87


def survives(steps: int, work: Callable[..., object], *arguments: object) -> bool:
    """Whether `work(*arguments)` is done within this many syncs, renames and links.

    It runs in a child, which dies before the next one; nothing is cleaned up there, as after kill -9 or a power cut.
    """
    child = os.fork()
    if child == 0:
        try:
            _die_after(steps)
            work(*arguments)
            os._exit(0)
        finally:
            os._exit(_FAILED)  # An error must not carry the child on into the tests of its parent.
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != _FAILED
    return code != _KILLED


def _die_after(steps: int) -> None:
    left = [steps]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            if left[0] == 0:
                os._exit(_KILLED)
            left[0] -= 1
            return function(*arguments)

        return step

    os.fsync, os.link = counted(os.fsync), counted(os.link)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """No file can grow beyond the limit: writing on fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
