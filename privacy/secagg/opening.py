"""The end of a round at the coordinator: rebuild the secrets whose masks are left in the sum, and check them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from yoriai.errors import ProtocolError, RoundError
from yoriai.privacy.secagg import shamir
from yoriai.privacy.secagg.fixedpoint import FixedPoint, Grid, mean_of_sum
from yoriai.privacy.secagg.graph import Graph, neighbours
from yoriai.privacy.secagg.keyset import SlotKeys, seed_commitment
from yoriai.privacy.secagg.masking import SignedMask, pair_masks
from yoriai.privacy.secagg.masks import Words
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.work import OwnWork

_VOID = "the round is void"

Released = Mapping[int, Mapping[int, SecretBytes]]
"""Released shares by owner, then by the holder's coordinate; all of the one kind that the owner's fate asks for."""


@dataclass(frozen=True)
class Opened:
    """The sum over the survivors, and nothing else: `levels` (n_params,) = sum of weight * level, exact.

    On `Integers` it is the sum of residues mod 2^word_bits.
    """

    levels: Words
    total_weight: int
    survivors: tuple[str, ...]
    clipped: int
    counts: tuple[int, ...]
    grid: Grid

    def mean(self) -> NDArray[np.float64]:
        """Weighted mean of the survivors' updates, (n_params,).

        Raises:
            ProtocolError: if the sum is one of integers, which stand for values by a rule that this module lacks.
        """
        if not isinstance(self.grid, FixedPoint):
            raise ProtocolError("a sum of residues has no mean here", remedy="read the levels")
        return mean_of_sum(self.levels, self.total_weight, self.grid)


def left_over_masks(
    keys: SlotKeys, graph: Graph, commitments: Mapping[int, bytes], survivors: frozenset[int], released: Released
) -> list[SignedMask]:
    """Masks that the sum of the survivors still carries: their own, and those with partners that dropped out.

    Args:
        keys: of the slot.
        graph: the neighbour graph.
        commitments: what every site that shared has committed to as its seed of this slot.
        survivors: sites whose masked update is in the sum.
        released: seed shares of survivors and mask-key shares of the others.

    Raises:
        RoundError: if a secret cannot be rebuilt, or is not what its owner published. Nothing opens then.
    """
    masks = []
    for owner in sorted(survivors):
        seed = _combine(keys, owner, released)
        if seed_commitment(keys.window, keys.terms.slot, owner, seed) != commitments[owner]:
            raise RoundError(f"shares of the site at position {owner} do not fit its commitment", remedy=_VOID)
        masks.append((1, keys.self_mask(owner, seed)))
    for owner in sorted(commitments.keys() - survivors):
        partners = neighbours(owner, graph) & survivors
        if partners:
            masks += _masks_of_dropped(keys, owner, partners, released)
    return masks


def _masks_of_dropped(keys: SlotKeys, owner: int, partners: Iterable[int], released: Released) -> list[SignedMask]:
    """Masks that the survivors have put on for a dropped site, which it has not taken back."""
    secret = _combine(keys, owner, released)
    public_key = X25519PrivateKey.from_private_bytes(secret.reveal()).public_key().public_bytes_raw()
    if public_key != keys.mask_key(owner):
        raise RoundError(f"shares of the site at position {owner} do not fit its mask key", remedy=_VOID)
    return [(-sign, mask) for sign, mask in pair_masks(keys, owner, secret, partners, OwnWork())]


def _combine(keys: SlotKeys, owner: int, released: Released) -> SecretBytes:
    try:
        return shamir.combine(released.get(owner, {}), keys.window.plan.threshold)
    except ProtocolError as error:
        what = f"the secret of the site at position {owner} cannot be rebuilt"
        raise RoundError(what, found=error.what, remedy=_VOID) from None
