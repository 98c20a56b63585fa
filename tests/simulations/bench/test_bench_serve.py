"""The load check counts what it lost: against an endpoint that answers, and one that does not."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from yoriai.simulations.bench.serve import Load, bench_serve

WHOLE = [{"choices": [{"finish_reason": None}]}, {"choices": [{"finish_reason": "stop"}]}]
USAGE = {"choices": [], "usage": {"completion_tokens": 2}}


class Endpoint(ThreadingHTTPServer):
    """Answers each request with the same lines."""

    status, pieces = 200, [*WHOLE, USAGE]


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.server.status)
        self.end_headers()
        for piece in self.server.pieces:
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(("127.0.0.1", 0), _Handler) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


def load(endpoint: Endpoint, clients: int = 3) -> Load:
    return Load(f"http://127.0.0.1:{endpoint.server_port}/v1", "k", "production", clients, 0.3, 4)


def test_what_was_answered_is_counted_with_its_times_and_tokens(endpoint: Endpoint) -> None:
    found = bench_serve(load(endpoint))
    assert found["answered"] >= 3
    assert found["lost"] == 0
    assert 0 < found["first_s"]["p50"] <= found["whole_s"]["p50"] <= found["whole_s"]["p95"] <= found["whole_s"]["max"]
    assert found["tokens_per_s"] > 0


@pytest.mark.parametrize(("status", "pieces", "why"), [(503, [], "status 503"), (200, WHOLE[:1], "broke off")])
def test_a_refused_request_and_one_that_breaks_off_are_lost(
    endpoint: Endpoint, status: int, pieces: list[dict[str, object]], why: str
) -> None:
    endpoint.status, endpoint.pieces = status, pieces  # type: ignore[assignment]
    found = bench_serve(load(endpoint))
    assert (found["answered"], found["why"]) == (0, [why])
    assert found["lost"] >= 3


def test_the_key_is_in_no_repr(endpoint: Endpoint) -> None:
    assert '"k"' not in repr(load(endpoint)).replace("'", '"')
