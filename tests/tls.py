"""Certificates for TLS, and a server that has one: answers with the status that a path was given."""

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issuer:
    """A CA for TLS."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str = "tls", *, days: float = 400) -> "Issuer":
        """A CA of this name, which holds for so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, name, key, days).add_extension(x509.BasicConstraints(True, 0), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def server(self, path: Path, *, days: float = 300) -> Path:
        """Write certificate and key of a server on loopback into one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = _builder("server", self.certificate.subject.rfc4514_string().removeprefix("CN="), key, days)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM) + private)
        return path


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(min(now, end) - timedelta(days=1)).not_valid_after(end)


@dataclass
class HttpsServer:
    """A server on loopback.

    Attributes:
        seen: the paths that were asked for, after "POST " where something was brought.
        statuses: by path; 404 for others.
        ahead_s: by how much its clock is ahead of this machine's.
        endless: whether what it answers has no end.
    """

    port: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    ahead_s: float = 0.0
    endless: bool = False
    seen: list[str] = field(default_factory=list)


@contextmanager
def https(certificate: Path) -> Iterator[HttpsServer]:
    """Serve with a certificate and key in one file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.seen.append(self.path)
            self.answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.seen.append(f"POST {self.path}")
            self.answer()

        def answer(self) -> None:
            self.send_response(told.statuses.get(self.path, 404))
            if not told.endless:
                self.send_header("Content-Length", "0")
            self.end_headers()
            while told.endless:
                self.wfile.write(bytes(1024))

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + told.ahead_s, usegmt=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        told = HttpsServer(server.server_address[1])
        serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        serving.start()
        try:
            yield told
        finally:
            server.shutdown()
            serving.join()
