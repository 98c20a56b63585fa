"""Secure aggregation: the coordinator opens the sum of the sites' updates, and no update.

A window of slots is opened once, and each slot then takes one round. Sites: `advertise` a window, then drive the stage
objects it returns (see `site.py`, `slot.py`). Coordinator: start with `Advertising` (see `coordinator.py`,
`summing.py`). Both are pure: bytes in, bytes out; time, entropy and the durable mark of spent updates are given.
"""

from yoriai.privacy.secagg.coordinator import Advertising
from yoriai.privacy.secagg.fixedpoint import FixedPoint, Grid, Integers, Quantised, next_range, quantise
from yoriai.privacy.secagg.keyset import SlotTerms, WindowTerms
from yoriai.privacy.secagg.member import Member, SitePolicy, Update
from yoriai.privacy.secagg.opening import Opened
from yoriai.privacy.secagg.site import advertise
from yoriai.privacy.secagg.slot import ReadyToMask, SiteWindow
from yoriai.privacy.secagg.summing import SumWindow

__all__ = [
    "Advertising",
    "FixedPoint",
    "Grid",
    "Integers",
    "Member",
    "Opened",
    "Quantised",
    "ReadyToMask",
    "SitePolicy",
    "SiteWindow",
    "SlotTerms",
    "SumWindow",
    "Update",
    "WindowTerms",
    "advertise",
    "next_range",
    "quantise",
]
