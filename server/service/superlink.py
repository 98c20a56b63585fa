"""Flower's SuperLink, which keeps its state in memory, with an ear for whoever waits.

It begins with the nodes in the server's book and with no run; payloads of more than a few pages lie in files of a
folder until they are fetched.

A node's question for messages is kept until there is one, after its key was verified. A coordinator asks at NEWS, which
nginx passes on from nobody, which of its messages have been answered; it learns there of no more than their ids.

    python superlink.py HOLD_S ARGUMENTS    as `flower-superlink ARGUMENTS`
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from yoriai.flower_internals import KnownNode, check_version, keep_in_memory, serve_superlink
from yoriai.flower_internals.straight import Application, Scope, Send
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.flower.reply_news import NEWS
from yoriai.server.service.arrivals import Arrivals, as_json


def main() -> None:
    """Be the SuperLink."""
    check_version()
    hold_s, arrivals = float(sys.argv.pop(1)), Arrivals()

    async def kept(node_id: int) -> None:
        await arrivals.for_node(node_id, hold_s)

    home = Path(os.environ["FLWR_HOME"])
    known = NodeBook.of(home).nodes()
    keep_in_memory({node.node_id: KnownNode(site, node.key.encode()) for site, node in known.items()}, home / "objects")
    serve_superlink(arrivals, kept, lambda app: telling(app, arrivals, hold_s))


def telling(app: Application, arrivals: Arrivals, hold_s: float) -> Application:
    """Flower's application, where a coordinator hears at NEWS of replies.

    Args:
        hold_s: longest wait of a question.
    """

    async def answered(scope: Scope, receive: Any, send: Send) -> None:
        if scope.get("path") == NEWS:
            await _answer(send, as_json(await arrivals.since(_asked_from(scope), hold_s)))
        else:
            await app(scope, receive, send)

    return answered


def _asked_from(scope: Scope) -> int | None:
    after = parse_qs(scope["query_string"].decode("ascii", "replace")).get("after", [""])[0]
    return int(after) if after.isdecimal() else None


async def _answer(send: Send, values: Mapping[str, object]) -> None:
    body = json.dumps(values).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    main()
