"""Flower's side of a site: a thin shell that forwards bytes. It holds no model, no records and no key.

Whoever carries the messages, an executor in a deployment and Flower's simulation in a simulation, is trusted with
nothing.
"""

from collections.abc import Callable
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from yoriai.errors import DaemonError, TrainingError, WireError
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


def answer(content: RecordDict | None, daemon: Callable[[], Door]) -> RecordDict:
    """What a site answers to a message's content; None: it has none that could be Yoriai's.

    An empty payload asks for the name only. A daemon that cannot be reached, or has no time, is a reply that says so:
    the coordinator is to hear no traceback, with the site's paths in it.
    """
    try:
        payload = payload_of(content) if content is not None else None
        if payload is None:
            return pack(b"", failure="the message is none of Yoriai's")
        door = daemon()
        return pack(door.handle(payload) if payload else b"", site=door.name)
    except DaemonError:
        return pack(b"", failure="the site's daemon cannot be reached, or has no time")
    except WireError as error:
        return pack(b"", failure=error.what)


def client_app(daemon_for: Callable[[Context], Door]) -> ClientApp:
    """A ClientApp of Flower's simulation that hands the payload of every message to the site.

    A site that is played elsewhere may raise TrainingError, whose text is then why its reply is missing.
    """
    app = ClientApp()

    @app.query()
    def forward(message: Message, context: Context) -> Message:
        try:
            content = answer(message.content, lambda: daemon_for(context))
        except TrainingError as error:
            content = pack(b"", failure=error.what)
        return Message(content, reply_to=message)

    return app
