"""A console as a process: its port on loopback, the links that are printed once, and its end by a signal."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from yoriai.console.access import Access
from yoriai.console.front import front
from yoriai.console.pages import Console
from yoriai.system.listening import listening_socket
from yoriai.system.signals import wake_up_call
from yoriai.terminal import say

_ADDRESS = "127.0.0.1"
_MOST_AT_ONCE = 64  # Connections; whoever comes on top of them is told to try again.
_TO_END_S = 2


def listening(port: int) -> socket.socket:
    """A socket that listens on loopback; port 0 takes any that is free.

    Raises:
        ConfigError: the port is taken, or not for this user.
    """
    return listening_socket(_ADDRESS, port, at_once=_MOST_AT_ONCE)


def run(console: Console, port: int) -> None:
    """Serve a console until SIGTERM or SIGINT. Prints its links first; call it in a process's main thread.

    Raises:
        ConfigError: as `listening`.
    """
    with listening(port) as opened:
        access = Access(opened.getsockname()[1], may_act=bool(console.actions))
        say_links(access)
        with wake_up_call():  # Uvicorn ends on a signal, and then sends it once more to who was there before it.
            asyncio.run(_server(console, access).serve(sockets=[opened]))


@contextmanager
def served(console: Console, port: int) -> Iterator[Access]:
    """Serve a console from a thread of its own, next to other work, for this block.

    Raises:
        ConfigError: as `listening`.
    """
    with listening(port) as opened:
        access = Access(opened.getsockname()[1], may_act=bool(console.actions))
        server = _server(console, access)
        thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])), name="console", daemon=True)
        thread.start()
        try:
            yield access
        finally:
            server.should_exit = True
            thread.join()


def say_links(access: Access) -> None:
    """Print where the console is. The links are secrets of whoever reads the terminal."""
    if "act" in access.links:
        say(f"to look and to act: {access.links['act']}")
        say(f"to look alone:      {access.links['read']}")
    else:
        say(f"console: {access.links['read']}")
    say("each link holds until this command ends (Ctrl-C); who has it needs no other key")


def _server(console: Console, access: Access) -> uvicorn.Server:
    options = uvicorn.Config(
        front(console, access),
        access_log=False,
        log_config=None,
        log_level="error",
        ws="none",
        limit_concurrency=_MOST_AT_ONCE,
        timeout_graceful_shutdown=_TO_END_S,
        server_header=False,
        date_header=False,
    )
    return uvicorn.Server(options)
