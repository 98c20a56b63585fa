"""How Yoriai's bytes travel in Flower's messages; both sides of Flower use this, and nothing else knows of it.

A large payload is an array of bytes, because Flower cuts arrays into pieces of a few MiB and sends each by itself. As a
plain value, 200 MB went into the SuperLink's database as one row, and stalled it. A small one is a plain value, for an
array is three more objects, each with a request of its own at every station.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from yoriai.errors import WireError

_NAME = "yoriai"
_PAYLOAD = "yoriai.payload"
_KIND = "yoriai.bytes"
_SMALL_BYTES = 256 * 1024


def pack(payload: bytes, **labels: str) -> RecordDict:
    """A message's content: the payload, and short labels beside it."""
    if 0 < len(payload) <= _SMALL_BYTES:
        return RecordDict({_NAME: ConfigRecord({**labels, _PAYLOAD: payload})})
    records = RecordDict({_NAME: ConfigRecord(dict(labels))})
    if payload:
        array = Array(dtype="uint8", shape=(len(payload),), stype=_KIND, data=payload)
        records[_PAYLOAD] = ArrayRecord({"payload": array})
    return records


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
    return bytes(array.data)


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
