"""What a site's checks of versions found, exactly and for its own eyes: `channels/counts/own.json`.

Where a version has come to answer fewer records right than at its first check, by more than chance explains, the
site's own alarm says `drift`. The daemon's frame reads this file: no model library is loaded here.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.privacy.statements.version_statement import PRODUCTION
from yoriai.system.files import PRIVATE, make_private_folder, write_atomically

_OWN = "own.json"
_MOST_KEPT = 100
_DOUBT = 2.0  # Standard errors beyond which a lower accuracy is no chance.


class OwnChecks:
    """The checks of one site.

    Args:
        folder: of all channels.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, number: int, period: int) -> bool:
        """Whether the version of this number was checked in this period."""
        return any(entry[:2] == [number, period] for entry in self.entries())

    def note(self, number: int, period: int, counts: np.ndarray) -> bool:
        """Keep (right, wrong) of a check; whether the version has come to answer worse than at its first one."""
        entries = self.entries()
        first = next((entry for entry in _that_count(entries) if entry[0] == number), None)
        new = [number, period, *(round(count) for count in counts)]
        kept = ([first] if first is not None and first not in entries[-_MOST_KEPT:] else []) + entries[-_MOST_KEPT:]
        make_private_folder(self._path.parent)
        write_atomically(self._path, json.dumps([*kept, new]).encode(), mode=PRIVATE)
        return first is not None and is_worse(first[2:], new[2:])

    def has_drifted(self) -> bool:
        """Whether the version in use answered worse at its last check than at its first."""
        in_use = ChannelPlace(self._folder, PRODUCTION).current()
        checks = [entry[2:] for entry in _that_count(self.entries()) if entry[0] == in_use]
        return bool(checks) and is_worse(checks[0], checks[-1])

    def entries(self) -> list[list[int]]:
        """(number, period, right, wrong) of each check, the oldest first; none where the file cannot be read."""
        try:
            return [list(map(int, entry)) for entry in json.loads(self._path.read_bytes())]
        except (OSError, ValueError, TypeError):
            return []

    @property
    def _path(self) -> Path:
        return self._folder / "counts" / _OWN


def _that_count(entries: Sequence[list[int]]) -> list[list[int]]:
    """The checks in which a record was answered: one of files that could not be read says nothing of a version."""
    return [entry for entry in entries if sum(entry[2:]) > 0]


def is_worse(before: Sequence[int], now: Sequence[int]) -> bool:
    """Whether (right, wrong) has fallen by more than two standard errors of the difference of the shares."""
    n, m = sum(before), sum(now)
    if n <= 0 or m <= 0:
        return False
    pooled = (before[0] + now[0]) / (n + m)
    return before[0] / n - now[0] / m > _DOUBT * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
