"""A real nginx with the file that `server init` wrote, in front of a small HTTPS server that notes what reaches it."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.system import needed
from yoriai.server.folder.server_folder import ServerFolder

WAIT_S = 120.0
_CONF = """
daemon off;
pid {here}/nginx.pid;
error_log {here}/error.log info;
worker_processes 1;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log {here}/access.log;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    include {site};
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Upstream:
    """Stands where Flower's SuperLink would: answers every request with the SHA-256 of its body.

    Requests for a path that ends in `held` wait until `gate` is set; one that ends in `says-NUMBER` gets that status.
    """

    def __init__(self, port: int, certificate: Path, key: Path) -> None:
        self.seen: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.connections: list[socket.socket] = []
        self.gate = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self.connections:  # Those that are kept would go on being served.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                upstream.connections.append(self.request)
                super().setup()

            def do_POST(self) -> None:
                upstream.seen.append(self.path)
                upstream.headers.append(dict(self.headers.items()))
                answer = sha256(self.rfile.read(int(self.headers["Content-Length"]))).digest()
                if self.path.endswith("held"):
                    upstream.gate.wait(WAIT_S)
                self.send_response(int(self.path.rpartition("says-")[2]) if "says-" in self.path else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Keep standard error clean."""

        return Handler


class Front:
    """nginx in front of an upstream, for the length of a `with`."""

    def __init__(self, server: ServerFolder, here: Path, *, as_root: bool) -> None:
        self.server, self.here, self.config = server, here, server.config()
        self.conf = here / "nginx.conf"
        # Its workers would otherwise run as a user who may not enter the test's folder.
        user = "user root;" if as_root else ""
        self.conf.write_text(_CONF.format(here=here, user=user, site=server.nginx_site))

    def __enter__(self) -> Self:
        self.upstream = self.start_upstream()
        command = [needed("nginx", "nginx"), "-p", str(self.here), "-e", str(self.here / "error.log")]
        self._nginx = subprocess.Popen([*command, "-c", str(self.conf)], stderr=subprocess.PIPE)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and self._nginx.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.config.port), 1).close()
                return self
            except ConnectionRefusedError:
                time.sleep(0.02)
        self._stop()
        raise AssertionError((self.here / "error.log").read_text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start_upstream(self, certificate: Path | None = None, key: Path | None = None) -> Upstream:
        """An upstream with the server's own certificate, or with another."""
        own = self.server.tls_certificate, self.server.tls_key
        return Upstream(self.config.control_port, certificate or own[0], key or own[1])

    def connect(self, host: str = "127.0.0.1", **limits: ssl.TLSVersion) -> ssl.SSLSocket:
        """A connection as a site makes it: `host` is what the certificate must be for."""
        context = ssl.create_default_context(cafile=str(self.server.public_ca))
        for name, version in limits.items():
            setattr(context, name, version)
        plain = socket.create_connection(("127.0.0.1", self.config.port), WAIT_S)
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLError:
            plain.close()
            raise

    def ask(self, target: str, body: bytes = b"", method: str = "POST") -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the answer to one request; `target` is sent as it stands."""
        with self.connect() as connection:
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode("latin-1"))
            with contextlib.suppress(OSError):  # It may answer before it has read all.
                connection.sendall(body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read(), dict(answer.getheaders())

    def _stop(self) -> None:
        self._nginx.terminate()
        self._nginx.communicate(timeout=WAIT_S)
        self.upstream.stop()
