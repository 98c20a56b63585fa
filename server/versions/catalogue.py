"""The versions of a server and the channels that they stand in, as rows; what a caller does, it does inside `writing`.

A version is named by the digest of its adapter, or by its run; the beginning of either will do where it is one's alone.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from yoriai.errors import ConfigError
from yoriai.privacy.statements.version_statement import VersionStatement, unverified_version

_COLUMNS = "number, run, digest, statement, sites, metrics"
_HEX_END = "g"  # What sorts behind every hexadecimal digit: the end of the digests with one beginning.


@dataclass(frozen=True)
class Version:
    """One version.

    Attributes:
        number: in the order in which the server took them in.
        run, digest: of its job, and of its adapter.
        signed: the statement's file.
        sites: those in any round's sum, by name.
        metrics: the document that was given at its last promotion with one; None before that.
    """

    number: int
    run: str
    digest: str
    signed: bytes
    sites: tuple[str, ...]
    metrics: Mapping[str, Any] | None

    @cached_property
    def statement(self) -> VersionStatement:
        """What the file says; its signature is the server's own, and not looked at here."""
        return unverified_version(self.signed)


@dataclass(frozen=True)
class Standing:
    """A row of a channel: the version that it came to hold.

    `before` is the row that was in force when this version was promoted, and is again after a rollback.
    """

    number: int
    channel: str
    version: int
    before: int | None
    signed: bytes


def add(db: sqlite3.Connection, run: str, digest: str, signed: bytes, sites: tuple[str, ...]) -> bool:
    """Take a version in; False where its run has one already."""
    row = (run, digest, signed, json.dumps(sites))
    query = "INSERT OR IGNORE INTO versions (run, digest, statement, sites) VALUES (?, ?, ?, ?)"
    return db.execute(query, row).rowcount == 1


def versions(db: sqlite3.Connection) -> list[Version]:
    """All of them, oldest first."""
    return [_version(row) for row in db.execute(f"SELECT {_COLUMNS} FROM versions ORDER BY number")]


def known_runs(db: sqlite3.Connection) -> set[str]:
    """The runs that have a version."""
    return {run for (run,) in db.execute("SELECT run FROM versions")}


def version(db: sqlite3.Connection, number: int) -> Version:
    """The version with this number."""
    return _version(db.execute(f"SELECT {_COLUMNS} FROM versions WHERE number = ?", (number,)).fetchone())


def find(db: sqlite3.Connection, name: str) -> Version:
    """The version with this digest or run, or whose digest or run alone begins so.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found: list[Version] = []
    for column, end in (("run", "\U0010ffff"), ("digest", _HEX_END)):
        query = f"SELECT {_COLUMNS} FROM versions WHERE {column} >= ? AND {column} < ? ORDER BY number LIMIT 6"
        found += [_version(row) for row in db.execute(query, (name, name + end))] if name else []
    found = [row for row in found if name in (row.run, row.digest)] or found
    if len({row.number for row in found}) == 1:
        return found[0]
    raise ConfigError(
        f"{'no' if not found else 'more than one'} version {name[:80]!r}",
        expected=", ".join(f"{row.run} ({row.digest[:12]})" for row in found[:5]) or "a digest or a run of a version",
        remedy="name it by its run; the list is: yoriai server versions DIR",
    )


def with_digest(db: sqlite3.Connection, digest: str) -> list[Version]:
    """The versions with this adapter, oldest first: runs may end alike."""
    query = f"SELECT {_COLUMNS} FROM versions WHERE digest = ? ORDER BY number"
    return [_version(row) for row in db.execute(query, (digest,))]


def standing(db: sqlite3.Connection, channel: str) -> Standing | None:
    """What is in force in a channel; None as long as it holds nothing."""
    query = "SELECT * FROM channels WHERE channel = ? ORDER BY number DESC LIMIT 1"
    row = db.execute(query, (channel,)).fetchone()
    return None if row is None else Standing(*row)


def standing_at(db: sqlite3.Connection, number: int) -> Standing:
    """The row of a channel with this number."""
    return Standing(*db.execute("SELECT * FROM channels WHERE number = ?", (number,)).fetchone())


def next_number(db: sqlite3.Connection) -> int:
    """The number of the next row of a channel."""
    found: int = db.execute("SELECT coalesce(max(number), 0) + 1 FROM channels").fetchone()[0]
    return found


def put(db: sqlite3.Connection, row: Standing) -> None:
    """Append a row of a channel."""
    values = (row.number, row.channel, row.version, row.before, row.signed)
    db.execute("INSERT INTO channels VALUES (?, ?, ?, ?, ?)", values)


def note_metrics(db: sqlite3.Connection, number: int, document: Mapping[str, Any]) -> None:
    """Keep what was measured of a version."""
    db.execute("UPDATE versions SET metrics = ? WHERE number = ?", (json.dumps(document), number))


def lineage(db: sqlite3.Connection, of: Version) -> Iterator[Version]:
    """The versions that a version goes back to, its parent first, as far as this server has them."""
    seen, parent = {of.digest}, of.statement.parent
    while parent and parent not in seen:
        found = with_digest(db, parent)
        if not found:
            return
        yield found[0]
        seen.add(parent)
        parent = found[0].statement.parent


def _version(row: tuple[Any, ...]) -> Version:
    number, run, digest, signed, sites, metrics = row
    known = json.loads(metrics) if metrics is not None else None
    return Version(number, run, digest, signed, tuple(json.loads(sites)), known)
