"""What sites' test records say of versions, as the log has it: votes on a candidate, checks of the one in production.

Each is a pair of counts with Gaussian noise of a known deviation, so sums over sites have a known error. Only sites
that answered are in a sum; what the others have is not guessed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from yoriai.server.versions.log import events_of

VOTED, CHECKED, WITHHELD, CHECKING, DRIFTED = "voted", "checked", "withheld", "checking", "drifted"
# Standard errors: a vote that is this much below nothing is worse; a check that fell by as much has drifted.
_WORSE, _DRIFT = 1.64, 2.0


@dataclass(frozen=True)
class Verdict:
    """A site's pair of counts: gained and lost, or right and wrong; each with noise of `deviation`."""

    site: str
    first: int
    second: int
    deviation: float


@dataclass(frozen=True)
class Check:
    """One period's check of the version in production.

    Attributes:
        period: from 1 on.
        at: when it began, seconds since the epoch.
        verdicts: of the sites that answered.
        withheld: the sites that do not say, and why.
    """

    period: int
    at: float
    verdicts: tuple[Verdict, ...]
    withheld: Mapping[str, str]

    def share(self, sites: Sequence[str]) -> tuple[float, float] | None:
        """Share of records answered right over these sites, and its standard error; None if noise leaves no record."""
        chosen = [verdict for verdict in self.verdicts if verdict.site in sites]
        right, wrong = sum(v.first for v in chosen), sum(v.second for v in chosen)
        total = right + wrong
        if total <= 0:
            return None
        share = min(max(right / total, 0.0), 1.0)
        noise = sum(v.deviation**2 for v in chosen) * (share**2 + (1 - share) ** 2) / total**2
        return share, math.sqrt(share * (1 - share) / total + noise)

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that answered."""
        return tuple(verdict.site for verdict in self.verdicts)


def votes_on(db: Connection, run: str) -> list[Verdict]:
    """The last vote of each site on a run's version, by the site's name."""
    found = {fields["site"]: _verdict(fields) for fields in events_of(db, VOTED, run=run)}
    return [found[site] for site in sorted(found)]


def votes_withheld(db: Connection, run: str) -> dict[str, str]:
    """The sites that gave no vote on a run's version, each with its reason, by the site's name."""
    voted = {vote.site for vote in votes_on(db, run)}
    return {site: why for site, why in _withheld(db, run, period=0).items() if site not in voted}


def net_of(votes: Sequence[Verdict]) -> tuple[int, float]:
    """Records gained less records lost, over all votes, and the deviation of its noise."""
    return sum(v.first - v.second for v in votes), math.sqrt(2 * sum(v.deviation**2 for v in votes))


def is_found_worse(votes: Sequence[Verdict]) -> bool:
    """Whether the sites together lose more than their noise explains (one-sided, 5 %)."""
    net, deviation = net_of(votes)
    return net < -_WORSE * deviation


def checks_of(db: Connection, run: str, number: int) -> list[Check]:
    """The checks of a version as it stands in production, oldest first."""
    return [
        Check(
            period=began["period"],
            at=began["at"],
            verdicts=tuple(
                _verdict(fields) for fields in events_of(db, CHECKED, run=run, number=number, period=began["period"])
            ),
            withheld=_withheld(db, run, number=number, period=began["period"]),
        )
        for began in events_of(db, CHECKING, run=run, number=number)
    ]


def drift(checks: Sequence[Check]) -> tuple[float, float] | None:
    """How far the last check has fallen below the first, and the standard error; None where that is within chance.

    Both are taken over the sites that answered both. Noise of several looks is not shared out: with a check a month,
    one in forty that is sound is called drift.
    """
    if len(checks) < 2:
        return None
    both = sorted(set(checks[0].sites) & set(checks[-1].sites))
    first, last = checks[0].share(both), checks[-1].share(both)
    if first is None or last is None:
        return None
    fall, error = first[0] - last[0], math.hypot(first[1], last[1])
    return (fall, error) if fall > _DRIFT * error else None


def _withheld(db: Connection, run: str, **like: object) -> dict[str, str]:
    """Each site's last word, by its name."""
    found = {str(fields["site"]): str(fields["reason"]) for fields in events_of(db, WITHHELD, run=run, **like)}
    return dict(sorted(found.items()))


def _verdict(fields: dict[str, object]) -> Verdict:
    first, second = fields["counts"]  # type: ignore[misc]
    return Verdict(str(fields["site"]), first, second, float(fields["deviation"]))  # type: ignore[arg-type, has-type]
