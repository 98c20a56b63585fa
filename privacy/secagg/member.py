"""A site as a party of the protocol, and the update that it gives away at most once."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from yoriai.errors import ProtocolError, SpentError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.secagg.fixedpoint import FixedPoint, Quantised
from yoriai.privacy.secagg.keyset import SlotKeys
from yoriai.privacy.secagg.secret import Guarded, OneShot
from yoriai.privacy.secagg.shamir import Entropy
from yoriai.privacy.secagg.work import OwnWork, Work


@dataclass(frozen=True)
class SitePolicy:
    """What a site's operator demands: at least `min_sites` members and survivors; counts only if allowed."""

    min_sites: int = 2
    allow_counts: bool = False


@dataclass(frozen=True, repr=False)
class Member(Guarded):
    """A site as a party of the protocol: its key, certificate (DER), position, and the directory it has verified.

    `entropy` gives n cryptographically random bytes (`os.urandom`); `threads` is 0 for one a core; `work` is shared in
    a simulation alone.
    """

    key: SigningKey
    certificate: bytes
    position: int
    directory: Directory
    entropy: Entropy
    policy: SitePolicy = field(default_factory=SitePolicy)
    threads: int = 0
    work: Work = field(default_factory=OwnWork)


class Update(Guarded):
    """A quantised update that enters at most one masked input.

    Args:
        identity: bytes under which the update is marked as spent; never used for another update.
        quantised: the update on the round's grid.
        counts: evaluation counts, as many as the terms say, each 0 to 2^32 - 1.
    """

    __slots__ = ("_once", "counts", "identity", "quantised")

    def __init__(self, identity: bytes, quantised: Quantised, counts: tuple[int, ...] = ()) -> None:
        self.identity, self.quantised, self.counts = identity, quantised, counts
        self._once = OneShot("this update")

    def claim(self) -> None:
        """Take the update for good.

        Raises:
            SpentError: if it was taken before.
        """
        self._once.claim(SpentError)

    def check(self, keys: SlotKeys) -> None:
        """Refuse an update that does not fit the slot, before anything of it is spent."""
        levels, terms, n_counts = self.quantised.levels, keys.terms, keys.tail_words - 1
        if levels.shape != (terms.n_params,) or levels.dtype != np.uint32 or int(levels.max()) > terms.grid.top:
            raise ProtocolError("an update does not fit the round", expected="the round's length and grid")
        if self.quantised.clipped and not isinstance(terms.grid, FixedPoint):
            raise ProtocolError("an update does not fit the round", expected="no clipped coordinates among integers")
        if len(self.counts) != n_counts or not all(0 <= count < 2**32 for count in self.counts):
            raise ProtocolError("counts do not fit the round", expected=f"{n_counts}, each below 2^32")


Spend = Callable[[bytes], None]
"""Marks the update of that identity as spent, durably before it returns; raises if it was marked before."""
