"""One thing that needs somebody, and the conditions that sites and servers share. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from yoriai.config.alarms import AlarmWays

Kind = Literal[
    "job_waits", "site_silent", "round_void", "job_failed", "expiry", "clock", "disk", "budget", "drift", "not_running"
]
_DAY_S = 86_400.0
_GIB = 2**30


@dataclass(frozen=True)
class Alarm:
    """What needs somebody now.

    Attributes:
        kind: of it.
        subject: the run, site or paper that it is about; with the kind it says whether it was told before.
        text: an English sentence with places for the values; a key of the console's words.
        values: numbers, names and reasons that hold no data.
    """

    kind: Kind
    subject: str
    text: str
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """In English."""
        return self.text.format(**self.values)


def expiry_alarms(
    expiries: Mapping[str, float], settings: AlarmWays, now: float, *, of_sites: bool = False
) -> Iterator[Alarm]:
    """What expires soon, or has.

    Args:
        expiries: seconds since the epoch, by paper.
        now: seconds since the epoch.
        of_sites: whether the papers are named by the sites whose certificates they are.
    """
    subject = "The certificate of {paper}" if of_sites else "Of the papers {paper}"
    for paper, at in sorted(expiries.items()):
        days = int((at - now) // _DAY_S)
        if days < 0:
            yield Alarm("expiry", paper, f"{subject} has expired.", {"paper": paper})
        elif days < settings.expiry_days:
            yield Alarm("expiry", paper, f"{subject} expires in {{days}} d.", {"paper": paper, "days": days})


def disk_alarms(free_bytes: int, settings: AlarmWays) -> Iterator[Alarm]:
    """That the disk is nearly full."""
    if free_bytes < settings.disk_gib * _GIB:
        yield Alarm("disk", "disk", "{free} GiB of the disk are free.", {"free": f"{free_bytes / _GIB:.1f}"})
