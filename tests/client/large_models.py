"""Large models that answer as a test says: over HTTP, each in a thread of its own."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest


class Large(ThreadingHTTPServer):
    """An endpoint that answers as a test says, and keeps what it was sent."""

    def __init__(self, answer: Callable[["Handler"], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.gone = answer, Event()
        self.got: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """With /v1."""
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Large

    def do_POST(self) -> None:
        """Keep what came, and answer."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append({"path": self.path, "key": self.headers.get("authorization"), **json.loads(body)})
        self.server.answer(self)

    def say(self, body: bytes, status: int = 200) -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def says(content: object, prompt_tokens: object = 40, answer_tokens: object = 3) -> Callable[[Handler], None]:
    """Always the same answer."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens}
    body = json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()
    return lambda handler: handler.say(body)


def hangs(handler: Handler) -> None:
    """No answer."""
    handler.server.gone.wait(30)


def trickles(handler: Handler) -> None:
    """A blank now and then, without end."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.gone.wait(0.05):
        handler.wfile.write(b" ")


def leads_away(handler: Handler) -> None:
    """To another place."""
    handler.send_response(307)
    handler.send_header("location", f"{handler.server.url}/elsewhere")
    handler.send_header("content-length", "0")
    handler.end_headers()


Serve = Callable[[Callable[[Handler], None]], Large]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts large models, which end with the test."""
    made: list[Large] = []

    def start(answer: Callable[[Handler], None]) -> Large:
        made.append(Large(answer))
        Thread(target=made[-1].serve_forever, daemon=True).start()
        return made[-1]

    yield start
    for large in made:
        large.gone.set()
        large.shutdown()
        large.server_close()
