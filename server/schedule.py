"""Who is asked in a round, and how long the server's steps are: functions of job and roster, so the same on resume."""

import hashlib
import math
from collections.abc import Collection


def sample_sites(seed: int, round_index: int, sites: Collection[str], wanted: int) -> list[str]:
    """Up to `wanted` of the sites, sorted; a function of its arguments alone, so the same after a resume.

    Each site's turn is a hash of its own, so that one that drops out changes no other site's turn but its substitute's.
    """

    def turn(site: str) -> bytes:
        return hashlib.sha256(f"{seed}:{round_index}:{site}".encode()).digest()

    return sorted(sorted(sites, key=turn)[:wanted])


def schedule_factor(schedule: str, round_index: int, rounds: int) -> float:
    """Share of the server's learning rate in a round: 1 in the first, towards 0 at the end unless constant."""
    if schedule == "linear":
        return 1.0 - round_index / rounds
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * round_index / rounds))
    return 1.0
