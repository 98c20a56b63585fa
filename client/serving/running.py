"""The endpoint as a process: its port, its versions, and its end."""

import asyncio
import ipaddress
import socket
from pathlib import Path

import uvicorn

from yoriai.client.routing.opening import Routes
from yoriai.client.serving.api_key import ApiKey
from yoriai.client.serving.front import Front
from yoriai.client.serving.version import Opener
from yoriai.client.serving.versions import Versions
from yoriai.config import ServeSection
from yoriai.errors import ConfigError, PolicyError
from yoriai.system.listening import listening_socket
from yoriai.system.log import EventLog
from yoriai.system.signals import wake_up_call

_MOST_AT_ONCE = 256  # Connections; whoever comes on top of them is told to try again.
_TO_END_S = 30


def listening(address: str, port: int, *, allow_network: bool) -> socket.socket:
    """A socket that listens.

    Args:
        address: an IP address of this machine.
        allow_network: whether another one than loopback will do.

    Raises:
        PolicyError: the address is not loopback, and the site does not allow that.
        ConfigError: it is no address of this machine, or the port is taken or not for this user.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise ConfigError("serve.address is no IP address", found=address, expected="such as 127.0.0.1") from None
    if not found.is_loopback and not allow_network:
        raise PolicyError(
            "serve.address can be reached from the network",
            found=address,
            expected="127.0.0.1 or ::1",
            remedy="set serve.allow_network = true in site.toml, and put TLS before it",
        )
    return listening_socket(str(found), port, at_once=_MOST_AT_ONCE)


def run(
    place: Path,
    opener: Opener,
    opened: socket.socket,
    *,
    model: str,
    key: ApiKey,
    settings: ServeSection,
    log: EventLog,
    routes: Routes | None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests that are being answered then have half a minute.

    Args:
        place: a channel's link, or one version's folder.
        opened: as `listening` has it; closed at the end.
        routes: to a large model; None where nothing leaves.

    Raises:
        What opening the first version raises.
    """

    async def serve() -> None:
        versions = Versions(place, opener.open, log)
        await versions.begin()
        front = Front(versions, model=model, key=key, settings=settings, log=log, routes=routes)
        options = uvicorn.Config(
            front.app(),
            access_log=False,
            log_config=None,
            log_level="warning",
            limit_concurrency=_MOST_AT_ONCE,
            timeout_graceful_shutdown=_TO_END_S,
            server_header=False,
        )
        host, port = opened.getsockname()[:2]
        log.event("serving", address=host, port=port, version=versions.current.name)
        with wake_up_call():  # Uvicorn ends on a signal, and then sends it once more to who was there before it.
            await uvicorn.Server(options).serve(sockets=[opened])

    try:
        asyncio.run(serve())
    finally:
        opened.close()
        log.event("serving_ended")
