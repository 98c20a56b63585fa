"""Shares on their way from owner to holder: Shamir, then an AEAD that only the two of them can open.

Key: X25519 between the two *encryption* keys, which are never shared or revealed, then HKDF-SHA256 whose info names
protocol version, purpose, run, window, key-set digest, sender and receiver. The same context is the associated data. A
revealed mask key opens none of this. One ciphertext carries the shares of all slots of a window: ChaCha20-Poly1305
(RFC 8439) under a fixed nonce, for each key serves one message.
"""

from collections.abc import Iterable, Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from yoriai.errors import ProtocolError
from yoriai.privacy.secagg import shamir
from yoriai.privacy.secagg.keyset import KeySet
from yoriai.privacy.secagg.masks import agree, derive
from yoriai.privacy.secagg.member import Member
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.shamir import SHARE_BYTES

Pair = tuple[SecretBytes, SecretBytes]
"""Of one slot: the self-mask seed and the mask key, or a share of each."""

HeldShares = Mapping[int, tuple[Pair, ...]]
"""By owner: the shares of its seed and mask key, a pair a slot."""

_NONCE = bytes(12)


def coordinate(position: int) -> int:
    """Shamir's x of a holder: its position plus one, because the secret lies at zero."""
    return position + 1


def _cipher(
    keys: KeySet, member: Member, private_key: X25519PrivateKey, peer: int, direction: tuple[int, int]
) -> tuple[ChaCha20Poly1305, bytes]:
    context = keys.binding.context("share", *direction)

    def cipher() -> ChaCha20Poly1305:
        agreed = agree(private_key, keys.advertised[peer].encryption_key)
        return ChaCha20Poly1305(derive(agreed, context).reveal())

    return member.work.both_ends(context, cipher), context


def seal_shares(
    keys: KeySet, member: Member, private_key: X25519PrivateKey, secrets: Sequence[Pair], holders: Iterable[int]
) -> dict[int, bytes]:
    """Share every slot's (seed, mask key) among the holders, and encrypt each one's pairs to it, one after the other.

    Every secret has a polynomial of its own: the shares of one slot say nothing of another slot's secrets.
    """
    order = tuple(sorted(holders))
    points = tuple(coordinate(holder) for holder in order)
    each = (secret for pair in secrets for secret in pair)
    shared = [shamir.split(secret, keys.plan.threshold, points, member.entropy) for secret in each]
    sealed = {}
    for holder, x in zip(order, points, strict=True):
        cipher, context = _cipher(keys, member, private_key, holder, (member.position, holder))
        sealed[holder] = cipher.encrypt(_NONCE, b"".join(shares[x].reveal() for shares in shared), context)
    return sealed


def open_shares(keys: KeySet, member: Member, private_key: X25519PrivateKey, sealed: Mapping[int, bytes]) -> HeldShares:
    """Decrypt what owners sent to this holder.

    Raises:
        ProtocolError: if one was changed, or was sealed by or for another, or for another window or key set.
    """
    shares = {}
    for owner, ciphertext in sealed.items():
        cipher, context = _cipher(keys, member, private_key, owner, (owner, member.position))
        try:
            opened = SecretBytes(cipher.decrypt(_NONCE, ciphertext, context))
        except InvalidTag:
            raise ProtocolError("a relayed share cannot be opened", found=f"from position {owner}") from None
        shares[owner] = tuple(_pair(opened, slot) for slot in range(keys.terms.slots))
    return shares


def _pair(opened: SecretBytes, slot: int) -> Pair:
    start, middle, end = (SHARE_BYTES * (2 * slot + part) for part in range(3))
    return SecretBytes(opened.reveal()[start:middle]), SecretBytes(opened.reveal()[middle:end])
