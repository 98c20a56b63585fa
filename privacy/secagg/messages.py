"""Messages of secure aggregation: framing, signatures and bodies. Versioned, length-checked, canonical.

| stage       | from        | message          | signed | body                                                        |
|-------------|-------------|------------------|--------|-------------------------------------------------------------|
| advertise   | site        | Advertisement    | yes    | encryption key 32, mask key 32, certificate                 |
|             | coordinator | KEY_SET          | no     | every advertisement, whole                                  |
| sign keys   | site        | HolderChoice     | yes    | the holders that the site drew; binds the key-set digest    |
|             | coordinator | HOLDER_CHOICES   | no     | every choice, whole                                         |
| share       | site        | SealedShares     | yes    | commitment 32 to the self-mask seed; 82 bytes a holder      |
|             | coordinator | RelayedShares    | no     | who shared; the 82 bytes from each that chose the receiver  |
| mask        | site        | MASKED_UPDATE    | yes    | packed w-bit words, then the tail of 64-bit counts          |
|             | coordinator | SURVIVORS        | no     | whose masked updates arrived                                |
| consistency | site        | CONSISTENCY      | yes    | SHA-256 of the survivor set, 32                             |
|             | coordinator | UNMASK_REQUEST   | no     | a quorum of consistency messages, whole                     |
| unmask      | site        | ReleasedShares   | yes    | (owner, kind, share 33) each; one kind an owner             |

Frame: magic "YSA1", kind 1, run 16, round 4, sender 2, binding 32; body; for sites an Ed25519 signature, 64, over
SHA-256 of everything before it, under a domain of its own. The binding is the digest of the round's terms for
advertisements and key sets, and the key-set digest from then on, so nothing can be replayed into another round, run,
job, roster or key set. The coordinator's frames carry no signature because it is not trusted: what a site believes of
them, other sites signed. Integers are big-endian. Sites are positions in the roster. A body is parsed only after its
signature has been verified; of an advertisement, the certificate is first compared with the fingerprint in the signed
roster.
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
from yoriai.privacy.identity import SigningKey, verify
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.shamir import SHARE_BYTES

MAGIC = b"YSA1"
COORDINATOR = 0xFFFF
SIGNATURE_BYTES = 64
KEY_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + 16
_HEADER = struct.Struct(">4sB16sIH32s")
HEADER_BYTES = _HEADER.size
_DOMAIN = b"yoriai/secagg/1"


class Kind(IntEnum):
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


class ShareKind(IntEnum):
    """Which of an owner's two secrets a share is of."""

    SEED = 1
    MASK_KEY = 2


@dataclass(frozen=True)
class Binding:
    """What every frame, key derivation and ciphertext of a stage is tied to."""

    run: bytes
    round_index: int
    digest: bytes

    def context(self, purpose: str, *parties: int) -> bytes:
        """HKDF info or AAD: protocol version, purpose, run, round, digest, and the parties in order."""
        fixed = struct.pack(f">16sI32s{len(parties)}H", self.run, self.round_index, self.digest, *parties)
        return _DOMAIN + b"/" + purpose.encode("ascii") + b"\0" + fixed


Buffer = bytes | bytearray | memoryview

KeyOf = Callable[[int, memoryview], Ed25519PublicKey]
"""Finds the key that must have signed: from the sender's position and the body, which is not yet authenticated."""


def _refuse(kind: Kind, found: str, expected: str) -> NoReturn:
    raise ProtocolError(f"message {kind.name.lower()} refused", found=found, expected=expected)


def header(kind: Kind, binding: Binding, sender: int) -> bytes:
    """The first 59 bytes of a frame."""
    return _HEADER.pack(MAGIC, kind, binding.run, binding.round_index, sender, binding.digest)


def frame(kind: Kind, binding: Binding, body: bytes) -> bytes:
    """A message of the coordinator."""
    return header(kind, binding, COORDINATOR) + body


def seal(kind: Kind, binding: Binding, sender: int, body: bytes, key: SigningKey) -> bytes:
    """A message of a site."""
    start = header(kind, binding, sender) + body
    return start + sign_digest(start, key)


def sign_digest(message: Buffer, key: SigningKey) -> bytes:
    """Signature over the SHA-256 of header and body: a large body is then read once, not twice as Ed25519 would."""
    return key.sign(_DOMAIN, hashlib.sha256(message).digest())


def _check_header(data: Buffer, kind: Kind, binding: Binding, at_least: int) -> int:
    view = memoryview(data)
    if len(view) < HEADER_BYTES + at_least:
        _refuse(kind, f"{len(view)} bytes", f"at least {HEADER_BYTES + at_least}")
    magic, found, run, round_index, sender, digest = _HEADER.unpack(view[:HEADER_BYTES])
    if magic != MAGIC or found != kind:
        _refuse(kind, f"version {bytes(magic)!r}, kind {found}", f"version {MAGIC!r}, kind {kind:d}")
    if run != binding.run or round_index != binding.round_index:
        _refuse(kind, "another run or round", "this one")
    if digest != binding.digest:
        _refuse(kind, "another job, roster or key set", "this one")
    return int(sender)


def sender_of(data: Buffer) -> int:
    """Who a message says it is from; to be believed only after `open_sealed`."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise ProtocolError("a message is shorter than its header", found=f"{len(view)} bytes")
    return int(_HEADER.unpack(view[:HEADER_BYTES])[4])


def open_frame(data: Buffer, kind: Kind, binding: Binding) -> memoryview:
    """Body of a coordinator's message of this kind and binding.

    Raises:
        ProtocolError: if it is another kind, version, run, round or binding.
    """
    if _check_header(data, kind, binding, 0) != COORDINATOR:
        _refuse(kind, "a site as its sender", "the coordinator")
    return memoryview(data)[HEADER_BYTES:]


def open_sealed(data: Buffer, kind: Kind, binding: Binding, key_of: KeyOf) -> tuple[int, memoryview]:
    """Sender and body of a site's message, after its signature has been verified.

    Raises:
        ProtocolError: on anything but an authentic message of this kind, run, round and binding.
        IdentityError: from `key_of`, if the sender is unknown.
    """
    view = memoryview(data)
    sender = _check_header(view, kind, binding, SIGNATURE_BYTES)
    body = view[HEADER_BYTES:-SIGNATURE_BYTES]
    digest = hashlib.sha256(view[:-SIGNATURE_BYTES]).digest()
    key = key_of(sender, body)
    try:
        verify(key, _DOMAIN, digest, bytes(view[-SIGNATURE_BYTES:]))
    except IdentityError:
        raise ProtocolError(f"signature of message {kind.name.lower()} is wrong", remedy="treat it as forged") from None
    return sender, body


@dataclass(frozen=True)
class Advertisement:
    """A site's two fresh public keys and its certificate."""

    encryption_key: bytes
    mask_key: bytes
    certificate: bytes

    def encode(self) -> bytes:
        """The body."""
        return self.encryption_key + self.mask_key + self.certificate

    @classmethod
    def decode(cls, body: memoryview) -> "Advertisement":
        """Split a body; its length is checked."""
        if len(body) <= 2 * KEY_BYTES:
            _refuse(Kind.ADVERTISEMENT, f"{len(body)} bytes", "two keys and a certificate")
        return cls(bytes(body[:KEY_BYTES]), bytes(body[KEY_BYTES : 2 * KEY_BYTES]), bytes(body[2 * KEY_BYTES :]))


def encode_sites(sites: Iterable[int]) -> bytes:
    """Roster positions, ascending, 2 bytes each."""
    ordered = sorted(sites)
    return struct.pack(f">{len(ordered)}H", *ordered)


def decode_sites(body: memoryview, kind: Kind) -> tuple[int, ...]:
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


def decode_list(body: memoryview, kind: Kind) -> tuple[memoryview, ...]:
    """Inverse of `encode_list`."""
    messages, at = [], 0
    while at < len(body):
        if at + 4 > len(body):
            _refuse(kind, "a truncated list", "whole messages")
        (size,) = struct.unpack(">I", body[at : at + 4])
        if at + 4 + size > len(body):
            _refuse(kind, "a truncated list", "whole messages")
        messages.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(messages)


@dataclass(frozen=True)
class SealedShares:
    """Commitment to the self-mask seed, and for every holder the encrypted pair (seed share, mask-key share)."""

    commitment: bytes
    sealed: dict[int, bytes]

    def encode(self) -> bytes:
        """The body."""
        return self.commitment + _encode_records(self.sealed)

    @classmethod
    def decode(cls, body: memoryview) -> "SealedShares":
        """Inverse of `encode`; lengths and order are checked."""
        if len(body) < 32:
            _refuse(Kind.SEALED_SHARES, f"{len(body)} bytes", "at least 32")
        return cls(bytes(body[:32]), _decode_records(body[32:], Kind.SEALED_SHARES))


@dataclass(frozen=True)
class RelayedShares:
    """Who completed sharing, and the ciphertexts for the receiver by their sender."""

    sharers: tuple[int, ...]
    sealed: dict[int, bytes]

    def encode(self) -> bytes:
        """The body."""
        return struct.pack(">H", len(self.sharers)) + encode_sites(self.sharers) + _encode_records(self.sealed)

    @classmethod
    def decode(cls, body: memoryview) -> "RelayedShares":
        """Inverse of `encode`; lengths and order are checked."""
        if len(body) < 2:
            _refuse(Kind.RELAYED_SHARES, f"{len(body)} bytes", "at least 2")
        end = 2 + 2 * struct.unpack(">H", body[:2])[0]
        if len(body) < end:
            _refuse(Kind.RELAYED_SHARES, "a truncated list of sites", f"{end} bytes")
        return cls(decode_sites(body[2:end], Kind.RELAYED_SHARES), _decode_records(body[end:], Kind.RELAYED_SHARES))


def _encode_records(sealed: dict[int, bytes]) -> bytes:
    return b"".join(struct.pack(f">H{SEALED_BYTES}s", site, sealed[site]) for site in sorted(sealed))


def _decode_records(body: memoryview, kind: Kind) -> dict[int, bytes]:
    size = 2 + SEALED_BYTES
    if len(body) % size:
        _refuse(kind, f"{len(body)} bytes of ciphertexts", f"a multiple of {size}")
    records = [struct.unpack(f">H{SEALED_BYTES}s", body[at : at + size]) for at in range(0, len(body), size)]
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
            _refuse(Kind.RELEASED_SHARES, f"{len(body)} bytes", f"a multiple of {size}")
        rows = [struct.unpack(f">HB{SHARE_BYTES}s", body[at : at + size]) for at in range(0, len(body), size)]
        decode_sites(memoryview(struct.pack(f">{len(rows)}H", *(row[0] for row in rows))), Kind.RELEASED_SHARES)
        if any(kind not in (ShareKind.SEED, ShareKind.MASK_KEY) for _, kind, _ in rows):
            _refuse(Kind.RELEASED_SHARES, "an unknown kind of share", "1 or 2")
        return cls({owner: (ShareKind(kind), SecretBytes(share)) for owner, kind, share in rows})
