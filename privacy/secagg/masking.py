"""Putting masks on a whole update at a site, and taking the left-over ones off a sum at the coordinator."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.fixedpoint import add_packed_block, pack_block, packed_span, word_dtype
from yoriai.privacy.secagg.keyset import SlotKeys
from yoriai.privacy.secagg.masks import MaskKey, Scratch, Words, add_masks, agree, for_each_block
from yoriai.privacy.secagg.member import Member, Update
from yoriai.privacy.secagg.messages import MessageKind
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.work import Work

SignedMask = tuple[int, MaskKey]
"""A mask and its sign: +1 to add, -1 to subtract."""


def own_masks(
    keys: SlotKeys, member: Member, secrets: tuple[SecretBytes, SecretBytes], partners: Iterable[int]
) -> list[SignedMask]:
    """A site's masks: its own, and one with every partner. `secrets` are the slot's: its seed, its X25519 mask key."""
    seed, mask_secret = secrets
    own = member.position
    return [(1, keys.self_mask(own, seed)), *pair_masks(keys, own, mask_secret, partners, member.work)]


def pair_masks(
    keys: SlotKeys, own: int, mask_secret: SecretBytes, partners: Iterable[int], work: Work
) -> list[SignedMask]:
    """Masks of one site with its partners, with the sign that this site gives them: the lower position adds."""
    private_key = X25519PrivateKey.from_private_bytes(mask_secret.reveal())

    def mask_with(peer: int) -> MaskKey:
        return keys.pair_mask(own, peer, agree(private_key, keys.mask_key(peer)))

    return [
        (1 if own < peer else -1, work.both_ends(keys.pair(own, peer), partial(mask_with, peer)))
        for peer in sorted(partners)
    ]


def masked_update(keys: SlotKeys, member: Member, update: Update, masks: Sequence[SignedMask]) -> bytes:
    """The signed message with weight * levels + masks, packed, and the masked tail. Call it for a claimed update
    only."""
    terms, width, dtype = keys.terms, keys.word_bits, word_dtype(keys.word_bits)
    tail_start = wire.HEADER_BYTES + keys.vector_bytes
    message = np.empty(tail_start + 8 * keys.tail_words, dtype=np.uint8)
    start = wire.header(MessageKind.MASKED_UPDATE, keys.binding, member.position)
    message[: len(start)] = np.frombuffer(start, dtype=np.uint8)
    vector = message[len(start) : tail_start]
    weight = dtype.type(member.directory.weight(member.position))

    def work(first: int, last: int) -> None:
        words = update.quantised.levels[first:last].astype(dtype)
        words *= weight
        add_masks(words, first, masks, Scratch(words.nbytes))
        pack_block(words, width, vector[packed_span(first, last, width)])

    for_each_block(terms.n_params, work, member.threads)
    tail = np.array([update.quantised.clipped, *update.counts], dtype=np.uint64)
    _add_tail_masks(tail, masks)
    message[tail_start:] = tail.astype("<u8").view(np.uint8)
    return b"".join([message.data, wire.sign_digest(message.data, member.key)])


def _add_tail_masks(tail: NDArray[np.uint64], masks: Iterable[SignedMask]) -> None:
    for sign, mask in masks:
        (np.add if sign > 0 else np.subtract)(tail, mask.tail(tail.size), out=tail)


class RunningSum:
    """The coordinator's sum of masked updates: one vector of words and the tail, whatever the number of sites."""

    def __init__(self, keys: SlotKeys, threads: int) -> None:
        self._width, self._threads = keys.word_bits, threads
        self.words: Words = np.zeros(keys.terms.n_params, dtype=word_dtype(keys.word_bits))
        self.tail: NDArray[np.uint64] = np.zeros(keys.tail_words, dtype=np.uint64)
        self._vector_bytes = keys.vector_bytes

    @property
    def body_bytes(self) -> int:
        """Length of a masked update's body."""
        return self._vector_bytes + 8 * self.tail.size

    def add(self, body: memoryview) -> None:
        """Add one verified masked update."""
        data: NDArray[Any] = np.frombuffer(body, dtype=np.uint8)
        vector, width = data[: self._vector_bytes], self._width

        def work(first: int, last: int) -> None:
            add_packed_block(self.words[first:last], width, vector[packed_span(first, last, width)])

        for_each_block(self.words.size, work, self._threads)
        self.tail += np.frombuffer(data[self._vector_bytes :], dtype="<u8")

    def remove(self, masks: Sequence[SignedMask]) -> None:
        """Take masks off, a block of the sum at a time, and bring the words back to w bits."""
        opposite = [(-sign, mask) for sign, mask in masks]
        modulus = self.words.dtype.type((1 << self._width) - 1)

        def work(first: int, last: int) -> None:
            block = self.words[first:last]
            add_masks(block, first, opposite, Scratch(block.nbytes))
            block &= modulus

        for_each_block(self.words.size, work, self._threads)
        _add_tail_masks(self.tail, opposite)
