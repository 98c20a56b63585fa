"""Flower's side of a site: a thin shell that forwards bytes. It holds no model, no records and no key.

Flower runs whatever code an app bundle carries, in a new process a message, so nothing here is trusted with anything.
"""

from collections.abc import Callable
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp


class Door(Protocol):
    """Where a site answers: the site itself in a simulation, the socket of its daemon in a deployment."""

    @property
    def name(self) -> str:
        """The site's name."""
        ...

    def handle(self, data: bytes) -> bytes:
        """Answer one message."""
        ...


def client_app(door_for: Callable[[Context], Door]) -> ClientApp:
    """A ClientApp that hands the payload of every message to the site's door.

    An empty payload asks for the name only.
    """
    app = ClientApp()

    @app.query()
    def forward(message: Message, context: Context) -> Message:
        door = door_for(context)
        payload = message.content.config_records["yoriai"]["payload"]
        if not isinstance(payload, bytes):
            raise TypeError("the payload of a Yoriai message is bytes")
        reply = ConfigRecord({"site": door.name, "payload": door.handle(payload) if payload else b""})
        return Message(RecordDict({"yoriai": reply}), reply_to=message)

    return app
