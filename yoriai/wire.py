"""What coordinator and sites say to each other: typed messages in one versioned, length-checked envelope.

    "YORI" | protocol version (u16) | CRC-32 of all that follows (u32) | header length (u32) | header (JSON) | payload

All integers are big-endian. The header names the message's kind and holds its fields; the payload is opaque bytes (an
adapter, a protocol's message). Nothing here knows what a payload means. The checksum finds accidents, not
attackers: what a coordinator asks of a site that is a member travels, whole, as the payload of an `Instruction`, which
it signs. Without secure aggregation a site's update travels
as a `PlainUpdate`; the coordinator can read it.
"""

import json
import struct
import zlib
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field

from yoriai.errors import WireError

PROTOCOL_VERSION = 4
# Stages of secure aggregation, in order: those that open a window of keys, then those of a round in one of its slots.
# The first of each are the answers to a WindowRequest and to a TrainRequest.
WINDOW_STAGES = ("advertise", "sign", "share", "hold")
SLOT_STAGES = ("mask", "agree", "unmask")
DELIVERY_STAGE = "deliver"
CHANNEL_STAGE = "channel"
TRAIN_STAGE = "train"
_MAGIC = b"YORI"
_PREAMBLE = struct.Struct(">4sHII")
_LARGEST_HEADER_BYTES = 4 * 1024 * 1024
# Characters of a certificate or a statement that travels in a header.
_LARGEST_SIGNED = 4096

_Weight = Annotated[int, Field(ge=1)]
_Rank = Annotated[int, Field(ge=1)]
_RoundIndex = Annotated[int, Field(ge=0)]
_Window = Annotated[int, Field(ge=0, lt=2**32)]
_Slot = Annotated[int, Field(ge=0, lt=256)]
# Of what stands in a channel; grows over all channels of a server, from 1 on.
_Number = Annotated[int, Field(ge=0, lt=2**53)]
# A site's signed commitment to its ledger; empty where there is none.
_LedgerHead = Annotated[str, Field(max_length=192, exclude_if=lambda head: not head)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Roster(_Strict):
    """Who takes part, with what weight. A weight w stands for w · training.records_per_weight records, or owners.

    `ranks` has the sites that train less than the job's rank. Under secure aggregation the signed roster's count.
    """

    serial: int = Field(ge=1)
    weights: dict[str, _Weight]
    ranks: dict[str, _Rank] = Field(default_factory=dict, exclude_if=lambda ranks: not ranks)


class Message(_Strict):
    """A message of the protocol."""

    kind: ClassVar[str]

    run_id: str = Field(max_length=128)


class _Laden(Message):
    """A message with a payload, which travels behind the header, not in it."""

    payload: bytes = Field(default=b"", exclude=True, repr=False)


class Instruction(_Laden):
    """Coordinator to site: another message, encoded, as the payload, and the coordinator's signature of it.

    `certificate` is the coordinator's, as the consortium signed it; `statement` is what the coordinator signs about the
    payload (`yoriai.privacy.statements.instruction`). Both are texts of a few lines.
    """

    kind: ClassVar[str] = "instruction"
    certificate: str = Field(max_length=_LARGEST_SIGNED)
    statement: str = Field(max_length=_LARGEST_SIGNED)


class JobOffer(_Laden):
    """Coordinator to site: the whole job, before anything trains. Payload: a complete adapter.

    `signed_roster` is the consortium's roster file, which secure aggregation needs; `roster` repeats its weights.
    `ledger_head` is the newest that the coordinator has of this very site; `rounds_done` says how many rounds are
    finished, so that a site can tell its operator whether a yes is in time. Older coordinators leave it out.
    """

    kind: ClassVar[str] = "job_offer"
    job: dict[str, Any]
    roster: Roster
    signed_roster: str = ""
    base_digest: str
    noise_multiplier: float | None
    ledger_head: _LedgerHead = ""
    rounds_done: int | None = Field(default=None, ge=0, exclude_if=lambda rounds: rounds is None)


class PreparedJobFile(_Laden):
    """No message between the parties but a file: a job for a server. Payload: its first adapter, complete."""

    kind: ClassVar[str] = "prepared_job"
    job: dict[str, Any]
    base_digest: str
    noise_multiplier: float | None = None


class VersionFile(_Laden):
    """Coordinator to site, or a file that goes any other way: what stands in a channel. Payload: a complete adapter.

    `promotion`, `statement` and `lineage` are what the coordinator signs (`privacy/statements/version_statement.py`):
    of the channel, of the version, and of those that it goes back to, its parent first.
    """

    kind: ClassVar[str] = "version"
    certificate: str = Field(max_length=_LARGEST_SIGNED)
    promotion: str = Field(max_length=_LARGEST_SIGNED)
    statement: str = Field(max_length=_LARGEST_SIGNED)
    lineage: list[Annotated[str, Field(max_length=_LARGEST_SIGNED)]] = Field(default_factory=list, max_length=512)
    job: dict[str, Any]


class ChannelQuestion(Message):
    """Coordinator to site: what of a channel is there, and in use, and what do its test records say of it?

    `number` is of the version in the channel that the test records are to speak of; `period` is above 0 where that is a
    check of the version in use, another one than before.
    """

    kind: ClassVar[str] = "channel_question"
    channel: str = Field(max_length=16)
    number: _Number = Field(default=0, exclude_if=lambda number: not number)
    period: int = Field(default=0, ge=0, lt=2**31, exclude_if=lambda period: not period)


class ChannelState(Message):
    """Site to coordinator: the numbers of a channel's versions that were delivered there last, and are in use; 0: none.

    What is in use is for the site's operator to say; neither number depends on a record. `counts` is what the site
    signs about its test records (`yoriai.privacy.statements.counts_statement`), with noise; or `withheld` says why not.
    Both are empty until it has counted.
    """

    kind: ClassVar[str] = "channel_state"
    site: str = Field(max_length=64)
    channel: str = Field(max_length=16)
    delivered: _Number = 0
    in_use: _Number = 0
    counts: str = Field(default="", max_length=_LARGEST_SIGNED, exclude_if=lambda counts: not counts)
    withheld: str = Field(default="", max_length=300, exclude_if=lambda withheld: not withheld)
    ledger_head: _LedgerHead = ""


class Acceptance(Message):
    """Site to coordinator: the job fits the site's policy, base, records and budget."""

    kind: ClassVar[str] = "acceptance"
    site: str
    ledger_head: _LedgerHead = ""


class Refusal(Message):
    """Site to coordinator: no, with a reason that holds no data.

    `unknown_job` asks for the offer again; `unknown_window` says that the site has no keys of that window (any more);
    `waiting` says that the site's operator has not decided about the job yet, and it may be offered again; `used_up`
    says that every round of the run is used, the spare ones too, so that the site will never train another one.
    """

    kind: ClassVar[str] = "refusal"
    site: str
    reason: str
    unknown_job: bool = False
    unknown_window: bool = False
    waiting: bool = False
    used_up: bool = False


class TrainRequest(_Laden):
    """Coordinator to site.

    Train one round. Payload: the factors that may have changed; the others came with the offer. With secure
    aggregation the answer is a masked update in that slot of that window, and `value_range` the round's public range.
    """

    kind: ClassVar[str] = "train_request"
    round_index: _RoundIndex
    adapter_digest: str
    value_range: float | None = Field(default=None, gt=0)
    window: _Window | None = None
    slot: _Slot | None = None

    @property
    def stage(self) -> str:
        """What a coordinator's log calls the exchange that this begins."""
        return TRAIN_STAGE if self.slot is None else SLOT_STAGES[0]


class WindowRequest(Message):
    """Coordinator to site: agree on the keys of so many rounds of secure aggregation, whatever window came before."""

    kind: ClassVar[str] = "window_request"
    window: _Window
    slots: int = Field(ge=1, le=256)

    @property
    def stage(self) -> str:
        """As a TrainRequest's."""
        return WINDOW_STAGES[0]


class SecureStage(_Laden):
    """Coordinator to site: a later stage of secure aggregation. Payload: the protocol's own bytes.

    `slot` is None in the stages that open a window.
    """

    kind: ClassVar[str] = "secure_stage"
    window: _Window
    slot: _Slot | None = None
    stage: str = Field(max_length=16)


class SecureReply(_Laden):
    """Site to coordinator: its answer to a stage. Payload: the protocol's own bytes; in one stage a masked update."""

    kind: ClassVar[str] = "secure_reply"
    window: _Window
    slot: _Slot | None = None
    stage: str = Field(max_length=16)
    site: str
    ledger_head: _LedgerHead = ""


class PlainUpdate(_Laden):
    """Site to coordinator: an update in the clear. Payload: the trained factors, after minus before."""

    kind: ClassVar[str] = "plain_update"
    round_index: _RoundIndex
    site: str
    ledger_head: _LedgerHead = ""


class Delivery(_Laden):
    """Coordinator to site: the job has ended. Payload: its last adapter, complete; empty for who gets none.

    `certificate` is the coordinator's, as the consortium signed it; `statement` is what the coordinator signs about
    end and adapter (`yoriai.privacy.statements.delivery`). Both are texts of a few lines.
    """

    kind: ClassVar[str] = "delivery"
    certificate: str = Field(max_length=_LARGEST_SIGNED)
    statement: str = Field(max_length=_LARGEST_SIGNED)


class Receipt(Message):
    """Site to coordinator: the end is known here, durably, and so is the adapter whose digest it names.

    The digest is empty after an end without an adapter. It holds nothing that the site found out by it.
    """

    kind: ClassVar[str] = "receipt"
    site: str = Field(max_length=64)
    adapter_digest: str = Field(max_length=64)
    ledger_head: _LedgerHead = ""


Reply = Acceptance | Refusal | PlainUpdate | SecureReply | Receipt | ChannelState  # What a site may answer.

_KINDS: dict[str, type[Message]] = {
    message.kind: message
    for message in (
        *(Instruction, JobOffer, PreparedJobFile, TrainRequest, WindowRequest, SecureStage, Delivery),
        *(VersionFile, ChannelQuestion),
        *get_args(Reply),
    )
}


def encode(message: Message) -> bytes:
    """The envelope's bytes."""
    header = json.dumps({"kind": message.kind, **message.model_dump(mode="json")}, sort_keys=True).encode()
    payload = message.payload if isinstance(message, _Laden) else b""
    return _PREAMBLE.pack(_MAGIC, PROTOCOL_VERSION, _checksum(header, payload), len(header)) + header + payload


def decode(data: bytes) -> Message:
    """The message in an envelope.

    Raises:
        WireError: the bytes are not an envelope of this protocol version, were damaged on the way, or their fields
            are not those of their kind. No error quotes the bytes.
    """
    header, payload = _open(data)
    try:
        fields = json.loads(header)
        if b"\\ud" in header.lower() or not header.isascii():
            json.dumps(fields, ensure_ascii=False).encode()  # Half of a pair of surrogates is no text.
        kind = _KINDS[fields.pop("kind")]
        if "payload" in fields or (payload and not issubclass(kind, _Laden)):
            raise ValueError
        if issubclass(kind, _Laden):
            fields["payload"] = payload
        return kind.model_validate(fields)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        # The cause (json's or pydantic's) may quote the bytes, so it is not chained.
        raise WireError("a message's header is malformed", expected=f"one of {', '.join(sorted(_KINDS))}") from None


def peek(data: bytes) -> dict[str, Any]:
    """An envelope's header for a log, neither verified nor checked: not to be acted on. Empty if it is unreadable.

    Of an instruction, the header of the message that it carries.
    """
    header, end = _glance(data, 0)
    return _glance(data, end)[0] if header.get("kind") == Instruction.kind else header


def _glance(data: bytes, start: int) -> tuple[dict[str, Any], int]:
    """The header of the envelope that begins at `start`, and where its payload does."""
    try:
        magic, _version, _crc, header_length = _PREAMBLE.unpack_from(data, start)
        if magic != _MAGIC or header_length > _LARGEST_HEADER_BYTES:
            return {}, start
        end = start + _PREAMBLE.size + header_length
        header = json.loads(data[start + _PREAMBLE.size : end])
    except (struct.error, ValueError, RecursionError):
        return {}, start
    return (header, end) if isinstance(header, dict) else ({}, start)


def _open(data: bytes) -> tuple[bytes, bytes]:
    """Header and payload of an envelope whose version, length and checksum are right."""
    if len(data) < _PREAMBLE.size:
        raise WireError("a message is cut short", found=f"{len(data)} bytes", expected=f"at least {_PREAMBLE.size}")
    magic, version, checksum, header_length = _PREAMBLE.unpack_from(data)
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
    header, payload = data[_PREAMBLE.size : payload_start], data[payload_start:]
    if _checksum(header, payload) != checksum:
        raise WireError("a message was damaged or cut short on the way", remedy="send it again")
    return header, payload


def _checksum(header: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(header, zlib.crc32(struct.pack(">I", len(header)))))
