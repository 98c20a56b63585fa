"""Flower's own simulation runtime as the engine.

The same sites and coordinator, with Flower's messages between them. Flower is imported inside the function that runs
it, because it reads its settings from the environment when it is imported.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from yoriai.errors import RoundError
from yoriai.flower import ENVIRONMENT
from yoriai.flower_internals import answering_threads
from yoriai.server.round.messenger import Transport
from yoriai.simulations.engines.cluster import Cluster
from yoriai.simulations.engines.hosts import Hosts
from yoriai.simulations.engines.site_host import SiteHost
from yoriai.simulations.engines.site_spec import SiteSpec

if TYPE_CHECKING:
    from flwr.app import Context

    from yoriai.client.node.client_app import Door

_Result = TypeVar("_Result")

_ENVIRONMENT = {
    **ENVIRONMENT,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # The worker sees the GPUs although Ray hands out none.
}

# Messages at a cluster's hosts at a time: so many that no host waits while another one's are handed out.
_AT_ONCE: Final = 64
_LONGEST_PLACE = 24  # In characters: Ray's sockets lie 83 below it, and a socket's path has at most 107.


@dataclass(frozen=True)
class _Doors:
    """Builds a site where a message for it arrives, and keeps it there; travels to Flower's worker by pickle."""

    specs: Mapping[str, SiteSpec]
    base_digest: str

    def __call__(self, context: "Context") -> "Door":
        if not _HOST:
            _HOST.append(SiteHost(self.base_digest))
        return _HOST[0].site(self.specs[_name_of(context, self.specs)])


# Of the worker process, and as long-lived as it.
_HOST: list[SiteHost] = []


@dataclass(frozen=True)
class _FarDoor:
    """A site that a host of a cluster plays."""

    name: str
    hosts: Hosts

    def handle(self, data: bytes) -> bytes:
        """Have it answer one message; raises as `Hosts.handle`."""
        return self.hosts.handle(self.name, data)


@contextmanager
def _doors(
    specs: Mapping[str, SiteSpec], base_digest: str, cluster: Cluster | None, on_none: Callable[[], None]
) -> Iterator[tuple[Callable[["Context"], "Door"], Callable[[], None]]]:
    """How a site is reached, and what ends those that play sites elsewhere, at work or not.

    Args:
        on_none: called when none of those is left.
    """
    if cluster is None:
        yield _Doors(dict(specs), base_digest), lambda: None
        return
    with cluster.hosts(specs, base_digest, on_none) as hosts, answering_threads(min(len(specs), _AT_ONCE), hosts.close):
        yield lambda context: _FarDoor(_name_of(context, specs), hosts), hosts.close


def run_in_flower(
    specs: Mapping[str, SiteSpec],
    base_digest: str,
    run: Callable[[Transport], _Result],
    cluster: Cluster | None = None,
) -> _Result:
    """Run a coordinator over Flower's simulation runtime.

    Args:
        specs: the sites, by name.
        base_digest: of the base model that the worker loads.
        run: gets the Transport; what it returns is returned, and its error comes out here.
        cluster: whose nodes play the sites; None: Flower's own worker on this machine does.

    Raises:
        ConfigError: there is no such cluster, or a node of it is not as this machine.
        BaseModelError, AssetError: a node of the cluster has not the base.
        RoundError: Flower's runtime ended before the run did, or no node of the cluster is left.
    """
    results: list[_Result] = []
    failures: list[BaseException] = []
    stop, none_left = threading.Event(), threading.Event()

    def abandon() -> None:
        none_left.set()
        stop.set()  # The coordinator would offer the job for as long as a site may take to come back.

    with _surroundings() as folder, _doors(specs, base_digest, cluster, abandon) as (door_of, end_hosts):

        def guarded(transport: Transport) -> None:
            try:
                results.append(run(transport))
            except BaseException as error:
                failures.append(error)
                raise
            finally:
                end_hosts()  # One may still work on what nobody waits for.

        from flwr.simulation import run_simulation

        from yoriai.client.node.client_app import client_app
        from yoriai.server.service.server_app import server_app

        try:
            run_simulation(
                server_app=server_app(guarded, expected_nodes=len(specs), stop=stop),
                client_app=client_app(door_of),
                num_supernodes=len(specs),
                backend_config=_backend(folder),  # type: ignore[arg-type]
            )
        except Exception:
            if not failures:
                raise
        finally:
            stop.set()  # After Ctrl-C the coordinator's thread would wait for replies that cannot come.
    if failures and none_left.is_set():
        remedy = "start its nodes anew, or see why their processes died, then resume"
        raise RoundError("no node of the Ray cluster is left to play sites", remedy=remedy) from failures[0]
    if failures:
        raise failures[0]
    if not results:
        raise RoundError("Flower's runtime ended before the run did", remedy="resume it")
    return results[0]


def _name_of(context: "Context", specs: Mapping[str, SiteSpec]) -> str:
    """The site of a node of Flower's, which are numbered in the order of the sites' names."""
    return sorted(specs)[int(context.node_config["partition-id"])]


def _backend(folder: str) -> dict[str, object]:
    """One worker process with all processors, so that one base model in memory serves every site of it.

    What the worker prints stays in the worker; its errors come back with the replies.
    """
    processors = os.cpu_count() or 1
    return {
        "init_args": {
            "num_cpus": processors,
            "include_dashboard": False,
            "logging_level": "ERROR",
            "log_to_driver": False,
            "_temp_dir": folder,
        },
        "client_resources": {"num_cpus": processors, "num_gpus": 0.0},
    }


@contextmanager
def _surroundings() -> Iterator[str]:
    """A folder for Ray's and Flower's files, a quiet environment, only errors in Flower's log; all put back at the end.

    Settings of the user's own environment win.
    """
    environment, logger = dict(os.environ), logging.getLogger("flwr")
    place = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_PLACE else "/tmp"
    with tempfile.TemporaryDirectory(prefix="yoriai-", dir=place, ignore_cleanup_errors=True) as folder:
        os.environ.update({**_ENVIRONMENT, "FLWR_HOME": folder, **environment})
        import flwr.supercore.logger  # noqa: F401 - sets the logger's level when it is first imported

        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield folder
        finally:
            logger.setLevel(level)
            os.environ.clear()
            os.environ.update(environment)
