"""Secure aggregation: the coordinator opens the sum of the sites' updates, and no update.

Sites: `advertise` a round, then drive the stage objects it returns (see `site.py`). Coordinator: start with
`Advertising` (see `coordinator.py`). Both are pure: bytes in, bytes out; time, entropy and the durable mark of spent
updates are given.
"""

from yoriai.privacy.secagg.coordinator import Advertising
from yoriai.privacy.secagg.fixedpoint import FixedPoint, Quantised, next_range, quantise
from yoriai.privacy.secagg.keyset import RoundTerms
from yoriai.privacy.secagg.member import Member, SitePolicy, Update
from yoriai.privacy.secagg.opening import Opened
from yoriai.privacy.secagg.site import advertise

__all__ = [
    "Advertising",
    "FixedPoint",
    "Member",
    "Opened",
    "Quantised",
    "RoundTerms",
    "SitePolicy",
    "Update",
    "advertise",
    "next_range",
    "quantise",
]
