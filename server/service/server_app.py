"""Flower's side of the coordinator: a Transport over the Grid, and the ServerApp around it."""

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from flwr.app import Context, Message, MessageType
from flwr.serverapp import Grid, ServerApp

from yoriai.errors import RoundError, WireError
from yoriai.flower_payload import label_of, pack_all, payload_of
from yoriai.server.flower.flower_control import SERVER_VARIABLE
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.flower.reply_news import ReplyNews
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore
from yoriai.server.round.messenger import Transport
from yoriai.server.service.errands import ERRAND, run_errand
from yoriai.server.service.job_run import run_job

_HELLO_TIMEOUT_S = 120.0
_POLL_S = 0.2
# Without news, each reply is waited for by a thread that asks for itself, and a question costs the SuperLink about
# 10 ms of a core. So: ten a second all together, until the wait for a single reply would be felt.
_POLL_PER_SITE_S = 0.1
_LONGEST_POLL_S = 2.0
# Flower takes a node for gone a minute after its last word. Of whom that is true is one question for all sites.
_LOOK_S = 5.0

Reply = Message | str
"""What came of a message: a reply of Flower's, or why none can be read."""

Wait = Callable[[int, str], bool]
"""Returns when a reply may have come to the message of that id, or its node has left: whether it has."""

Names = Callable[[], Mapping[int, str]]
"""The sites by the node ids that they were registered under, as of now."""


class GridTransport:
    """Sites behind Flower's Grid. Node ids are Flower's affair.

    In a deployment every node was registered for a site, with the key that the consortium certified, so `names` knows
    them. In Flower's simulation nobody registers: a hello asks each new node for its site's name.

    Args:
        grid: of the running app.
        names: see Names; None asks the nodes.
        news: of replies; None asks for each of them again and again.
        expected_nodes: how many nodes to wait for before the first exchange; where nodes are asked.
        hello_timeout_s: how long to wait for them, and then for their names.
        stop: once set, no reply is waited for any longer.
        on_failure: called with site, stage and reason for each reply that says that the message could not be handled.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        names: Names | None = None,
        news: ReplyNews | None = None,
        expected_nodes: int = 0,
        hello_timeout_s: float = _HELLO_TIMEOUT_S,
        stop: threading.Event | None = None,
        on_failure: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._grid, self._names, self._news, self._hello_timeout_s = grid, names, news, hello_timeout_s
        self._stop, self._on_failure = stop or threading.Event(), on_failure
        self._nodes: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        if names is None:
            self._await(expected_nodes)

    def _await(self, expected_nodes: int) -> None:
        deadline = time.monotonic() + self._hello_timeout_s
        while len(list(self._grid.get_node_ids())) < expected_nodes and time.monotonic() < deadline:
            self._pause()
        if not self.sites():
            raise RoundError("no site is connected", remedy="start the sites, then resume")

    def sites(self) -> Sequence[str]:
        """Names of the sites whose nodes are connected, and are registered or have answered the hello.

        Raises:
            RoundError: two nodes say that they are the same site.
        """
        self._check_stopped()
        connected = set(self._grid.get_node_ids())
        if self._names is not None:
            self._nodes = {site: node for node, site in self._names().items() if node in connected}
        else:
            self._nodes = {site: node for site, node in self._nodes.items() if node in connected}
            self._greet(sorted(connected - set(self._nodes.values())))
        return tuple(sorted(self._nodes))

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """One message and one reply a site; a node's failure, or a reply without bytes, is a missing reply."""
        names = {self._nodes[site]: site for site in payloads if site in self._nodes}
        found = {}
        self._failures = {}
        for node, reply in self._send({node: payloads[site] for node, site in names.items()}, stage, timeout_s).items():
            if node not in names:
                continue
            payload, reason = _read(reply)
            if payload:
                found[names[node]] = payload
                continue
            self._failures[names[node]] = reason
            if self._on_failure is not None:
                self._on_failure(names[node], stage, reason)
        return found

    def failures(self) -> Mapping[str, str]:
        """What the nodes of the last exchange said in place of a reply."""
        return dict(self._failures)

    def _greet(self, nodes: Sequence[int]) -> None:
        """Ask nodes for the names of their sites."""
        for node, reply in self._send(dict.fromkeys(nodes, b""), "hello", self._hello_timeout_s).items():
            site = "" if isinstance(reply, str) or reply.has_error() else label_of(reply.content, "site")
            if not site:
                continue
            if site in self._nodes:
                raise RoundError(f"two nodes say that they are site {site[:64]!r}", remedy="stop one, then resume")
            self._nodes[site] = node

    def _send(self, payloads: Mapping[int, bytes], stage: str, timeout_s: float) -> dict[int, Reply]:
        """Replies by node.

        Written out in place of the Grid's own send_and_receive, which cannot be stopped before its timeout.
        """
        messages = [
            Message(content, dst_node_id=node, message_type=MessageType.QUERY, group_id=stage)
            for node, content in pack_all(payloads).items()
        ]
        over = threading.Event()
        wait = self._waiting(over, len(messages))
        # Flower gives no id for a node that was taken out meanwhile: there is nothing to wait for.
        ids = self._grid.push_messages(messages) if messages else []
        pushed = {node: identity for node, identity in zip(payloads, ids, strict=False) if identity}
        del messages
        inbox: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()
        for node, identity in pushed.items():
            fetching = (self._grid, node, identity, inbox, over, wait)
            threading.Thread(target=_fetch, args=fetching, name=f"reply to {stage}", daemon=True).start()
        try:
            return self._gathered(inbox, set(pushed), time.monotonic() + timeout_s)
        finally:
            over.set()
            if self._news is not None:
                self._news.wake()

    def _waiting(self, over: threading.Event, messages: int) -> Wait:
        """How the replies of an exchange that begins now are waited for."""
        if (news := self._news) is not None:
            began = news.turn
            return lambda node, identity: news.wait(identity, node, began)
        poll_s = min(max(_POLL_S, _POLL_PER_SITE_S * messages), _LONGEST_POLL_S)
        return lambda node, identity: over.wait(poll_s) and False

    def _gathered(
        self, inbox: queue.SimpleQueue[tuple[int, Reply]], nodes: set[int], deadline: float
    ) -> dict[int, Reply]:
        """The replies of these nodes, or those that have come by the deadline."""
        replies: dict[int, Reply] = {}
        look_at = time.monotonic() + _LOOK_S
        while len(replies) < len(nodes) and time.monotonic() < deadline:
            self._check_stopped()
            with suppress(queue.Empty):
                node, reply = inbox.get(timeout=_POLL_S)
                replies[node] = reply
            if self._news is not None and time.monotonic() >= look_at:
                for node in nodes - replies.keys() - set(self._grid.get_node_ids()):
                    self._news.has_left(node)
                look_at = time.monotonic() + _LOOK_S
        return replies

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise RoundError("the run was stopped", remedy="resume it")

    def _pause(self) -> None:
        self._stop.wait(_POLL_S)
        self._check_stopped()


def _fetch(
    grid: Grid,
    node: int,
    identity: str,
    inbox: queue.SimpleQueue[tuple[int, Reply]],
    over: threading.Event,
    wait: Wait,
) -> None:
    """Wait for one node's reply, in a thread of its own: one that announces a reply and never sends it holds up nobody.

    Flower fetches a reply as soon as it is announced, tries for hours, and raises whatever the bytes lead to. It does
    not try again when the SuperLink has an error of its own, such as a database that was locked for five seconds.
    """
    while not over.is_set():
        has_left = wait(node, identity)
        if over.is_set():
            return
        try:
            found = list(grid.pull_messages([identity]))
        except httpx.HTTPStatusError as error:
            if error.response.is_server_error:
                continue
            inbox.put((node, f"the SuperLink refuses to give its reply ({error.response.status_code})"))
            return
        except Exception as error:  # The type alone: the bytes are a stranger's.
            inbox.put((node, f"a reply that Flower cannot read ({type(error).__name__})"))
            return
        for reply in found:
            of_another = not reply.has_error() and reply.metadata.src_node_id != node
            inbox.put((node, "another node has answered" if of_another else reply))
            return
        if has_left:
            inbox.put((node, "its node has left the server"))
            return


def _read(reply: Reply) -> tuple[bytes, str]:
    """A reply's payload; without one, why there is none."""
    if isinstance(reply, str):
        return b"", reply
    if reply.has_error():
        return b"", reply.error.reason or "Flower reports a failure"
    try:
        return payload_of(reply.content), label_of(reply.content, "failure") or "an empty reply"
    except WireError as error:
        return b"", str(error)


def server_app(
    run: Callable[[Transport], None], *, expected_nodes: int, stop: threading.Event | None = None
) -> ServerApp:
    """A ServerApp that runs a coordinator over the Grid of Flower's simulation."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(GridTransport(grid, expected_nodes=expected_nodes, stop=stop))

    return app


def deployed_app() -> ServerApp:
    """The ServerApp of a deployment: coordinates the job that the run's configuration names, or goes on an errand."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder, name = ServerFolder(Path(os.environ[SERVER_VARIABLE])), str(context.run_config["job"])
        nodes = NodeBook.of(folder.flower_home)
        with ReplyNews(folder.config().control_port, folder.tls_ca).listening() as news:

            def connect(stop: threading.Event, on_failure: Callable[[str, str, str], None]) -> Transport:
                return GridTransport(grid, names=nodes.names, news=news, stop=stop, on_failure=on_failure)

            if name == ERRAND:
                run_errand(folder, connect)
            else:
                run_job(folder, JobStore(folder.jobs).find(name), connect)

    return app
