"""The file behind the privacy ledger: hash-chained rows in SQLite, and what they say when replayed in order."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from yoriai.errors import ConfigError, LedgerError
from yoriai.privacy.accounting import Event, event_from_dict

_GENESIS = sha256(b"yoriai privacy ledger, version 1").hexdigest()
_SCHEMA = """
CREATE TABLE entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""

# How often each event of each job counts.
Costs: TypeAlias = Counter[tuple[str, Event]]


@dataclass(frozen=True)
class Charge:
    """One charge: `number` is its row in the ledger, `reserved_at` in seconds since the epoch."""

    number: int
    job_id: str
    round_index: int
    event: Event
    reserved_at: float
    released: bool = False


@dataclass
class Book:
    """What the rows say, replayed in order. Pure: knows neither file nor budget."""

    number: int = 0
    hash: str = _GENESIS
    dataset: str = ""
    policy: tuple[float, float] | None = None
    # Replaced as a whole, never changed: another thread may be reading it.
    plans: Mapping[str, tuple[Event, int]] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    # The last charge of each (job, round), by its place in `charges`.
    latest: dict[tuple[str, int], int] = field(default_factory=dict)
    # How often an update of each (job, round) left without a charge.
    left: Counter[tuple[str, int]] = field(default_factory=Counter)

    def apply(self, number: int, body: Mapping[str, Any], row_hash: str) -> None:
        kind = body["kind"]
        if (kind == "opened") != (number == 1):
            raise ValueError("the first row, and only it, names the data set")
        if kind == "opened":
            self.dataset = body["dataset"]
        elif kind == "policy":
            self.policy = (body["epsilon_budget"], body["delta"])
        elif kind == "approved":
            self.plans = {**self.plans, body["job_id"]: (event_from_dict(body["event"]), body["rounds"])}
        elif kind == "finished":
            self.plans = {job: plan for job, plan in self.plans.items() if job != body["job_id"]}
        elif kind == "reserved":
            event = event_from_dict(body["event"])
            self.latest[body["job_id"], body["round_index"]] = len(self.charges)
            self.charges.append(Charge(number, body["job_id"], body["round_index"], event, body["at"]))
        elif kind == "released":
            place = self.latest[body["job_id"], body["round_index"]]
            self.charges[place] = replace(self.charges[place], released=True)
        elif kind == "left":
            self.left[body["job_id"], body["round_index"]] += 1
        else:
            raise ValueError("unknown kind of row")
        self.number, self.hash = number, row_hash

    def last_charge(self, job_id: str, round_index: int) -> Charge | None:
        place = self.latest.get((job_id, round_index))
        return None if place is None else self.charges[place]

    def spent(self) -> Costs:
        return Counter((charge.job_id, charge.event) for charge in self.charges)

    def held(self, without: str | None = None) -> Costs:
        """Return the unused rounds of the open plans, but not those of the job `without`."""
        spent = self.spent()
        unused = {(job_id, e): rounds - spent[job_id, e] for job_id, (e, rounds) in self.plans.items()}
        return Counter({key: n for key, n in unused.items() if n > 0 and key[0] != without})


def of_job(costs: Costs, job_id: str) -> Costs:
    """Return the part of `costs` that is one job's."""
    return Counter({key: n for key, n in costs.items() if key[0] == job_id})


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
            raise _damaged(path, f"row {number}: it was changed or is damaged") from error
    if book.number == 0:
        raise _damaged(path, "row 1: it is missing")


def _chained(previous: str, number: int, body: str) -> str:
    return sha256(f"{previous}\n{number}\n{body}".encode()).hexdigest()


def insert(db: sqlite3.Connection, number: int, previous: str, values: Mapping[str, Any]) -> None:
    """Append row `number` after the row whose hash is `previous`, inside the caller's transaction."""
    body = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, body, _chained(previous, number, body)))


def create(path: Path, dataset: str, now: float) -> None:
    """Make a complete ledger beside `path` and link it into place, so that a torn or empty file is never a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        db = sqlite3.connect(draft)
        db.executescript("PRAGMA synchronous = EXTRA;" + _SCHEMA)
        insert(db, 1, _GENESIS, {"kind": "opened", "version": 1, "dataset": dataset, "at": now})
        db.commit()
        db.close()
        with suppress(FileExistsError):  # Another process was first: its ledger is the one.
            os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _damaged(path: Path, what: str) -> LedgerError:
    remedy = "restore the newest backup; a ledger must never be started anew for the same data set"
    return LedgerError(f"ledger {path.name}, {what}", remedy=remedy)


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into `LedgerError`."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            what = f"ledger {path.name} is locked by another process"
            raise LedgerError(what, remedy="try again, or stop the process that holds it") from error
        raise _damaged(path, f"which cannot be read or written: {error}") from error
    except OSError as error:
        raise LedgerError(f"ledger {path.name} cannot be opened", found=error.strerror or "an error") from error
