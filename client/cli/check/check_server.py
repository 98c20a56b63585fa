"""The server as a site sees it: its TLS certificate, its clock, and whether it shows more than it should.

Two requests without content, as anybody who has the CA's certificate could make them, along the way that the SuperNode
takes: straight, or through the proxy by the method CONNECT.
"""

import http.client
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cryptography import x509

from yoriai.client.cli.check.check_rows import Row, looked_at, until
from yoriai.client.folder.server_ca import installed_ca
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.config import ServerSection
from yoriai.config.types import host_and_port
from yoriai.errors import ServerError

# Paths that Flower's SuperLink answers to POST alone. Whoever may not pass gets 404 from the proxy in front of it.
_FLEET, _CONTROL = "/v1/fleet/activate-node", "/v1/control/list-nodes"
_TIMEOUT_S = 15.0
# Flower's node authentication takes a time stamp from 5 s ahead of the server's clock to 305 s behind it.
_AHEAD_S, _BEHIND_S = 4.0, 60.0
_NOTED_S = 2.0
# Of OpenSSL: a certificate that does not hold yet, or no more; and that its time is not looked at.
_OF_TIME = (9, 10)
_AT_ANY_TIME = 0x200000
_GATEWAY = (502, 503, 504)
_FOUND = 404


@dataclass(frozen=True)
class Answer:
    """What the server said.

    Attributes:
        status: of HTTP.
        certificate: the server's, DER.
        ahead_s: by how much this machine's clock is ahead of the server's, within half a second; None if it named no
            time.
        out_of_time: in what way the certificate does not hold now, by this machine's clock; empty if it does.
    """

    status: int
    certificate: bytes
    ahead_s: float | None
    out_of_time: str = ""


def server_rows(site: SiteFolder, server: ServerSection, now: datetime) -> Iterator[Row]:
    """The rows on the server; where it cannot be reached, one that says why."""
    if not server.address:
        remedy = f"set server.address in {site.settings} once the coordinator has named it"
        yield Row("server", "warn", "none is set; the site takes part in no deployment", remedy)
        return
    yield looked_at("server's CA", lambda: check_ca(site, now))
    if not os.access(site.server_ca, os.R_OK):
        return
    answers: list[Answer] = []

    def look() -> Row:
        answers.append(ask(server, str(site.server_ca), _FLEET))
        return check_reached(server, answers[0])

    yield looked_at("server", look)
    for answer in answers:
        yield check_certificate(answer, now)
        yield check_clock(answer)
        yield looked_at("server's door", lambda: check_closed(ask(server, str(site.server_ca), _CONTROL)))


def check_ca(site: SiteFolder, now: datetime) -> Row:
    """The CA of the server's TLS is installed, and lasts."""
    remedy = f"yoriai site enrol {site.path} --server-ca ca.crt, with the coordinator's"
    if not site.server_ca.exists():
        return Row("server's CA", "fail", "it is not installed", remedy)
    return until("server's CA", installed_ca(site, now=now).expires, now, remedy)


def check_reached(server: ServerSection, answer: Answer) -> Row:
    """Something answers behind the server's door, with a certificate that holds at this machine's time."""
    way = f"{server.address} through {server.proxy}" if server.proxy else server.address
    if answer.out_of_time:
        found = f"{way}: by this machine's clock {answer.out_of_time}"
        return Row("server", "fail", found, "tell the coordinator: `yoriai server init DIR --renew`")
    if answer.status in _GATEWAY:
        remedy = "tell the coordinator: the SuperLink behind the server's proxy does not run"
        return Row("server", "warn", f"{way} answers {answer.status}", remedy)
    return Row("server", "ok", f"{way} answers")


def check_certificate(answer: Answer, now: datetime) -> Row:
    """The server's own certificate lasts. That it is the CA's, for this name, was seen when it was reached."""
    expires = x509.load_der_x509_certificate(answer.certificate).not_valid_after_utc
    return until("server's certificate", expires, now, "tell the coordinator: `yoriai server init DIR --renew`")


def check_clock(answer: Answer) -> Row:
    """The two clocks agree, as far as Flower's node authentication wants it."""
    ahead_s = answer.ahead_s
    if ahead_s is None:
        return Row("clock", "warn", "the server did not name its time", "compare the clocks by hand")
    found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"
    remedy = "set this machine's clock by NTP (timedatectl set-ntp true); if it is right, tell the coordinator"
    if ahead_s > _AHEAD_S or ahead_s < -_BEHIND_S:
        return Row("clock", "fail", found, remedy)
    if abs(ahead_s) > _NOTED_S:
        return Row("clock", "warn", found, remedy)
    return Row("clock", "ok", "as the server's")


def check_closed(answer: Answer) -> Row:
    """Control, by which runs are started, is not shown to sites."""
    if answer.status != _FOUND:
        remedy = "tell the coordinator: the proxy in front has to let /v1/fleet alone pass"
        return Row("server's door", "warn", f"it shows its control to sites ({_CONTROL}: {answer.status})", remedy)
    return Row("server's door", "ok", "only /v1/fleet is shown")


def ask(server: ServerSection, ca: str, path: str, *, out_of_time: str = "") -> Answer:
    """One request; a second one, whatever the time, where the certificate is at fault in nothing but that.

    Args:
        ca: PEM file of the CA that the server's certificate must be of.
        out_of_time: what the first one said of the certificate's time; empty for the first.

    Raises:
        ServerError: nobody can be reached there, or who is there is not the server.
    """
    context = ssl.create_default_context(cafile=ca)
    if out_of_time:
        context.verify_flags |= _AT_ANY_TIME
    connection = _connection(server, context)
    with closing(connection):
        try:
            connection.connect()
            certificate = connection.sock.getpeercert(binary_form=True)
            before = time.time()
            connection.request("GET", path)
            response = connection.getresponse()
            middle = (before + time.time()) / 2
            # Nobody needs the body, and whoever sends it may go on for ever.
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _OF_TIME and not out_of_time:
                return ask(server, ca, path, out_of_time=error.verify_message)
            raise ServerError(
                f"the certificate of {server.address} is not the server's",
                found=error.verify_message,
                expected="one of the installed CA, for this name",
                remedy="compare server.address and the CA's fingerprint with the coordinator",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(server, error) from None
    return Answer(response.status, certificate or b"", _ahead(response.getheader("Date"), middle), out_of_time)


def _connection(server: ServerSection, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    host, port = host_and_port(server.address)
    if not server.proxy:
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
    proxy, proxy_port = host_and_port(server.proxy.removeprefix("http://").removesuffix("/"))
    connection = http.client.HTTPSConnection(proxy, proxy_port, timeout=_TIMEOUT_S, context=context)
    connection.set_tunnel(host, port)
    return connection


def _unreachable(server: ServerSection, error: Exception) -> ServerError:
    through = f" through the proxy {server.proxy}" if server.proxy else ""
    found = (error.strerror if isinstance(error, OSError) else None) or str(error)[:200] or type(error).__name__
    return ServerError(
        f"{server.address} cannot be reached{through}",
        found=found,
        remedy="check server.address and server.proxy, and whether the firewall lets this machine out",
    )


def _ahead(date: str | None, local: float) -> float | None:
    """The header has whole seconds, cut off: half a second more is the best guess."""
    try:
        named = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    named = named if named.tzinfo is not None else named.replace(tzinfo=UTC)
    return local - (named.timestamp() + 0.5)
