"""Which of Flower's nodes is which site: the server registers every member's node key, and remembers the node's number.

Flower lets in nodes with a registered key only, and says of each message which node sent it. So a site's name rests on
its node key, as the consortium certified it; what a node says of itself does not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from yoriai.server.flower.flower_control import FlowerControl
from yoriai.system.files import PRIVATE, write_atomically
from yoriai.system.log import EventLog


class Node(BaseModel):
    """A registered node.

    Attributes:
        key: the site's public key, one line as OpenSSH has it.
        node_id: Flower's number.
        is_wanted: whether its site may take part now.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    key: str
    node_id: int
    is_wanted: bool = True


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    schema_: Literal[1] = Field(default=1, alias="schema")
    nodes: dict[str, Node] = Field(default_factory=dict)


@dataclass(frozen=True)
class NodeBook:
    """The registered nodes, in a file with which Flower's SuperLink begins whenever it is started."""

    path: Path

    @classmethod
    def of(cls, flower_home: Path) -> "NodeBook":
        """The book of a server."""
        return cls(flower_home / "nodes.json")

    def nodes(self) -> Mapping[str, Node]:
        """By site. Empty if there is no file, or none that can be read: the nodes are then registered anew."""
        try:
            return _File.model_validate_json(self.path.read_bytes()).nodes
        except (OSError, ValueError):
            return {}

    def names(self) -> dict[int, str]:
        """The sites by their nodes' numbers."""
        return {node.node_id: site for site, node in self.nodes().items() if node.is_wanted}

    def is_up_to(self, wanted: Mapping[str, str]) -> bool:
        """Whether just these nodes are registered and wanted."""
        return wanted == {site: node.key for site, node in self.nodes().items() if node.is_wanted}

    def bring_up_to(self, wanted: Mapping[str, str], flower: FlowerControl, log: EventLog) -> None:
        """Register nodes that are wanted, and pass over those that are not, or have another key now.

        Flower never takes a key again that it was once told to forget. A certificate may be expired for an hour
        only, so a node that is not wanted stays registered, and is no site of any job meanwhile.

        Args:
            wanted: public keys by site.

        Raises:
            KeyInUse: the SuperLink knows a key that this book does not; it has to be started again.
            RoundError: Flower cannot be reached, or refuses; what was done so far is in the book.
        """
        nodes = dict(self.nodes())
        for site, node in sorted(nodes.items()):
            if site in wanted and wanted[site] != node.key:
                flower.unregister(nodes.pop(site).node_id)
                log.event("node_removed", site=site)
            elif node.is_wanted != (site in wanted):
                nodes[site] = node.model_copy(update={"is_wanted": site in wanted})
                log.event("node_judged", site=site, wanted=site in wanted)
        self._write(nodes)
        for site in sorted(wanted.keys() - nodes.keys()):
            nodes[site] = Node(key=wanted[site], node_id=flower.register(site, wanted[site]))
            self._write(nodes)
            log.event("node_registered", site=site)

    def _write(self, nodes: Mapping[str, Node]) -> None:
        data = _File(nodes=dict(nodes)).model_dump_json(by_alias=True, indent=1).encode()
        write_atomically(self.path, data, mode=PRIVATE)
