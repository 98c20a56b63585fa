"""Messages of secure aggregation: framing, signatures and bodies. Versioned, length-checked, canonical.

| stage       | from        | message          | signed | body                                                        |
|-------------|-------------|------------------|--------|-------------------------------------------------------------|
| advertise   | site        | Advertisement    | yes    | encryption key 32, a mask key 32 a slot, certificate        |
|             | coordinator | KEY_SET          | no     | every advertisement, whole                                  |
| sign keys   | site        | HolderChoice     | yes    | the holders that the site drew; binds the key-set digest    |
|             | coordinator | HOLDER_CHOICES   | no     | every choice, whole                                         |
| share       | site        | SealedShares     | yes    | 32 a slot to commit to; 66 a slot and 16 for each holder    |
|             | coordinator | RelayedShares    | no     | who shared; the ciphertexts of those that chose the site |
| hold        | site        | HOLDING          | yes    | nothing: the site holds its shares, and its slots are ready |
| mask        | site        | MASKED_UPDATE    | yes    | packed w-bit words, then the tail of 64-bit counts          |
|             | coordinator | SURVIVORS        | no     | whose masked updates arrived                                |
| consistency | site        | CONSISTENCY      | yes    | SHA-256 of the survivor set, 32                             |
|             | coordinator | UNMASK_REQUEST   | no     | a quorum of consistency messages, whole                     |
| unmask      | site        | ReleasedShares   | yes    | (owner, kind, share 33) each; one kind an owner             |

The first four stages open a window of slots, the last three use up one slot, for one attempt at one round. What a slot
is for (round, adapter, length, grid) reaches the site beside these messages; both sides work the binding out of it.

Frame: magic "YSA3", kind 1, run 16, number 4, sender 2, binding 32; body; for sites an Ed25519 signature, 64, over
SHA-256 of everything before it, under a domain of its own. The number is the window's in the stages that open it and
the round's in a slot. The binding is the digest of the window's terms for advertisements and key sets, then the key-set
digest, and in a slot the digest of key set, slot and slot terms, so nothing can be replayed into another slot, window,
round, run, job, roster or key set. The coordinator's frames carry no signature because it is not trusted: what a site
believes of them, other sites signed. Integers are big-endian. Sites are positions in the roster. A body is parsed only
after its signature has been verified; of an advertisement, the certificate is first compared with the fingerprint in
the signed roster. Public keys have one encoding each, so that "no key twice" can be said of bytes.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError, ProtocolError
from yoriai.privacy.identity.public_keys import check_x25519
from yoriai.privacy.identity.signing_key import SigningKey, verify
from yoriai.privacy.secagg.graph import MAX_SITES
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.shamir import SHARE_BYTES

MAGIC = b"YSA3"
COORDINATOR = 0xFFFF
SIGNATURE_BYTES = 64
KEY_BYTES = 32
COMMITMENT_BYTES = 32
_HEADER = struct.Struct(">4sB16sIH32s")
HEADER_BYTES = _HEADER.size
LABEL = b"yoriai/secagg/3"
"""Protocol version, the first bytes of every hash, derivation and signature."""


class MessageKind(IntEnum):
    """The message kinds of the table above."""

    ADVERTISEMENT = 1
    KEY_SET = 2
    HOLDER_CHOICE = 3
    HOLDER_CHOICES = 4
    SEALED_SHARES = 5
    RELAYED_SHARES = 6
    MASKED_UPDATE = 7
    SURVIVORS = 8
    CONSISTENCY = 9
    UNMASK_REQUEST = 10
    RELEASED_SHARES = 11
    HOLDING = 12


class ShareKind(IntEnum):
    """Which of an owner's two secrets a share is of."""

    SEED = 1
    MASK_KEY = 2


@dataclass(frozen=True)
class Binding:
    """What every frame, key derivation and ciphertext of a stage is tied to.

    `number` is the window's in the stages that open it, the round's in a slot.
    """

    run: bytes
    number: int
    digest: bytes

    def context(self, purpose: str, *parties: int) -> bytes:
        """HKDF info or AAD: version, purpose, run, number, digest, and the parties (and slot) in order."""
        fixed = struct.pack(f">16sI32s{len(parties)}H", self.run, self.number, self.digest, *parties)
        return LABEL + b"/" + purpose.encode("ascii") + b"\0" + fixed


Buffer = bytes | bytearray | memoryview

KeyOf = Callable[[int, memoryview], Ed25519PublicKey]
"""Finds the key that must have signed: from the sender's position and the body, which is not yet authenticated."""


def _refuse(kind: MessageKind, found: str, expected: str) -> NoReturn:
    raise ProtocolError(f"message {kind.name.lower()} refused", found=found, expected=expected)


def header(kind: MessageKind, binding: Binding, sender: int) -> bytes:
    """The first 59 bytes of a frame."""
    return _HEADER.pack(MAGIC, kind, binding.run, binding.number, sender, binding.digest)


def frame(kind: MessageKind, binding: Binding, body: bytes) -> bytes:
    """A message of the coordinator."""
    return header(kind, binding, COORDINATOR) + body


def seal(kind: MessageKind, binding: Binding, sender: int, body: bytes, key: SigningKey) -> bytes:
    """A message of a site."""
    start = header(kind, binding, sender) + body
    return start + sign_digest(start, key)


def sign_digest(message: Buffer, key: SigningKey) -> bytes:
    """Signature over the SHA-256 of header and body: a large body is then read once, not twice as Ed25519 would."""
    return key.sign(LABEL, hashlib.sha256(message).digest())


def _check_header(data: Buffer, kind: MessageKind, binding: Binding, at_least: int) -> int:
    view = memoryview(data)
    if len(view) < HEADER_BYTES + at_least:
        _refuse(kind, f"{len(view)} bytes", f"at least {HEADER_BYTES + at_least}")
    magic, found, run, number, sender, digest = _HEADER.unpack(view[:HEADER_BYTES])
    if magic != MAGIC or found != kind:
        _refuse(kind, f"version {bytes(magic)!r}, kind {found}", f"version {MAGIC!r}, kind {kind:d}")
    if run != binding.run or number != binding.number:
        _refuse(kind, "another run, window or round", "this one")
    if digest != binding.digest:
        _refuse(kind, "another job, roster, key set or slot", "this one")
    return int(sender)


def sender_of(data: Buffer) -> int:
    """Who a message says it is from; to be believed only after `open_sealed`."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise ProtocolError("a message is shorter than its header", found=f"{len(view)} bytes")
    return int(_HEADER.unpack(view[:HEADER_BYTES])[4])


def open_frame(data: Buffer, kind: MessageKind, binding: Binding) -> memoryview:
    """Body of a coordinator's message of this kind and binding.

    Raises:
        ProtocolError: if it is another kind, version, run, number or binding.
    """
    if _check_header(data, kind, binding, 0) != COORDINATOR:
        _refuse(kind, "a site as its sender", "the coordinator")
    return memoryview(data)[HEADER_BYTES:]


def open_sealed(data: Buffer, kind: MessageKind, binding: Binding, key_of: KeyOf) -> tuple[int, memoryview]:
    """Sender and body of a site's message, after its signature has been verified.

    Raises:
        ProtocolError: on anything but an authentic message of this kind, run, number and binding.
        IdentityError: from `key_of`, if the sender is unknown.
    """
    view = memoryview(data)
    sender = _check_header(view, kind, binding, SIGNATURE_BYTES)
    body = view[HEADER_BYTES:-SIGNATURE_BYTES]
    digest = hashlib.sha256(view[:-SIGNATURE_BYTES]).digest()
    key = key_of(sender, body)
    try:
        verify(key, LABEL, digest, bytes(view[-SIGNATURE_BYTES:]))
    except IdentityError:
        raise ProtocolError(f"signature of message {kind.name.lower()} is wrong", remedy="treat it as forged") from None
    return sender, body


@dataclass(frozen=True)
class Advertisement:
    """A site's fresh public keys, one to encrypt to and one mask key a slot, and its certificate."""

    encryption_key: bytes
    mask_keys: tuple[bytes, ...]
    certificate: bytes

    def encode(self) -> bytes:
        """The body."""
        return b"".join((self.encryption_key, *self.mask_keys, self.certificate))

    @classmethod
    def decode(cls, body: memoryview, slots: int) -> "Advertisement":
        """Split the body of a window of so many slots; its length, and the form of each key, are checked.

        Raises:
            ProtocolError: it has another length.
            IdentityError: a key is not in its canonical encoding, or of small order.
        """
        end = KEY_BYTES * (1 + slots)
        if len(body) <= end:
            _refuse(MessageKind.ADVERTISEMENT, f"{len(body)} bytes", f"{1 + slots} keys and a certificate")
        encryption_key, *mask_keys = (check_x25519(bytes(body[at : at + KEY_BYTES])) for at in range(0, end, KEY_BYTES))
        return cls(encryption_key, tuple(mask_keys), bytes(body[end:]))


def encode_sites(sites: Iterable[int]) -> bytes:
    """Roster positions, ascending, 2 bytes each."""
    ordered = sorted(sites)
    return struct.pack(f">{len(ordered)}H", *ordered)


def decode_sites(body: memoryview, kind: MessageKind) -> tuple[int, ...]:
    """Roster positions, which must be strictly ascending, so that a set has one encoding and no member twice."""
    if len(body) % 2:
        _refuse(kind, f"{len(body)} bytes", "2 bytes a site")
    sites = struct.unpack(f">{len(body) // 2}H", body)
    if any(a >= b for a, b in pairwise(sites)):
        _refuse(kind, "sites out of order or repeated", "strictly ascending")
    return sites


def encode_list(messages: Iterable[bytes]) -> bytes:
    """Whole messages, each after its length in 4 bytes."""
    return b"".join(part for message in messages for part in (struct.pack(">I", len(message)), message))


def decode_list(body: memoryview, kind: MessageKind) -> tuple[memoryview, ...]:
    """Inverse of `encode_list`, for no more messages than there can be sites."""
    messages: list[memoryview] = []
    at = 0
    while at < len(body):
        if len(messages) == MAX_SITES:
            _refuse(kind, "a longer list", f"at most {MAX_SITES} messages")
        if at + 4 > len(body):
            _refuse(kind, "a truncated list", "whole messages")
        (size,) = struct.unpack(">I", body[at : at + 4])
        if at + 4 + size > len(body):
            _refuse(kind, "a truncated list", "whole messages")
        messages.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(messages)


def sealed_bytes(slots: int) -> int:
    """Bytes of one ciphertext: in every slot a share of the seed and one of the mask key; then the tag."""
    return 2 * SHARE_BYTES * slots + 16


@dataclass(frozen=True)
class SealedShares:
    """Commitments to the self-mask seeds, one a slot, and every holder's ciphertext of its shares of all slots."""

    commitments: tuple[bytes, ...]
    sealed: dict[int, bytes]

    def encode(self) -> bytes:
        """The body."""
        return b"".join(self.commitments) + _encode_records(self.sealed)

    @classmethod
    def decode(cls, body: memoryview, slots: int) -> "SealedShares":
        """Inverse of `encode` for so many slots; lengths and order are checked."""
        end = COMMITMENT_BYTES * slots
        if len(body) < end:
            _refuse(MessageKind.SEALED_SHARES, f"{len(body)} bytes", f"at least {end}")
        commitments = (bytes(body[at : at + COMMITMENT_BYTES]) for at in range(0, end, COMMITMENT_BYTES))
        return cls(tuple(commitments), _decode_records(body[end:], MessageKind.SEALED_SHARES, slots))


@dataclass(frozen=True)
class RelayedShares:
    """Who completed sharing, and the ciphertexts for the receiver by their sender."""

    sharers: tuple[int, ...]
    sealed: dict[int, bytes]

    def encode(self) -> bytes:
        """The body."""
        return struct.pack(">H", len(self.sharers)) + encode_sites(self.sharers) + _encode_records(self.sealed)

    @classmethod
    def decode(cls, body: memoryview, slots: int) -> "RelayedShares":
        """Inverse of `encode` for so many slots; lengths and order are checked."""
        kind = MessageKind.RELAYED_SHARES
        if len(body) < 2:
            _refuse(kind, f"{len(body)} bytes", "at least 2")
        end = 2 + 2 * struct.unpack(">H", body[:2])[0]
        if len(body) < end:
            _refuse(kind, "a truncated list of sites", f"{end} bytes")
        return cls(decode_sites(body[2:end], kind), _decode_records(body[end:], kind, slots))


def _encode_records(sealed: dict[int, bytes]) -> bytes:
    return b"".join(part for site in sorted(sealed) for part in (struct.pack(">H", site), sealed[site]))


def _decode_records(body: memoryview, kind: MessageKind, slots: int) -> dict[int, bytes]:
    size = 2 + sealed_bytes(slots)
    if len(body) % size:
        _refuse(kind, f"{len(body)} bytes of ciphertexts", f"a multiple of {size}")
    rows = (body[at : at + size] for at in range(0, len(body), size))
    records = [(int.from_bytes(row[:2], "big"), bytes(row[2:])) for row in rows]
    decode_sites(memoryview(struct.pack(f">{len(records)}H", *(site for site, _ in records))), kind)
    return dict(records)


@dataclass(frozen=True)
class ReleasedShares:
    """Shares that a holder gives up: exactly one kind an owner, by the shape of the message."""

    shares: dict[int, tuple[ShareKind, SecretBytes]]

    def encode(self) -> bytes:
        """The body."""
        return b"".join(
            struct.pack(f">HB{SHARE_BYTES}s", owner, kind, share.reveal())
            for owner, (kind, share) in sorted(self.shares.items())
        )

    @classmethod
    def decode(cls, body: memoryview) -> "ReleasedShares":
        """Inverse of `encode`; lengths, order and kinds are checked."""
        size = 3 + SHARE_BYTES
        if len(body) % size:
            _refuse(MessageKind.RELEASED_SHARES, f"{len(body)} bytes", f"a multiple of {size}")
        rows = [struct.unpack(f">HB{SHARE_BYTES}s", body[at : at + size]) for at in range(0, len(body), size)]
        decode_sites(memoryview(struct.pack(f">{len(rows)}H", *(row[0] for row in rows))), MessageKind.RELEASED_SHARES)
        if any(kind not in (ShareKind.SEED, ShareKind.MASK_KEY) for _, kind, _ in rows):
            _refuse(MessageKind.RELEASED_SHARES, "an unknown kind of share", "1 or 2")
        return cls({owner: (ShareKind(kind), SecretBytes(share)) for owner, kind, share in rows})
