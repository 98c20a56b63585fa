"""The hosts of a run at the nodes of a Ray cluster: which of them plays which site, also when one is gone.

A site stays with one host, for it keeps keys and promises from message to message. No message is handed out twice: a
host whose node dies loses what it was at, and its sites are built anew at other nodes with the next message for them,
as a site of a deployment whose daemon was killed. Their ledgers serve them and a host that was only taken for dead
alike: under the lock of its file, one charge covers one release.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from yoriai.errors import TrainingError, YoriaiError
from yoriai.simulations.engines.site_spec import SiteSpec


@dataclass
class Node:
    """A node of the cluster with its host.

    Attributes:
        label: its address, name, and the beginning of `ray_id`.
        ray_id: Ray's number for it.
        processors: as Ray counts them.
        start: starts a NodeHost there, and returns Ray's handle of it.
        host: that handle.
        sites: names of those that are its own, with their training records.
        built: those of them whose first message is on its way.
    """

    label: str
    ray_id: str
    processors: float
    start: Callable[[], Any]
    host: Any
    sites: dict[str, int] = field(default_factory=dict)
    built: set[str] = field(default_factory=set)

    def load_with(self, records: int) -> float:
        """Training records a processor, with so many more."""
        return (sum(self.sites.values()) + records) / self.processors


class Hosts:
    """The hosts of a run, and which of them plays which site. Safe for several threads.

    Args:
        nodes: of the cluster, each with its host; at least one.
        specs: the sites, by name.
        say: told when a node is gone.
        on_none: called when the last one is.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        specs: Mapping[str, SiteSpec],
        say: Callable[[str], None],
        on_none: Callable[[], None],
    ) -> None:
        self._nodes, self._specs, self._say, self._on_none = list(nodes), dict(specs), say, on_none
        self._node_of: dict[str, Node] = {}
        self._lock = threading.Lock()
        self._deal_out({name: max(1, len(spec.records.train)) for name, spec in self._specs.items()})

    def handle(self, site: str, payload: bytes) -> bytes:
        """A site's answer to a message, from the host that plays it. The message is handed out once.

        Raises:
            TrainingError: its node died, now or before; or it could not be built, or its answer did not arrive.
        """
        from ray import get
        from ray.exceptions import (
            ActorUnschedulableError,
            NodeDiedError,
            OutOfMemoryError,
            RayActorError,
            RayError,
            RayTaskError,
            WorkerCrashedError,
        )

        with self._lock:  # Ray keeps the order of calls; the one that builds a site comes first.
            node = self._node_of.get(site)
            if node is None:
                raise TrainingError("no node of the Ray cluster is left to play it")
            spec = None if site in node.built else self._specs[site]
            answer = node.host.handle.remote(site, payload, spec)
            node.built.add(site)
        try:
            replied: bytes = get(answer)
            return replied
        except RayTaskError as error:  # Before the others, for it is of its cause's type as well.
            cause: BaseException = error.cause
        except (ActorUnschedulableError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError):
            # Its process or its node has died, or is out of reach.
            self._lose(node)
            raise TrainingError(f"its node {node.label} is gone") from None
        except RayError as error:  # Of this answer alone, as one that was lost: if the node is, the next one shows it.
            cause = error
        with self._lock:  # Whether the specification arrived is not known; where it did, it is not looked at once more.
            node.built.discard(site)
        raise TrainingError(what_went_wrong(cause))

    def close(self) -> None:
        """End every host, also one that is at work; whoever waits for its answer gets an error."""
        with self._lock:
            ended, self._nodes = self._nodes, []
            self._node_of.clear()
        for node in ended:
            _end(node)

    def _lose(self, node: Node) -> None:
        """Deal a lost node's sites out to the others. It gets no further message, even if it was only out of reach."""
        with self._lock:
            if node not in self._nodes:
                return
            self._nodes.remove(node)
            _end(node)
            for site in node.sites:
                del self._node_of[site]
            self._deal_out(node.sites)
            others = len(self._nodes)
        go_on = f"at {others} other nodes" if others > 1 else "at the last node" if others else "nowhere"
        self._say(f"node {node.label} is gone; its {len(node.sites)} sites go on {go_on}")
        if not others:
            self._on_none()

    def _deal_out(self, sites: Mapping[str, int]) -> None:
        """The largest site first, each to the node that then has the least training records a processor."""
        for site in sorted(sites, key=lambda name: (-sites[name], name)) if self._nodes else ():
            node = min(self._nodes, key=lambda each: each.load_with(sites[site]))
            node.sites[site] = sites[site]
            self._node_of[site] = node


def what_went_wrong(cause: BaseException) -> str:
    """What a host said; of an error that is not Yoriai's own the type alone, whose text might quote a record."""
    return cause.what if isinstance(cause, YoriaiError) else f"internal error: {type(cause).__name__}"


def _end(node: Node) -> None:
    import ray

    ray.kill(node.host)
