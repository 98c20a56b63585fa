"""Flower's SuperLink, with more patience for its database, and with an ear for whoever waits.

Payloads lie in one SQLite file, which one request at a time may write. Those of a few sites with tens of millions of
parameters keep the others waiting for longer than the 5 s of Flower 1.41, and whoever has waited so long gets HTTP 500.

A node's question for messages is kept until there is one, after its key was verified. A coordinator asks at NEWS, which
nginx passes on from nobody, which of its messages have been answered; it learns there of no more than their ids.

    python superlink.py HOLD_S ARGUMENTS    as `flower-superlink ARGUMENTS`
"""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from yoriai.flower_internals import asking_node, check_version, serve_superlink
from yoriai.server.flower.reply_news import NEWS
from yoriai.server.service.arrivals import Arrivals, as_json

Scope = MutableMapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Send], Awaitable[None]]


def main() -> None:
    """Be the SuperLink."""
    check_version()
    hold_s, arrivals = float(sys.argv.pop(1)), Arrivals()
    serve_superlink(arrivals, lambda app: held(app, arrivals, hold_s))


def held(app: Application, arrivals: Arrivals, hold_s: float) -> Application:
    """Flower's application, whose questions wait for their answers.

    Args:
        hold_s: longest wait of a question.
    """

    async def patient(scope: Scope, receive: Any, send: Send) -> None:
        if scope.get("path") == NEWS:
            await _answer(send, as_json(await arrivals.since(_asked_from(scope), hold_s)))
            return
        if (node_id := asking_node(scope)) is not None:
            await arrivals.for_node(node_id, hold_s)
        await app(scope, receive, send)

    return patient


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
