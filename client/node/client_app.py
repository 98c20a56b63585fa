"""Flower's side of a site: a thin shell that forwards bytes. It holds no model, no records and no key.

Flower runs whatever code an app bundle carries, in a new process a message, so nothing here is trusted with anything.
"""

from collections.abc import Callable
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from yoriai.errors import DaemonError
from yoriai.flower_payload import pack, payload_of


class Door(Protocol):
    """Where a site answers: the site itself in a simulation, the socket of its daemon in a deployment."""

    @property
    def name(self) -> str:
        """The site's name."""
        ...

    def handle(self, data: bytes) -> bytes:
        """Answer one message."""
        ...


def client_app(daemon_for: Callable[[Context], Door]) -> ClientApp:
    """A ClientApp that hands the payload of every message to the site's daemon.

    An empty payload asks for the name only. A daemon that cannot be reached, or has no time, is a reply that says so:
    Flower would send the coordinator a traceback in its place, with the site's paths in it.
    """
    app = ClientApp()

    @app.query()
    def forward(message: Message, context: Context) -> Message:
        payload = payload_of(message.content)
        try:
            daemon = daemon_for(context)
            reply = pack(daemon.handle(payload) if payload else b"", site=daemon.name)
        except DaemonError:
            reply = pack(b"", failure="the site's daemon cannot be reached, or has no time")
        return Message(reply, reply_to=message)

    return app
