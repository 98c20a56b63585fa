"""The server's log of what an auditor asks for: append-only rows, each chained to the one before it and signed.

    enrolled, revoked     a member of the roster may connect, or may no longer, and why
    submitted             a job came into the queue
    approved, refused     a site took the job, or said no and why, as far as the server was told
    joined                the site's update is in a round's sum
    finished              the run ended with a version
    delivered             the site confirmed the last adapter
    exported              what a channel holds was written to a file for sites
    received              a site's daemon has verified and kept what a channel holds
    pulled                the site's operator has taken it into use
    voted, checked        what a site's test records say of a candidate, or of the version in use: noised, signed by it
    withheld              that a site says nothing of the kind, and why
    checking, drifted     the sites are asked for another check; the version in production has come to answer worse
    certified             the privacy certificate of a version was issued; `page` is the hash of its page
    promoted, rolled_back a channel came to hold another version; `forced` has the gate's failing lines and the reason

A row's hash is over the hash before it, its number and its body; the coordinator's key signs the hash under a domain of
its own. Covers: a row that was changed, left out or put in by who does not hold the key; a key that was replaced, and
signs again. Does not cover: rows cut off at the end, which only a head that was noted elsewhere shows; the key's
holder, who can write the whole log anew.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.public_keys import ed25519_key
from yoriai.privacy.identity.signing_key import SigningKey, verify

GENESIS = sha256(b"yoriai server log, version 1").hexdigest()
_DOMAIN = b"yoriai/log/1"
# In the order of what is said of them above.
EVENTS: Final = (
    *("enrolled", "revoked", "submitted", "approved", "refused", "joined", "finished", "delivered", "exported"),
    *("received", "pulled", "voted", "checked", "withheld", "checking", "drifted", "certified"),
    *("promoted", "rolled_back"),
)


@dataclass(frozen=True)
class LogRow:
    """One row: its number from 1 on, what it says, and what vouches for it."""

    number: int
    body: str
    hash: str
    signature: str

    @property
    def document(self) -> dict[str, Any]:
        """The row as `server log --json` prints it: `row` is its number, a `number` is of what stands in a channel."""
        return {"row": self.number, **json.loads(self.body), "hash": self.hash, "signature": self.signature}


def append(db: sqlite3.Connection, key: SigningKey, event: str, **fields: object) -> None:
    """Append a row, inside the caller's transaction; a field that is None is left out.

    Raises:
        ValueError: there is no such event.
    """
    if event not in EVENTS:
        raise ValueError(f"{event!r} is no event of the log")
    told = {name: value for name, value in fields.items() if value is not None}
    values = {"at": time.time(), "event": event, "key": key.public_key.public_bytes_raw().hex(), **told}
    body = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    last = db.execute("SELECT number, hash FROM log ORDER BY number DESC LIMIT 1").fetchone() or (0, GENESIS)
    number, row_hash = last[0] + 1, _chained(last[1], last[0] + 1, body)
    signature = key.sign(_DOMAIN, bytes.fromhex(row_hash)).hex()
    db.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (number, body, row_hash, signature))


def append_once(
    db: sqlite3.Connection, key: SigningKey, event: str, *, run: str, site: str | None = None, **fields: object
) -> None:
    """As `append`, unless there is such an event of this run and site already."""
    query = (
        "SELECT 1 FROM log WHERE json_extract(body, '$.run') = ? AND json_extract(body, '$.event') = ?"
        " AND json_extract(body, '$.site') IS ?"
    )
    if db.execute(query, (run, event, site)).fetchone() is None:
        append(db, key, event, run=run, site=site, **fields)


def events_of(db: sqlite3.Connection, event: str, *, run: str, **like: object) -> Iterator[dict[str, Any]]:
    """The bodies of the rows with such an event of a run, oldest first; `like` names fields that must be equal."""
    query = "SELECT body FROM log WHERE json_extract(body, '$.run') = ? AND json_extract(body, '$.event') = ?"
    for (body,) in db.execute(f"{query} ORDER BY number", (run, event)):
        fields = json.loads(body)
        if all(fields.get(name) == value for name, value in like.items()):
            yield fields


def sites_with(db: sqlite3.Connection, event: str, *, run: str, **like: object) -> set[str]:
    """The sites of which there is such an event; as `events_of`."""
    return {fields["site"] for fields in events_of(db, event, run=run, **like)}


def rows(db: sqlite3.Connection) -> Iterator[LogRow]:
    """All rows in order; not verified."""
    for row in db.execute("SELECT number, body, hash, signature FROM log ORDER BY number"):
        yield LogRow(*row)


def newest_rows(db: sqlite3.Connection, *, event: str = "", run: str = "", site: str = "") -> Iterator[LogRow]:
    """The rows of an event, a run (or how it begins) and a site, the newest first; an empty one is any."""
    wanted = {"$.event": event, "$.site": site}
    conditions = [f"json_extract(body, '{path}') = ?" for path, value in wanted.items() if value]
    values: list[object] = [value for value in wanted.values() if value]
    if run:
        conditions.append("substr(json_extract(body, '$.run'), 1, ?) = ?")
        values += [len(run), run]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"SELECT number, body, hash, signature FROM log{where} ORDER BY number DESC"
    for row in db.execute(query, values):
        yield LogRow(*row)


def verified_head(all_rows: Iterator[LogRow], keys: Collection[bytes]) -> tuple[int, str]:
    """The last row's number and hash, once every row was seen to be whole and signed by one of these keys.

    Args:
        keys: Ed25519 public keys, 32 bytes each: the server's, and earlier ones that the reader knows.

    Raises:
        StorageError: names the first broken row, and what is wrong with it.
    """
    known = {key.hex(): ed25519_key(key) for key in keys}
    number, head, signer = 0, GENESIS, ""
    for row in all_rows:
        if row.number != number + 1:
            raise _broken(number + 1, "it is missing")
        if row.hash != _chained(head, row.number, row.body):
            raise _broken(row.number, "it was changed, or the row before it was")
        if (by := _signer(row, known)) != signer:
            known.pop(signer, None)  # It was replaced, and may be in other hands by now.
        number, head, signer = row.number, row.hash, by
    return number, head


def _signer(row: LogRow, known: dict[str, Ed25519PublicKey]) -> str:
    """The key that has signed a row, hexadecimal."""
    try:
        name = str(json.loads(row.body)["key"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _broken(row.number, "it is no row of a log") from None
    if name not in known:
        raise _broken(row.number, f"it is signed by a key that is not the server's, or no longer: {name[:64]}")
    try:
        verify(known[name], _DOMAIN, bytes.fromhex(row.hash), bytes.fromhex(row.signature))
    except (IdentityError, ValueError, TypeError):
        raise _broken(row.number, "its signature is not the server's") from None
    return name


def _broken(number: int, why: str) -> StorageError:
    return StorageError(
        f"the log is broken at row {number}: {why}",
        remedy="the rows before it hold; compare with a copy, and if the server once had another key, name it by --key",
    )


def _chained(previous: str, number: int, body: str) -> str:
    return sha256(f"{previous}\n{number}\n{body}".encode()).hexdigest()
