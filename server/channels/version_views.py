"""What `server versions`, `show` and `diff` show: plain values, read from the database alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from sqlite3 import Connection
from typing import Any

from yoriai.privacy.statements.version_statement import CHANNELS
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Version
from yoriai.server.versions.log import events_of
from yoriai.server.versions.verdicts import (
    CHECKING,
    Check,
    Verdict,
    checks_of,
    drift,
    is_found_worse,
    net_of,
    votes_on,
    votes_withheld,
)

_Z = 1.96  # Of a normal value between the bounds of a 95 % interval.


def versions_view(db: Connection) -> dict[str, Any]:
    """Every version in a line of its own, and what each channel holds: as many queries for one as for ten thousand."""
    standing = {channel: catalogue.standing(db, channel) for channel in CHANNELS}
    found = catalogue.versions(db)
    held = {channel: row.version for channel, row in standing.items() if row is not None}
    runs = {version.number: version.run for version in found}
    places = {number: [channel for channel in held if held[channel] == number] for number in held.values()}
    return {
        "channels": {channel: runs[number] for channel, number in held.items()},
        "versions": [_line(version, places.get(version.number, [])) for version in found],
    }


def facts_of(db: Connection, version: Version) -> dict[str, Any]:
    """All that is known of a version."""
    held = [row for channel in CHANNELS if (row := catalogue.standing(db, channel)) is not None]
    return {
        "statement": version.statement.document,
        "sites": list(version.sites),
        "metrics": version.metrics,
        "votes": {vote.site: [vote.first, vote.second, vote.deviation] for vote in votes_on(db, version.run)},
        "votes_withheld": votes_withheld(db, version.run),
        "channels": [row.channel for row in held if row.version == version.number],
        "lineage": [parent.run for parent in catalogue.lineage(db, version)],
    }


def judged_view(db: Connection, version: Version) -> dict[str, Any]:
    """What the sites' test records say of a version, with 95 % intervals: votes, and its checks in production.

    A vote's interval is that of the noise; the count beneath it is exact. Of a version that came into production more
    than once, the checks are those of the last time.
    """
    votes = votes_on(db, version.run)
    net, deviation = net_of(votes)
    number = max((row["number"] for row in events_of(db, CHECKING, run=version.run)), default=0)
    checks = checks_of(db, version.run, number)
    return {
        "votes": [_vote_line(vote) for vote in votes],
        "votes_withheld": votes_withheld(db, version.run),
        "net": {"count": net, "interval": _around(net, _Z * deviation), "worse": is_found_worse(votes)},
        "checks": [_with_interval(check) for check in reversed(checks)],
        "drift": drift(checks),
    }


def checks_view(checks: Sequence[Check]) -> dict[str, Any]:
    """Every check of the version in production, and whether the last one is drift."""
    found = drift(checks)
    return {
        "checks": [_check_line(check) for check in checks],
        "drift": None if found is None else {"fall": found[0], "error": found[1]},
    }


def _check_line(check: Check) -> dict[str, Any]:
    share = check.share(check.sites)
    return {
        "period": check.period,
        "began": datetime.fromtimestamp(check.at, UTC).isoformat(timespec="seconds"),
        "accuracy": None if share is None else share[0],
        "error": None if share is None else share[1],
        "answered": list(check.sites),
        "withheld": list(check.withheld),
    }


def _with_interval(check: Check) -> dict[str, Any]:
    """A check's line with the bounds of its accuracy, and why sites withheld theirs."""
    line, share = _check_line(check), check.share(check.sites)
    bounds = None if share is None else _around(share[0], _Z * share[1], least=0.0, most=1.0)
    return {**line, "at": check.at, "interval": bounds, "withheld": check.withheld}


def _vote_line(vote: Verdict) -> dict[str, Any]:
    half = _Z * vote.deviation
    counts = {"gained": vote.first, "lost": vote.second}
    bounds = {f"{name}_interval": _around(count, half, least=0.0) for name, count in counts.items()}
    return {"site": vote.site, **counts, **bounds}


def _around(middle: float, half: float, *, least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    return min(max(middle - half, least), most), min(max(middle + half, least), most)


def differences(old: Version, new: Version) -> dict[str, list[Any]]:
    """The facts in which two versions differ, by their dotted names: [old, new]."""
    before, after = (dict(_flat(_of(version))) for version in (old, new))
    keys = dict.fromkeys((*before, *after))
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


def _line(version: Version, channels: list[str]) -> dict[str, Any]:
    statement = version.statement
    return {
        "run": version.run,
        "adapter": version.digest,
        "parent": statement.parent,
        "rounds": statement.rounds,
        "trained_by": statement.trained_by,
        "sites": statement.sites,
        "epsilon": statement.privacy.epsilon,
        "ended": statement.ended,
        "accuracy": (version.metrics or {}).get("accuracy"),
        "channels": channels,
    }


def _of(version: Version) -> dict[str, Any]:
    predicate: dict[str, Any] = version.statement.document["predicate"]
    return {"adapter": version.digest, **predicate, "sites": list(version.sites), "metrics": version.metrics}


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
