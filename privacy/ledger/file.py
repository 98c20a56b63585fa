"""The file behind the privacy ledger: hash-chained rows in SQLite."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from yoriai.errors import ConfigError, LedgerError
from yoriai.privacy.ledger.book import FORMAT, GENESIS, Book, Head
from yoriai.system.files import room_for, sync

_SCHEMA = """
CREATE TABLE entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
_STANDS = "then try again; every row that was written still stands"


def _go_on(_: str) -> None:
    """What a step does outside tests."""


# Told of each step that a crash could part from the next; only tests put in another one, which kills the process.
on_step: Callable[[str], None] = _go_on


def step(name: str) -> None:
    """Name a place where a crash would leave a state of its own on the disk."""
    on_step(name)


def check_format(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a ledger of another format, whose rows would only look damaged.

    The format stands in the file's header. The first format left that empty, and stood in the first row.

    Raises:
        LedgerError: it is older or newer; names both formats.
    """
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == 0:
        found = _format_in_first_row(db)
    if found == FORMAT:
        return
    age, remedy = "a newer", "upgrade Yoriai at this site"
    if found < FORMAT:
        age = "an older"
        remedy = (
            "go on with the Yoriai that wrote it until its budget is spent: its jobs were charged before an order was "
            "fixed, so they cannot be carried over, and a new ledger for the same records would forget them"
        )
    raise LedgerError(
        f"ledger {path.name} was written by {age} Yoriai",
        found=f"format {found}",
        expected=f"format {FORMAT}",
        remedy=remedy,
    )


def _format_in_first_row(db: sqlite3.Connection) -> int:
    """What the first row says; this format where it says nothing, so that the chain is looked at and found broken."""
    row = db.execute("SELECT body FROM entries WHERE number = 1").fetchone()
    try:
        version = json.loads(row[0])["version"]
    except (KeyError, TypeError, ValueError):
        return FORMAT
    return version if type(version) is int else FORMAT


def catch_up(db: sqlite3.Connection, path: Path, book: Book) -> None:
    """Verify the rows written since the last look, by whichever process, and apply them to `book`.

    Raises:
        LedgerError: a row was changed, left out or is damaged; names the row.
    """
    query = "SELECT number, body, hash FROM entries WHERE number > ? ORDER BY number"
    for number, body, row_hash in db.execute(query, (book.number,)).fetchall():
        try:
            if row_hash != _chained(book.hash, number, body):
                raise ValueError("the hash chain is broken")
            book.apply(number, json.loads(body), row_hash)
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise _damaged(
                path, f"row {number}: it was changed or is damaged, or the row before it is missing"
            ) from error
    if book.number == 0:
        raise _damaged(path, "row 1: it is missing")


def hash_of(db: sqlite3.Connection, number: int) -> str | None:
    """The hash in a row; None if there is no such row. Says nothing of the rows before it."""
    found = db.execute("SELECT hash FROM entries WHERE number = ?", (number,)).fetchone()
    return None if found is None else str(found[0])


def has_hash(db: sqlite3.Connection, row_hash: str) -> bool:
    """Whether any row has this hash."""
    return db.execute("SELECT 1 FROM entries WHERE hash = ?", (row_hash,)).fetchone() is not None


def _chained(previous: str, number: int, body: str) -> str:
    return sha256(f"{previous}\n{number}\n{body}".encode()).hexdigest()


def last_row(db: sqlite3.Connection) -> Head:
    """The end of the chain, rows of the caller's own transaction included; not verified."""
    found = db.execute("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1").fetchone()
    return Head(0, GENESIS) if found is None else Head(*found)


def insert(db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """Append a row to the chain, inside the caller's transaction."""
    last = last_row(db)
    body = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    number = last.number + 1
    db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, body, _chained(last.hash, number, body)))


def create(path: Path, dataset: str, now: float, *, synced: bool = True) -> None:
    """Make a complete ledger beside `path` and link it into place, so that a torn or empty file is never a new one.

    Its first row holds 128 random bits: no two ledgers have a hash in common, and a hash tells nothing of the rows.

    Args:
        synced: as `LedgerStore.open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        step("draft made")
        db = sqlite3.connect(draft)
        db.execute(f"PRAGMA synchronous = {synchronous(synced)}")
        db.executescript(f"PRAGMA user_version = {FORMAT};" + _SCHEMA)
        first = {"kind": "opened", "version": FORMAT, "dataset": dataset, "id": os.urandom(16).hex(), "at": now}
        insert(db, first)
        db.commit()
        db.close()
        step("draft written")
        with suppress(FileExistsError):  # Another process was first: its ledger is the one.
            os.link(draft, path)
        step("draft linked")
    finally:
        draft.unlink()
    if synced:
        sync(path.parent)
    step("ledger made")


def synchronous(synced: bool) -> str:
    """SQLite's setting for a ledger whose rows are durable when a call returns, or later together with others.

    EXTRA is FULL and also syncs the folder after the journal is gone: without that, a power cut right after a commit
    could bring the journal back and undo the charge.
    """
    return "EXTRA" if synced else "OFF"


def _damaged(path: Path, what: str) -> LedgerError:
    remedy = (
        "restore the newest copy with its .head file; a ledger must never be started anew for the same data set, and "
        "where charges are lost its budget counts as spent"
    )
    return LedgerError(f"ledger {path.name}, {what}", remedy=remedy)


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into `LedgerError`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            what = f"ledger {path.name} is locked by another process"
            raise LedgerError(what, remedy="try again, or stop the process that holds it") from error
        if code == sqlite3.SQLITE_FULL:
            what = f"ledger {path.name} cannot be written: the disk is full"
            raise LedgerError(what, remedy=f"make room on that disk, {_STANDS}") from error
        if code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            what = f"ledger {path.name} cannot be read or written"
            remedy = "check the disk and the rights of file and folder, then try again; rows that were written stand"
            raise LedgerError(what, found=str(error), remedy=remedy) from error
        raise _damaged(path, f"which cannot be read or written: {error}") from error
    except OSError as error:
        what = f"ledger {path.name}, or its .head file, cannot be opened or written"
        remedy = f"{room_for(error)}, {_STANDS}"
        raise LedgerError(what, found=error.strerror or "an error", remedy=remedy) from error
