"""The file behind versions, channels and log: one SQLite database, so that what belongs together is written at once.

    versions      a row a run that ended with an adapter: the signed statement, and what only the server may know
    channels      a row each time that a channel came to hold another version; the last row of a channel is in force
    log           hash-chained and signed; see log.py

Rows of channels and log are never changed or removed. The adapters themselves lie in their jobs' folders, by content.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yoriai.errors import StorageError
from yoriai.system.files import cannot_write, make_private_folder, sync

FORMAT = 1
_WAIT_S = 20.0
_SCHEMA = """
CREATE TABLE versions (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, statement BLOB NOT NULL,
    sites TEXT NOT NULL, metrics TEXT);
CREATE INDEX versions_by_digest ON versions (digest);
CREATE TABLE channels (
    number INTEGER PRIMARY KEY, channel TEXT NOT NULL, version INTEGER NOT NULL REFERENCES versions (number),
    before INTEGER REFERENCES channels (number), statement BLOB NOT NULL);
CREATE INDEX channels_by_name ON channels (channel, number);
CREATE TABLE log (number INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL);
CREATE INDEX log_by_event ON log (
    json_extract(body, '$.run'), json_extract(body, '$.event'), json_extract(body, '$.site'));
CREATE TRIGGER channels_stay BEFORE UPDATE ON channels BEGIN SELECT RAISE(ABORT, 'channels are append-only'); END;
CREATE TRIGGER channels_last BEFORE DELETE ON channels BEGIN SELECT RAISE(ABORT, 'channels are append-only'); END;
CREATE TRIGGER log_stays BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER log_lasts BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
"""


def _go_on(_: str) -> None:
    """What a step does outside tests."""


# Told of each step that a crash could part from the next; only tests put in another one, which kills the process.
on_step: Callable[[str], None] = _go_on


def step(name: str) -> None:
    """Name a place where a crash would leave a state of its own on the disk."""
    on_step(name)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database of a server, made when missing; closed at the end of the block.

    Raises:
        StorageError: it is damaged, locked, of another format, or cannot be read or written.
    """
    with _faults(path):
        if not path.exists():
            _create(path)
        db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        with _faults(path):
            db.execute("PRAGMA synchronous = EXTRA")  # A power cut right after a commit must not undo it.
            _check_format(db, path)
        yield db
    finally:
        db.close()


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """One transaction under SQLite's write lock: whoever comes second sees what the first has done; errors undo it.

    Raises:
        StorageError: the file is locked for long, or cannot be written.
    """
    with _faults(Path(db.execute("PRAGMA database_list").fetchone()[2])):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            step("rows written")
            db.execute("COMMIT")
            step("committed")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def _create(path: Path) -> None:
    """Make a complete database beside its place and link it there, so that a torn one is never taken for a new one."""
    make_private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        db = sqlite3.connect(draft)
        db.executescript(f"PRAGMA synchronous = EXTRA; PRAGMA user_version = {FORMAT};" + _SCHEMA)
        db.close()
        step("draft written")
        with suppress(FileExistsError):  # Another process was first.
            os.link(draft, path)
        step("draft linked")
    finally:
        draft.unlink()
    sync(path.parent)


def _check_format(db: sqlite3.Connection, path: Path) -> None:
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found != FORMAT:
        raise StorageError(
            f"{path} was written by another version of Yoriai",
            found=f"format {found}",
            expected=f"format {FORMAT}",
            remedy="use the Yoriai that wrote it, or a later one",
        )


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into `StorageError`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageError(
                f"{path} is locked by another process", remedy="try again, or stop the process that holds it"
            ) from error
        full = code == sqlite3.SQLITE_FULL
        raise StorageError(
            f"{path} cannot be read or written",
            found="the disk is full" if full else str(error),
            remedy="make room on that disk"
            if full
            else "check the disk and the rights of file and folder, or restore it from its backup",
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error
