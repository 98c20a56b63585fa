"""Flower's side of the coordinator: a Transport over the Grid, and the ServerApp around it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from yoriai.errors import RoundError
from yoriai.server.coordinator import Transport

_HELLO_TIMEOUT_S = 120.0
_POLL_S = 0.2


class GridTransport:
    """Sites behind Flower's Grid. Node ids are Flower's affair; a hello asks each new node for its site's name.

    Args:
        grid: of the running app.
        expected_nodes: how many nodes to wait for before the first exchange.
        hello_timeout_s: how long to wait for them, and then for their names.
        stop: once set, no reply is waited for any longer.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        expected_nodes: int,
        hello_timeout_s: float = _HELLO_TIMEOUT_S,
        stop: threading.Event | None = None,
    ) -> None:
        self._grid, self._hello_timeout_s = grid, hello_timeout_s
        self._stop = stop or threading.Event()
        self._nodes: dict[str, int] = {}
        deadline = time.monotonic() + hello_timeout_s
        while len(list(grid.get_node_ids())) < expected_nodes and time.monotonic() < deadline:
            self._pause()
        if not self.sites():
            raise RoundError("no site is connected", remedy="start the sites, then resume")

    def sites(self) -> Sequence[str]:
        """Names of the sites whose nodes are connected and have answered the hello.

        Raises:
            RoundError: two nodes say that they are the same site.
        """
        connected = set(self._grid.get_node_ids())
        self._nodes = {site: node for site, node in self._nodes.items() if node in connected}
        unknown = sorted(connected - set(self._nodes.values()))
        for node, reply in self._send(dict.fromkeys(unknown, b""), "hello", self._hello_timeout_s).items():
            site = reply.get("site")
            if not isinstance(site, str) or not site:
                continue
            if site in self._nodes:
                raise RoundError(f"two nodes say that they are site {site[:64]!r}", remedy="stop one, then resume")
            self._nodes[site] = node
        return tuple(sorted(self._nodes))

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """One message and one reply a site; a node's failure, or a reply without bytes, is a missing reply."""
        names = {self._nodes[site]: site for site in payloads if site in self._nodes}
        replies = self._send({node: payloads[site] for node, site in names.items()}, stage, timeout_s)
        found = {names[node]: reply.get("payload") for node, reply in replies.items() if node in names}
        return {site: payload for site, payload in found.items() if isinstance(payload, bytes)}

    def _send(self, payloads: Mapping[int, bytes], stage: str, timeout_s: float) -> dict[int, ConfigRecord]:
        """Records of the replies by node.

        Written out in place of the Grid's own send_and_receive, which cannot be stopped before its timeout.
        """
        messages = [
            Message(
                RecordDict({"yoriai": ConfigRecord({"payload": payload})}),
                dst_node_id=node,
                message_type=MessageType.QUERY,
                group_id=stage,
            )
            for node, payload in payloads.items()
        ]
        waiting = set(self._grid.push_messages(messages)) if messages else set()
        deadline = time.monotonic() + timeout_s
        records: dict[int, ConfigRecord] = {}
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                if not reply.has_error() and "yoriai" in reply.content.config_records:
                    records[reply.metadata.src_node_id] = reply.content.config_records["yoriai"]
            if waiting:
                self._pause()
        return records

    def _pause(self) -> None:
        if self._stop.wait(_POLL_S):
            raise RoundError("the run was stopped", remedy="resume it")


def server_app(
    run: Callable[[Transport], None], *, expected_nodes: int, stop: threading.Event | None = None
) -> ServerApp:
    """A ServerApp that runs a coordinator over the Grid."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(GridTransport(grid, expected_nodes=expected_nodes, stop=stop))

    return app
