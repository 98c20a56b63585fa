"""Joules that the processor's packages took, by Intel's and AMD's running counters (RAPL); None where there is none.

The counter is the machine's, not a process's: other work counts too, so it means something on an idle machine alone.
Since 2020 Linux lets only root read it.
"""

from pathlib import Path
from typing import Final

_PLACE: Final = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts from its making on.

    Args:
        place: where the counters are.
    """

    def __init__(self, place: Path = _PLACE) -> None:
        self._counters = {path: value for path in _packages(place) if (value := _read(path / "energy_uj")) is not None}

    def joules(self) -> float | None:
        """Since the meter was made. A counter that began anew once is put right; more often cannot be told."""
        if not self._counters:
            return None
        total = 0
        for path, before in self._counters.items():
            now = _read(path / "energy_uj")
            if now is None:
                return None
            total += now - before if now >= before else now - before + (_read(path / "max_energy_range_uj") or 0)
        return total / 1e6


def _packages(place: Path) -> list[Path]:
    """One a processor: `intel-rapl:0`, and not its parts `intel-rapl:0:0`."""
    return sorted(path for path in place.glob("intel-rapl:*") if path.name.count(":") == 1)


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
