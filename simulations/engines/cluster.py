"""A Ray cluster that is there already, for a simulation: a host at each node plays the sites that are its own.

    this process, a node of the cluster             each node
      coordinator - Flower - Cluster's hosts   ->     NodeHost: base, sites, their ledgers in the run's shared folder

Only what Ray offers publicly is used, and it is imported when it is needed.
"""

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from yoriai.errors import ConfigError, YoriaiError
from yoriai.simulations.engines.hosts import Hosts, Node, what_went_wrong
from yoriai.simulations.engines.node_host import NodeHost, software
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.system.run_files import run_file_fault

# Of a node's first answer, for which Ray starts a process; of the base, which it may have to fetch; of the head.
_START_S: Final = 300.0
_LOAD_S: Final = 1800.0
# How long a node that is there may start no process: whoever places it may not know of a node that has just joined.
_UNPLACED_S: Final = 30.0
_AGAIN_S: Final = 0.5
_ANSWER_S: Final = 10.0
# The first thing that each process of Ray's asks of a cluster's head.
_ASKS_FOR_RAY: Final = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_SHARED: Final = ".shared"


@dataclass(frozen=True)
class Cluster:
    """Where a run's sites are to be played.

    Attributes:
        address: HOST:PORT of the cluster's head. This machine is one of its nodes.
        folder: the run's, absolute; under this name every node sees it, with its locks.
        say: told of the nodes, and of one that is gone.
    """

    address: str
    folder: Path
    say: Callable[[str], None]

    @contextmanager
    def hosts(self, specs: Mapping[str, SiteSpec], base_digest: str, on_none: Callable[[], None]) -> Iterator[Hosts]:
        """A host at each node that has processors, each with its share of the sites; none is left at the end.

        Args:
            specs: the sites, by name.
            base_digest: of the base model that each node loads.
            on_none: called when no host is left, before the end.

        Raises:
            ConfigError: the cluster cannot be joined, or a node is not as this machine.
            BaseModelError, AssetError: a node has not the base.
        """
        check_cluster(self.address)
        with _joined(self.address):
            job = next(iter(specs.values())).job
            nodes = self._fitting(_started(base_digest))
            nodes = [node for node, _ in self._asked(nodes, lambda host: host.load.remote(job), _LOAD_S)]
            hosts = Hosts(nodes, specs, self.say, on_none)
            for node in nodes:
                self.say(f"node     {node.label}: {len(node.sites)} sites")
            try:
                yield hosts
            finally:
                hosts.close()

    def _fitting(self, nodes: Iterable[Node]) -> list[Node]:
        """The nodes, each with this machine's software and the run's folder, as a file that is locked here shows."""
        with _shown(self.folder) as (shown, word):
            looked = self._asked(nodes, lambda host: host.look.remote(shown, word), _START_S)
        for node, (there, fault) in looked:
            _check_software(node.label, there)
            if fault:
                raise ConfigError(
                    f"node {node.label} does not share the run's folder {self.folder}",
                    found=fault,
                    expected="the folder of this machine under the same name, to be written, and its locks",
                    remedy="put the run on a file system that all nodes mount there, with locks (--out)",
                )
        return [node for node, _ in looked]

    def _asked(self, nodes: Iterable[Node], ask: Callable[[Any], Any], timeout_s: float) -> list[tuple[Node, Any]]:
        """What hosts answer before the run begins, all asked at once. Nodes that start no process are left out."""
        found = []
        for node, answer in [(node, ask(node.host)) for node in nodes]:
            try:
                found.append((node, _answered(node, answer, ask, timeout_s)))
            except _GoneError as error:
                self.say(f"node {node.label} starts no process, and plays no site: {error}")
        if not found:
            raise ConfigError(
                f"the Ray cluster at {self.address} has no node that plays sites",
                expected="at least one with processors, which starts processes",
                remedy=f"start one with: ray start --address={self.address} --num-cpus=N",
            )
        return found


def check_cluster(address: str) -> None:
    """See that the head of a Ray cluster answers at an address; Ray itself would try for minutes.

    Raises:
        ConfigError: it is no HOST:PORT, nothing answers there, or what answers is not Ray.
    """
    import grpc

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(
            "--ray-address is not the address of a Ray cluster",
            found=address,
            expected="HOST:PORT of its head",
            remedy="take the one that `ray start --head` prints for further nodes",
        )
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ASKS_FOR_RAY)(b"", timeout=_ANSWER_S)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                found, remedy = "no answer", f"start its head with: ray start --head --port={port}"
            elif code == grpc.StatusCode.UNIMPLEMENTED:
                found, remedy = "a service that is not Ray", "name the HOST:PORT of the cluster's head"
            else:
                return  # A head that wants to hear more than this: for Ray itself to settle.
            raise ConfigError(f"no Ray cluster is at {address}", found=found, remedy=remedy) from None


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """This process as a driver of the cluster; what it started there ends with it."""
    import ray

    if ray.is_initialized():
        raise ConfigError("this process is in a Ray cluster already", remedy="call ray.shutdown() first")
    try:
        try:
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
        except Exception as error:
            raise ConfigError(
                f"the Ray cluster at {address} cannot be joined from this machine",
                found=" ".join(str(error).split())[:500] or type(error).__name__,
                expected="a node of that cluster on this machine, of the same Ray and Python",
                remedy=f"start one here with: ray start --address={address}",
            ) from error
        yield
    finally:
        ray.shutdown()


def _started(base_digest: str) -> list[Node]:
    """A host at each node that is there and has processors.

    It claims none of them from Ray, so that it need not wait for other work on the cluster to end.
    """
    nodes = []
    for found in sorted(_alive(), key=lambda node: (node["NodeManagerAddress"], node["NodeID"])):
        processors, ray_id = found["Resources"].get("CPU", 0.0), found["NodeID"]
        if processors:
            start = partial(_start, base_digest, ray_id, processors)
            label = f"{found['NodeManagerAddress']} ({found['NodeManagerHostname']}, {ray_id[:8]})"
            nodes.append(Node(label, ray_id, processors, start, start()))
    return nodes


def _alive() -> list[dict[str, Any]]:
    """The nodes that Ray takes for alive, as it describes them."""
    import ray

    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in known if node["Alive"]]


def _start(base_digest: str, ray_id: str, processors: float) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    variables = {
        "OMP_NUM_THREADS": str(max(1, int(processors))),  # Ray gives a process that claims none a single thread,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # and hides the GPUs from it.
    }
    settled = ray.remote(NodeHost).options(
        num_cpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray_id, soft=False),
        runtime_env={"env_vars": variables},
    )
    return settled.remote(base_digest)


class _GoneError(Exception):
    """A node has died, of which Ray may not know yet, or cannot start a process."""


def _answered(node: Node, answer: Any, ask: Callable[[Any], Any], timeout_s: float) -> Any:
    """What a host answers first. One that is gone is started anew for a while, as long as Ray counts its node."""
    lost_at = None
    while True:
        try:
            return _first_answer(node, answer, timeout_s)
        except _GoneError:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > _UNPLACED_S or not any(each["NodeID"] == node.ray_id for each in _alive()):
                raise
        time.sleep(_AGAIN_S)
        node.host = node.start()
        answer = ask(node.host)


def _first_answer(node: Node, answer: Any, timeout_s: float) -> Any:
    """What a host answers before the run begins; what keeps it from that ends the run, by the name of its node."""
    from ray import get
    from ray.exceptions import ActorUnschedulableError, RayActorError, RayError, RayTaskError

    try:
        return get(answer, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, YoriaiError):
            cause = error.cause
            what = f"node {node.label}: {cause.what}"
            raise type(cause)(what, found=cause.found, expected=cause.expected, remedy=cause.remedy) from None
        found = what_went_wrong(error.cause)
    except RayError as error:
        found = [line.strip() for line in str(error).splitlines() if line.strip()][-1][:300]
        if isinstance(error, ActorUnschedulableError | RayActorError) and not getattr(
            error, "actor_init_failed", False
        ):
            raise _GoneError(found) from None
    raise ConfigError(
        f"node {node.label} cannot play sites",
        found=found,
        expected="the Yoriai of this machine, with all that it needs",
        remedy="install it there, and start the node from that environment",
    )


def _check_software(label: str, there: Mapping[str, str]) -> None:
    here = software()
    unlike = sorted(name for name in here if here[name] != there.get(name))
    if unlike:
        raise ConfigError(
            f"node {label} has not the software of this machine",
            found=", ".join(f"{name} {there.get(name, 'missing')}" for name in unlike),
            expected=", ".join(f"{name} {here[name]}" for name in unlike),
            remedy="install the same there (constraints.txt names the versions), then start the node anew",
        )


@contextmanager
def _shown(folder: Path) -> Iterator[tuple[Path, str]]:
    """A file in the run's folder, with a word that nobody can guess, locked for as long as the block takes."""
    shown, word = folder / _SHARED, secrets.token_hex(16)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(shown.open("w"))
            stack.callback(shown.unlink, missing_ok=True)
            file.write(word)
            file.flush()
            os.fsync(file.fileno())
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            raise run_file_fault(folder, error) from error
        yield shown, word
