"""How an operator is told of what needs them, and from when on: the part of [alarms] that sites and servers share."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from yoriai.config.faults import Expected
from yoriai.config.types import Count, Table


def _webhook(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable()):
        raise ValueError("is no address of the kind http://HOST/PATH or https://HOST/PATH")
    return text


def _mailbox(text: str) -> str:
    name, at, domain = text.partition("@")
    if text and (not (name and at and domain) or any(c.isspace() or c in '<>,;:"' for c in text)):
        raise ValueError("is no mail address")
    return text


Webhook = Annotated[str, AfterValidator(_webhook), Expected("http://… or https://…, or an empty text")]
Mailbox = Annotated[str, AfterValidator(_mailbox), Expected("a mail address, or an empty text")]


class AlarmWays(Table):
    """Ways and thresholds. Nothing that leaves tells more than what is wrong, where, and of which run or site."""

    webhook: Webhook = Field(
        default="",
        description="An address that gets each alarm as a POST of JSON (schema, kind, where, subject, text). The units "
        "of systemd let daemon and server reach this machine alone: name a relay here, such as Alertmanager's or a "
        "chat's own. Empty: none.",
    )
    mail_to: Mailbox = Field(default="", description="Who gets each alarm by mail. Empty: nobody.")
    mail_from: Mailbox = Field(default="", description="The sender of those mails. Empty: mail_to.")
    mail_host: str = Field(default="localhost", description="The mail server of this machine, or another one.")
    mail_port: Annotated[int, Field(ge=1, le=65535)] = Field(default=25, description="Its port; without TLS.")
    expiry_days: Count = Field(
        default=14, description="Days before a certificate, a roster or a revocation list expires that it is told."
    )
    disk_gib: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=2.0, description="Free disk, in GiB, below which it is told. 0: never."
    )


class ServerAlarms(AlarmWays):
    """Whom the server tells of sites, rounds, papers and disk that need somebody."""

    silent_hours: Annotated[float, Field(gt=0, le=1e5)] = Field(
        default=24.0, description="Hours for which a member's node is not connected before it is told."
    )
