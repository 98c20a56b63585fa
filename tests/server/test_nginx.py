"""The distribution's nginx with the file that `server init` writes: what passes, and everything that does not."""

import os
import ssl
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.commands import server, yoriai
from tests.server.front import WAIT_S, Front, free_port
from yoriai.server.folder.server_folder import ServerFolder

LIMIT_MIB = 6
CONNECTIONS = 8
PLANT = os.urandom(12).hex().encode()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    here = tmp_path_factory.mktemp("front")
    ports = ("--port", free_port(), "--control-port", free_port())
    folder = server(here / "server", *ports, "--host", "server.example.org")
    settings = (folder / "server.toml").read_text()
    settings = settings.replace("body_limit_mib = 16", f"body_limit_mib = {LIMIT_MIB}")
    settings = settings.replace("connections_per_address = 256", f"connections_per_address = {CONNECTIONS}")
    (folder / "server.toml").write_text(settings)
    assert yoriai("server", "init", folder, "--renew").code == 0
    with Front(ServerFolder(folder), here, as_root=os.geteuid() == 0) as running:
        yield running


@pytest.fixture(autouse=True)
def forgotten(front: Front) -> None:
    """Each test sees only what it sent itself."""
    front.upstream.seen.clear()


@pytest.mark.parametrize("target", ["/v1/fleet/x", "/v1/fleet/pull-messages", "/v1/fleet/a/b-2"])
def test_what_sites_ask_reaches_the_superlink_whole(front: Front, target: str) -> None:
    body = os.urandom(5 * 2**20)
    status, answer, _ = front.ask(target, body)
    assert (status, answer) == (200, sha256(body).digest())
    assert front.upstream.seen == [target]


SPELLINGS = r"""
/ /v1 /v1/ /v1/fleet /v1/fleet/ /v1/fleetx/y /health /docs
/v1/control/x /v1/runtime/x /v1/control/start-run
/v1/fleet/../control/x /v1/fleet/./../control/x /v1/fleet/x/../../control/x /v1/fleet/x/../y
/v1/control/../fleet/x /v1/control/%2e%2e/fleet/x
/v1/fleet/%2e%2e/control/x /v1/fleet/%2E%2E/control/x /v1/fleet/.%2e/control/x /v1/fleet/%2e/x
/v1/fleet/..%2fcontrol/x /v1/fleet%2f..%2fcontrol/x /v1%2fcontrol%2fx /%2e%2e/v1/control/x
/v1/fleet/%252e%252e/control/x /v1/fleet/..%252fcontrol/x /v1/fleet/..;/control/x
//v1/control/x /v1//control/x ///v1/fleet/x //v1/fleet/../control/x /./v1/control/x
/v1/%66leet/x /%76%31/control/x /v1/fleet/x%20y /v1/fleet/x%0a /v1/fleet/x%00 /V1/FLEET/x /v1/fleet/X
/v1/fleet/x?y=/../control /v1/fleet/x? /v1/fleet/x# /v1/fleet\..\control\x /v1/fleet/..\control
https://127.0.0.1/v1/control/x https://127.0.0.1/v1/fleet/../control/x http:/v1/control/x * v1/fleet/x
"""


@pytest.mark.parametrize("target", SPELLINGS.split())
def test_nothing_else_reaches_it_by_any_spelling(front: Front, target: str) -> None:
    status, _, _ = front.ask(target)
    # What is no request at all, such as one that climbs above the root, nginx refuses before it looks at the site.
    assert status in (404, 400)
    assert status == 404 or target.startswith(("/%2e%2e", "/v1/fleet/x%00", "http:/v1", "*", "v1")), target
    assert front.upstream.seen == []


def test_two_requests_in_one_are_refused(front: Front) -> None:
    with front.connect() as connection:
        inner = b"POST /v1/control/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        head = (
            b"POST /v1/fleet/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        connection.sendall(head % len(inner) + inner)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert front.upstream.seen == []


def test_a_client_without_tls_1_3_is_refused(front: Front) -> None:
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        front.connect(maximum_version=ssl.TLSVersion.TLSv1_2)
    with front.connect() as connection:
        assert connection.version() == "TLSv1.3"


def test_a_request_above_the_limit_is_refused_before_the_superlink_sees_it(front: Front) -> None:
    assert front.ask("/v1/fleet/x", bytes(LIMIT_MIB * 2**20))[0] == 200
    front.upstream.seen.clear()
    assert front.ask("/v1/fleet/x", bytes(LIMIT_MIB * 2**20 + 1))[0] == 413
    assert front.upstream.seen == []


def test_a_request_is_not_seen_by_the_superlink_before_it_is_whole(front: Front) -> None:
    with front.connect() as connection:
        head = b"POST /v1/fleet/broken HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head + bytes(50_000))
        # These come after it, and go the whole way meanwhile.
        assert [front.ask("/v1/fleet/after")[0] for _ in range(3)] == [200] * 3
    wait_until_logged(front, "/v1/fleet/broken")
    assert front.upstream.seen == ["/v1/fleet/after"] * 3


def test_the_certificate_is_for_the_servers_hosts_and_no_other(front: Front) -> None:
    for host in ("127.0.0.1", "server.example.org", "localhost"):
        front.connect(host).close()
    for host in ("other.example.org", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"is not valid for|IP address mismatch"):
            front.connect(host)


def test_a_superlink_with_a_certificate_of_another_ca_gets_nothing(front: Front, tmp_path: Path) -> None:
    other = ServerFolder(server(tmp_path / "other"))
    front.upstream.stop()
    front.upstream = front.start_upstream(other.tls_certificate, other.tls_key)
    try:
        assert front.ask("/v1/fleet/x", b"for the superlink only")[0] == 502
        assert front.upstream.seen == []
    finally:
        front.upstream.stop()
        front.upstream = front.start_upstream()
    assert front.ask("/v1/fleet/x")[0] == 200


def test_one_address_has_so_many_requests_at_once_and_no_more(front: Front) -> None:
    threads = [threading.Thread(target=front.ask, args=("/v1/fleet/held",)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + WAIT_S
    while len(front.upstream.seen) < CONNECTIONS and time.monotonic() < end:
        time.sleep(0.01)
    try:
        assert front.ask("/v1/fleet/x")[0] == 503
    finally:
        front.upstream.gate.set()
        for thread in threads:
            thread.join()
        front.upstream.gate.clear()
    assert front.ask("/v1/fleet/x")[0] == 200


def test_connections_to_the_superlink_are_kept(front: Front) -> None:
    before = len(front.upstream.connections)
    for _ in range(5):
        front.ask("/v1/fleet/x")
    assert len(front.upstream.seen) == 5
    assert len(front.upstream.connections) <= before + 1


def test_the_superlink_gets_what_a_node_proves_itself_with(front: Front) -> None:
    """Flower puts its node's key and signature into headers."""
    front.upstream.headers.clear()
    with front.connect() as connection:
        connection.sendall(
            b"POST /v1/fleet/x HTTP/1.1\r\nHost: x\r\nflwr-public-key: a2V5\r\nflwr-signature: c2ln\r\n"
            b"flwr-timestamp: 2026-01-01T00:00:00+00:00\r\nContent-Length: 0\r\n\r\n"
        )
        connection.recv(4096)
    lower = {name.lower(): value for name, value in front.upstream.headers[0].items()}
    assert (lower["flwr-public-key"], lower["flwr-signature"]) == ("a2V5", "c2ln")
    assert lower["flwr-timestamp"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(("said", "heard"), [(500, 503), (401, 401), (403, 403), (404, 404)])
def test_an_error_that_would_end_a_supernode_makes_it_wait_and_the_others_reach_it(
    front: Front, said: int, heard: int
) -> None:
    status, answer, _ = front.ask(f"/v1/fleet/says-{said}", b"body")
    assert status == heard
    assert (answer == sha256(b"body").digest()) == (said == heard)


@pytest.mark.parametrize("target", ["/v1/fleet/x", "/v1/control/x"])
def test_no_version_is_shown(front: Front, target: str) -> None:
    _, page, headers = front.ask(target)
    assert headers["Server"] == "nginx"
    assert b"nginx/" not in page


def test_no_body_is_logged(front: Front) -> None:
    front.ask("/v1/fleet/logged", PLANT * 2**16)
    front.ask("/v1/control/logged", PLANT)
    wait_until_logged(front, "/v1/control/logged")
    for log in ("access.log", "error.log"):
        assert PLANT not in (front.here / log).read_bytes()


def wait_until_logged(front: Front, target: str) -> None:
    end = time.monotonic() + WAIT_S
    while target not in (front.here / "access.log").read_text() and time.monotonic() < end:
        time.sleep(0.02)
