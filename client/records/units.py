"""Units of privacy: which records are drawn, clipped and charged for as one.

`record`: each record by itself. `owner`: all records of one owner at this site, or the first
`privacy.records_per_owner` of them in the order of the file. That choice looks at the owner's own records alone, so
that adding or removing another owner changes nothing of it.

An owner is a text. Two ways to write one name in Unicode are one owner, and spaces around it do not count; anything
else that differs is another owner, and would be protected as another. So an owner should be an identifier.
"""

import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

from yoriai.client.records.records import Record
from yoriai.config import PrivacySection
from yoriai.errors import RecordError

Units: TypeAlias = tuple[tuple[int, ...], ...]
"""A unit's records by index, none empty; a record is in one unit at most."""


def owner_units(records: Sequence[Record], privacy: PrivacySection) -> Units | None:
    """The records of each owner, in the order in which owners first appear; None where the unit is a record.

    Raises:
        RecordError: a record has no owner. It names the first one's place, for the site's own eyes.
    """
    if privacy.unit != "owner":
        return None
    units: dict[str, list[int]] = {}
    nobodys = []
    for index, record in enumerate(records):
        if name := owner_name(record):
            units.setdefault(name, []).append(index)
        else:
            nobodys.append(record)
    if nobodys:
        raise RecordError(
            f"{nobodys[0].place or 'a record'}: no owner, as in {len(nobodys) - 1} other records",
            expected='an "owner" in each record, since privacy.unit is owner',
            remedy='add the field "owner" to each record, or set privacy.unit = "record"',
        )
    return tuple(tuple(unit[: privacy.records_per_owner]) for unit in units.values())


def owner_name(record: Record) -> str:
    """The owner as one text, however it was written; empty for a record without one."""
    return unicodedata.normalize("NFC", record.owner or "").strip()


def policy_units(records: Sequence[Record], unit: str) -> int:
    """How many units a site's policy counts: records, or owners, those without one left out. Private."""
    return len(records) if unit == "record" else len({name for record in records if (name := owner_name(record))})


def unit_count(records: Sequence[Record], privacy: PrivacySection) -> int:
    """How many units the records are. Private, as the number of records is.

    Raises:
        RecordError: as `owner_units`.
    """
    units = owner_units(records, privacy)
    return len(records) if units is None else len(units)
