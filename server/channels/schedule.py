"""Checks of the version in production, at a set period: begun by the keeper or a person, found out from the log."""

from datetime import datetime

from yoriai.privacy.statements.version_statement import PRODUCTION
from yoriai.server.jobs.recording import Records
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Standing, Version
from yoriai.server.versions.database import writing
from yoriai.server.versions.log import append, events_of
from yoriai.server.versions.verdicts import CHECKING, DRIFTED, checks_of, drift

_DAY_S = 86_400.0


def in_production(records: Records) -> tuple[Standing, Version] | None:
    """What stands in production, if anything does."""
    row = catalogue.standing(records.db, PRODUCTION)
    return None if row is None else (row, catalogue.version(records.db, row.version))


def period_of(records: Records, row: Standing, version: Version) -> int:
    """The number of the last check that was asked for of what stands in production; 0 before the first."""
    return max(
        (check["period"] for check in events_of(records.db, CHECKING, run=version.run, number=row.number)), default=0
    )


def begin_if_due(records: Records, *, days: int, now: datetime) -> bool:
    """Ask for another check if so many days have passed since the last one, or since the promotion; whether it was.

    Args:
        days: of `check_days`; 0 asks for none.
    """
    held = in_production(records)
    if held is None or not days:
        return False
    row, version = held
    checks = checks_of(records.db, version.run, row.number)
    since = checks[-1].at if checks else _promoted(records, version)
    if now.timestamp() - since < days * _DAY_S:
        return False
    begin(records, row, version)
    return True


def begin(records: Records, row: Standing, version: Version) -> int:
    """Ask for another check now; returns its period."""
    with writing(records.db):
        period = period_of(records, row, version) + 1
        append(
            records.db, records.key, CHECKING, run=version.run, channel=row.channel, number=row.number, period=period
        )
    return period


def note_drift(records: Records) -> tuple[str, float] | None:
    """Note once a check that what stands in production has come to answer worse; the run, and by how much."""
    if (held := in_production(records)) is None:
        return None
    row, version = held
    checks = checks_of(records.db, version.run, row.number)
    found, last = drift(checks), checks[-1].period if checks else 0
    like = {"number": row.number, "period": last}
    if found is None or any(events_of(records.db, DRIFTED, run=version.run, **like)):
        return None
    with writing(records.db):
        fall, error = (round(value, 4) for value in found)
        append(records.db, records.key, DRIFTED, run=version.run, channel=row.channel, fall=fall, error=error, **like)
    return version.run, found[0]


def _promoted(records: Records, version: Version) -> float:
    """When it came to stand there, seconds since the epoch, by the log."""
    told = [row for event in ("promoted", "rolled_back") for row in events_of(records.db, event, run=version.run)]
    return max((float(row["at"]) for row in told if row["channel"] == PRODUCTION), default=0.0)
