"""How Yoriai's bytes travel in Flower's messages; both sides of Flower use this, and nothing else knows of it.

A large payload is an array of bytes, because Flower cuts arrays into pieces of a few MiB and sends each by itself. As a
plain value, 200 MB went into the SuperLink's database as one row, and stalled it. A small one is a plain value, for an
array is three more objects, each with a request of its own at every station. What is sent to many at once, such as one
adapter behind a signature for each, is both: a plain value of each site's own, and one array for all, which Flower
stores once and a coordinator sends once.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from yoriai.errors import WireError

_NAME = "yoriai"
_PAYLOAD = "yoriai.payload"
_KIND = "yoriai.bytes"
_SMALL_BYTES: Final = 256 * 1024
# Of a payload of many, what may be its own: signature and header have a few KiB.
_OWN_BYTES: Final = 32 * 1024

To = TypeVar("To")


def pack(payload: bytes, **labels: str) -> RecordDict:
    """A message's content: the payload, and short labels beside it."""
    if 0 < len(payload) <= _SMALL_BYTES:
        return RecordDict({_NAME: ConfigRecord({**labels, _PAYLOAD: payload})})
    records = RecordDict({_NAME: ConfigRecord(dict(labels))})
    if payload:
        records[_PAYLOAD] = _array(payload)
    return records


def pack_all(payloads: Mapping[To, bytes]) -> dict[To, RecordDict]:
    """The contents of messages that are sent at once; what all of them end with alike is one object."""
    different = dict.fromkeys(payloads.values())
    shared = _shared_end(list(different))
    if shared:
        end = _array(shared)
        packed = {
            payload: RecordDict({_NAME: ConfigRecord({_PAYLOAD: payload[: -len(shared)]}), _PAYLOAD: end})
            for payload in different
        }
    else:
        packed = {payload: pack(payload) for payload in different}
    return {to: packed[payload] for to, payload in payloads.items()}


def _shared_end(payloads: list[bytes]) -> bytes:
    """What all payloads end with but for a few KiB; empty if there is no such thing, or it is not worth it."""
    shortest = min(payloads, key=len, default=b"")
    if len(payloads) < 2 or len(shortest) <= _SMALL_BYTES or len(max(payloads, key=len)) > len(shortest) + _OWN_BYTES:
        return b""
    end = shortest[_OWN_BYTES:]
    return end if all(payload.endswith(end) for payload in payloads) else b""


def _array(payload: bytes) -> ArrayRecord:
    return ArrayRecord({"payload": Array(dtype="uint8", shape=(len(payload),), stype=_KIND, data=payload)})


def payload_of(content: RecordDict) -> bytes:
    """The payload of a message; empty if it has none.

    Raises:
        WireError: there is something else in its place.
    """
    record = content.array_records.get(_PAYLOAD)
    if record is None:
        return _small_payload(content)
    array = record.get("payload")
    if array is None or len(record) != 1 or array.stype != _KIND or array.dtype != "uint8":
        raise WireError("a Flower message holds something else than a payload", remedy="check who sent it")
    return _small_payload(content) + array.data


def _small_payload(content: RecordDict) -> bytes:
    record = content.config_records.get(_NAME)
    value = record.get(_PAYLOAD, b"") if record is not None else b""
    if not isinstance(value, bytes):
        raise WireError("a Flower message holds something else than a payload", remedy="check who sent it")
    return value


def label_of(content: RecordDict, name: str) -> str:
    """A label of a message; empty if it has none of this name that is a text."""
    record = content.config_records.get(_NAME)
    value = record.get(name) if record is not None else None
    return value if isinstance(value, str) else ""
