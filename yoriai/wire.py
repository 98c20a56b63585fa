"""What coordinator and sites say to each other: typed messages in one versioned, length-checked envelope.

    "YORI" | protocol version (u16) | header length (u32) | header (JSON) | payload

All integers are big-endian. The header names the message's kind and holds its fields; the payload is opaque bytes (an
adapter). Nothing here knows what a payload means. Without secure aggregation a site's update travels as a
`PlainUpdate`; the coordinator can read it.
"""

import json
import struct
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yoriai.errors import WireError

PROTOCOL_VERSION = 1
_MAGIC = b"YORI"
_PREAMBLE = struct.Struct(">4sHI")
_LARGEST_HEADER_BYTES = 4 * 1024 * 1024


class Roster(BaseModel):
    """Who takes part, with what weight. A weight w stands for w · training.records_per_weight records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: int = Field(ge=1)
    weights: dict[str, int]


class Message(BaseModel):
    """A message of the protocol. `payload` travels behind the header, not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]

    run_id: str
    payload: bytes = Field(default=b"", exclude=True, repr=False)


class JobOffer(Message):
    """Coordinator to site: the whole job, before anything trains. Payload: the complete first adapter."""

    kind: ClassVar[str] = "job_offer"
    job: dict[str, Any]
    roster: Roster
    base_digest: str
    noise_multiplier: float | None


class Acceptance(Message):
    """Site to coordinator: the job fits the site's policy, base, records and budget."""

    kind: ClassVar[str] = "acceptance"
    site: str


class Refusal(Message):
    """Site to coordinator: no, with a reason that holds no data. `unknown_job` asks for the offer again."""

    kind: ClassVar[str] = "refusal"
    site: str
    reason: str
    unknown_job: bool = False


class TrainRequest(Message):
    """Coordinator to site.

    Train one round. Payload: the factors that may have changed; the others came with the offer.
    """

    kind: ClassVar[str] = "train_request"
    round_index: int
    adapter_digest: str


class PlainUpdate(Message):
    """Site to coordinator: an update in the clear. Payload: the trained factors, after minus before."""

    kind: ClassVar[str] = "plain_update"
    round_index: int
    site: str


_KINDS: dict[str, type[Message]] = {
    message.kind: message for message in (JobOffer, Acceptance, Refusal, TrainRequest, PlainUpdate)
}


def encode(message: Message) -> bytes:
    """The envelope's bytes."""
    header = json.dumps({"kind": message.kind, **message.model_dump(mode="json")}, sort_keys=True).encode()
    return _PREAMBLE.pack(_MAGIC, PROTOCOL_VERSION, len(header)) + header + message.payload


def decode(data: bytes) -> Message:
    """The message in an envelope.

    Raises:
        WireError: the bytes are not an envelope of this protocol version, or its fields are not those of its kind.
    """
    if len(data) < _PREAMBLE.size:
        raise WireError("a message is cut short", found=f"{len(data)} bytes", expected=f"at least {_PREAMBLE.size}")
    magic, version, header_length = _PREAMBLE.unpack_from(data)
    if magic != _MAGIC:
        raise WireError("bytes are not a Yoriai message", remedy="check that both sides speak Yoriai")
    if version != PROTOCOL_VERSION:
        raise WireError(
            "a message has another protocol version",
            found=str(version),
            expected=str(PROTOCOL_VERSION),
            remedy="run the same Yoriai version on both sides",
        )
    payload_start = _PREAMBLE.size + header_length
    if header_length > _LARGEST_HEADER_BYTES or payload_start > len(data):
        raise WireError("a message's header is cut short or too long", found=f"{header_length} bytes announced")
    try:
        header = json.loads(data[_PREAMBLE.size : payload_start])
        kind = _KINDS[header.pop("kind")]
        return kind.model_validate({**header, "payload": data[payload_start:]})
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError):
        # The cause may quote the bytes, so it is not chained.
        raise WireError("a message's header is malformed", expected=f"one of {', '.join(sorted(_KINDS))}") from None
