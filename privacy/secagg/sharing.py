"""Shares on their way from owner to holder: Shamir, then an AEAD that only the two of them can open.

Key: X25519 between the two *encryption* keys, which are never shared or revealed, then HKDF-SHA256 whose info names
protocol version, purpose, run, round, key-set digest, sender and receiver. The same context is the associated data. A
revealed mask key opens none of this. ChaCha20-Poly1305 (RFC 8439) under a fixed nonce: each key serves one message.
"""

from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from yoriai.errors import ProtocolError
from yoriai.privacy.secagg import shamir
from yoriai.privacy.secagg.keyset import KeySet
from yoriai.privacy.secagg.masks import agree, derive
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.shamir import SHARE_BYTES

HeldShares = Mapping[int, tuple[SecretBytes, SecretBytes]]
"""By owner: the share of its self-mask seed and the share of its mask key."""

_NONCE = bytes(12)


def coordinate(position: int) -> int:
    """Shamir's x of a holder: its position plus one, because the secret lies at zero."""
    return position + 1


def _cipher(
    keys: KeySet, private_key: X25519PrivateKey, peer: int, direction: tuple[int, int]
) -> tuple[ChaCha20Poly1305, bytes]:
    context = keys.binding.context("share", *direction)
    agreed = agree(private_key, keys.advertised[peer].encryption_key)
    return ChaCha20Poly1305(derive(agreed, context).reveal()), context


def seal_shares(
    keys: KeySet,
    own: int,
    private_key: X25519PrivateKey,
    secrets: tuple[SecretBytes, SecretBytes],
    holders: Iterable[int],
    entropy: shamir.Entropy,
) -> dict[int, bytes]:
    """Share (seed, mask key) among the holders and encrypt each one's pair to it; 82 bytes a holder."""
    order = tuple(sorted(holders))
    points = tuple(coordinate(holder) for holder in order)
    seeds, mask_keys = (shamir.split(secret, keys.plan.threshold, points, entropy) for secret in secrets)
    sealed = {}
    for holder, x in zip(order, points, strict=True):
        cipher, context = _cipher(keys, private_key, holder, (own, holder))
        sealed[holder] = cipher.encrypt(_NONCE, seeds[x].reveal() + mask_keys[x].reveal(), context)
    return sealed


def open_shares(keys: KeySet, own: int, private_key: X25519PrivateKey, sealed: Mapping[int, bytes]) -> HeldShares:
    """Decrypt what owners sent to this holder.

    Raises:
        ProtocolError: if one was changed, or was sealed by or for another, or for another round or key set.
    """
    held = {}
    for owner, ciphertext in sealed.items():
        cipher, context = _cipher(keys, private_key, owner, (owner, own))
        try:
            pair = SecretBytes(cipher.decrypt(_NONCE, ciphertext, context))
        except InvalidTag:
            raise ProtocolError("a relayed share cannot be opened", found=f"from position {owner}") from None
        held[owner] = (SecretBytes(pair.reveal()[:SHARE_BYTES]), SecretBytes(pair.reveal()[SHARE_BYTES:]))
    return held
