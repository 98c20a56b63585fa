"""Nodes of a real Ray cluster on this machine, each with processes of its own, which are found by a mark."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import ray

from tests.waiting import wait_for

MARK = "YORIAI_TEST_NODE"
"""The variable that every process of a node inherits, with the node's mark."""

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0", "OMP_NUM_THREADS": "1"}


@dataclass
class RayCluster:
    """A head with one processor, and further nodes that join it.

    Attributes:
        address: as `--ray-address` takes it.
        head: the head's mark.
    """

    address: str
    head: str

    @contextmanager
    def node(self, variables: Mapping[str, str] | None = None) -> Iterator[str]:
        """One more node, with these variables in its environment; its mark."""
        with _node([f"--address={self.address}"], variables or {}) as mark:
            ray.init(address=self.address, logging_level=logging.CRITICAL, log_to_driver=False)
            try:  # A node says that it has started before the head has heard of it.
                wait_for(lambda: any(mark in node["Resources"] for node in ray.nodes()))
            finally:
                ray.shutdown()
            yield mark


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster of a head alone; none of its processes is left at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="yr", dir="/tmp", ignore_cleanup_errors=True))
        options = ["--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
        yield RayCluster(f"127.0.0.1:{port}", stack.enter_context(_node(options, {})))


@contextmanager
def _node(options: list[str], variables: Mapping[str, str]) -> Iterator[str]:
    mark = f"node-{uuid.uuid4()}"
    common = ["--block", "--num-cpus=1", "--dashboard-agent-listen-port=0", "--object-store-memory=80000000"]
    common.append(f"--resources={json.dumps({mark: 1})}")
    started = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *common, *options],
        env={**os.environ, **_QUIET, **variables, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert started.stdout is not None
        shown: list[str] = []
        while "Ray runtime started" not in (line := started.stdout.readline()):
            shown.append(line)
            assert line, "".join(shown)
        yield mark
    finally:
        started.terminate()  # One that is only killed is looked for by Ray for half a minute.
        with suppress(subprocess.TimeoutExpired):
            started.wait(10)
        kill_node(mark)
        started.wait()
        started.stdout.close()
        wait_for(lambda: not carrying(MARK, mark))


def kill_node(mark: str) -> None:
    """Kill all processes of a node at once, the caller last if it is one of them."""
    found = {int(process.split()[0]) for process in carrying(MARK, mark)}
    for process in sorted(found, key=lambda number: number == os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def carrying(variable: str, value: str) -> set[str]:
    """The processes that inherited a variable with this value, orphans too: number and name."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{variable}={value}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.add(f"{place.name} {(place / 'comm').read_text().strip()}")
        except OSError:
            continue
    return found
