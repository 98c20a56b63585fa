"""The settings of the coordinator's machine: its name, where sites reach it, and what its front lets in."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from yoriai.config.alarms import ServerAlarms
from yoriai.config.faults import Expected
from yoriai.config.types import Count, MetricsPort, Name, Table, Version, distinct, tuple_from_list

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)*(?![0-9]+\Z){_LABEL}")


def _host(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if not _DNS_NAME.fullmatch(text):
            raise ValueError("is neither a host's name nor an IP address") from None
        return text
    if address.is_unspecified or "%" in text:
        raise ValueError("is no address that a site could reach")
    return text


Host = Annotated[str, AfterValidator(_host)]
Hosts = Annotated[
    tuple[Host, ...],
    BeforeValidator(tuple_from_list),
    AfterValidator(distinct),
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    Expected("a list of one or more host names and IP addresses, none twice"),
]


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else text
    except ValueError:
        raise ValueError("is no IP address") from None


ListenAddress = Annotated[str, AfterValidator(_address), Expected("an IP address of this machine, or nothing")]
Port = Annotated[int, Field(ge=1, le=65535)]
User = Annotated[
    str,
    Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$"),
    Expected("1 to 32 lower-case letters, digits, dashes or underscores, beginning with a letter or underscore"),
]


class ServerConfig(Table):
    """The coordinator's machine. After a change: yoriai server init DIR --renew, and load nginx again."""

    schema_: Version = Field(default=1, alias="schema", description="Version of this file's format.")
    name: Name = Field(description="Name of the coordinator, as the consortium signs it.", examples=["office"])
    hosts: Hosts = Field(
        description="Names and IP addresses by which sites reach this machine. The TLS certificate is made out to "
        "them.",
        examples=[["server.example.org"]],
    )
    listen: ListenAddress = Field(
        default="",
        description="The one IP address of this machine on which nginx listens for sites. Empty: all of them.",
    )
    port: Port = Field(default=9092, description="The port on which nginx listens for sites; the only one open.")
    control_port: Port = Field(
        default=9093,
        validate_default=True,
        description="The port of Flower's SuperLink, on 127.0.0.1 only: whoever reaches it can submit jobs.",
    )
    user: User = Field(default="yoriai-server", description="The system user that the server runs as.")
    body_limit_mib: Count = Field(
        default=16,
        description="Largest request that nginx takes, in MiB. Flower sends a site's answer in pieces of 5 MiB. The "
        "SuperLink reads a request before it looks at the key, so strangers could fill its memory with larger ones.",
    )
    connections_per_address: Count = Field(
        default=256,
        description="Most requests at once from one IP address. A site always has one under way, which is kept for "
        "hold_s, and up to four while messages come; sites behind one proxy share an address. nginx's own "
        "worker_connections must be at least twice as many.",
    )
    hold_s: float = Field(
        default=20.0,
        ge=0,
        le=25,
        description="How long a site's question for a message is kept, in seconds, until there is one. Less than the "
        "shortest time after which a proxy, or a firewall, cuts a connection on which nothing moves, and than "
        "the 30 s of a SuperNode. 0: every question is answered at once, and sites ask after a pause of their own.",
    )
    check_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="Days between two checks of the version in production: each site evaluates it on its newest test "
        "records, and tells what its policy allows. 0: none are asked for.",
    )
    metrics_port: MetricsPort = Field(
        default=0,
        description="The port of Prometheus' metrics, on 127.0.0.1 only. 0: none.",
    )
    alarms: ServerAlarms = Field(default_factory=ServerAlarms)

    @field_validator("control_port", "metrics_port")
    @classmethod
    def _own_port(cls, port: int, info: ValidationInfo) -> int:
        others = {key: info.data.get(key) for key in ("port", "control_port")}
        for key, other in others.items():
            if port == other:
                raise ValueError(f"is {key} too")
        return port
