"""Who is asked in a round: a function of job and roster, so the same on resume."""

import hashlib
from collections.abc import Collection

from yoriai.config import FederationSection


def sites_wanted(federation: FederationSection, members: int) -> int:
    """How many of so many members a round asks, where so many are to be had."""
    return max(federation.min_sites, round(federation.participation * members))


def sample_sites(seed: int, round_index: int, sites: Collection[str], wanted: int) -> list[str]:
    """Up to `wanted` of the sites, sorted; a function of its arguments alone, so the same after a resume.

    Each site's turn is a hash of its own, so that one that drops out changes no other site's turn but its substitute's.
    """

    def turn(site: str) -> bytes:
        return hashlib.sha256(f"{seed}:{round_index}:{site}".encode()).digest()

    return sorted(sorted(sites, key=turn)[:wanted])
