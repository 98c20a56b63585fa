"""Flower's side of the coordinator: a Transport over the Grid, and the ServerApp around it."""

import time
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from yoriai.errors import RoundError
from yoriai.server.coordinator import Transport

_HELLO_TIMEOUT_S = 120.0
_POLL_S = 0.5


class GridTransport:
    """Sites behind Flower's Grid. Node ids are Flower's affair; a hello asks each node for its site's name.

    Args:
        grid: of the running app.
        expected_nodes: how many nodes to wait for.
        hello_timeout_s: how long to wait for them.
    """

    def __init__(self, grid: Grid, *, expected_nodes: int, hello_timeout_s: float = _HELLO_TIMEOUT_S) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}
        deadline = time.monotonic() + hello_timeout_s
        nodes: list[int] = []
        while len(nodes) < expected_nodes and time.monotonic() < deadline:
            nodes = list(grid.get_node_ids())
            time.sleep(0 if len(nodes) >= expected_nodes else _POLL_S)
        if not nodes:
            raise RoundError("no site is connected", remedy="start the sites, then resume")
        for node, reply in self._send(dict.fromkeys(nodes, b""), "hello", hello_timeout_s).items():
            self._nodes[str(reply["site"])] = node

    def sites(self) -> Sequence[str]:
        """Names of the sites that answered the hello."""
        return tuple(sorted(self._nodes))

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """One message and one reply a site; a node's failure is a missing reply."""
        names = {self._nodes[site]: site for site in payloads}
        replies = self._send({node: payloads[site] for node, site in names.items()}, stage, timeout_s)
        return {names[node]: bytes(reply["payload"]) for node, reply in replies.items()}  # type: ignore[arg-type]

    def _send(self, payloads: Mapping[int, bytes], stage: str, timeout_s: float) -> dict[int, ConfigRecord]:
        messages = [
            Message(
                RecordDict({"yoriai": ConfigRecord({"payload": payload})}),
                dst_node_id=node,
                message_type=MessageType.QUERY,
                group_id=stage,
            )
            for node, payload in payloads.items()
        ]
        replies = self._grid.send_and_receive(messages, timeout=timeout_s)
        return {
            reply.metadata.src_node_id: reply.content.config_records["yoriai"]
            for reply in replies
            if not reply.has_error()
        }


def server_app(run: Callable[[Transport], None], *, expected_nodes: int) -> ServerApp:
    """A ServerApp that runs a coordinator over the Grid."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(GridTransport(grid, expected_nodes=expected_nodes))

    return app
