"""One open ledger file and its second place: verified reading, and writing that is durable in both when it returns."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from yoriai.errors import LedgerError
from yoriai.privacy.ledger.book import Book, Head
from yoriai.privacy.ledger.file import (
    catch_up,
    check_format,
    create,
    faults,
    has_hash,
    hash_of,
    insert,
    step,
    synchronous,
)
from yoriai.privacy.ledger.witness import check_head, must_be_lost, must_be_new, read_head, second_place, write_head


class LedgerStore:
    """The rows of one ledger, as far as they were read. Safe for several threads and processes at once.

    Every method raises `LedgerError` if the file is locked for longer than the timeout, damaged or tampered with.

    Attributes:
        book: what the rows said at the last look.
    """

    def __init__(
        self, db: sqlite3.Connection, path: Path, witness: Path, clock: Callable[[], float], *, synced: bool
    ) -> None:
        """Use `LedgerStore.open`, which verifies the file."""
        self._db, self.path, self._witness, self._clock, self._synced = db, path, witness, clock, synced
        self.book = Book()
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        path: Path,
        dataset: str | None,
        *,
        clock: Callable[[], float],
        timeout_s: float,
        witness: str | os.PathLike[str] | None,
        is_lost: bool = False,
        synced: bool = True,
    ) -> Self:
        """Verify every row of the ledger at `path`, and that none is missing at its end.

        Args:
            dataset: whose ledger it must be, or will be if there is none; None takes any, and makes none.
            is_lost: the second place is lost, and what it would show stays open. Only `renew_witness` writes then.
            synced: whether a row is on the disk when a call returns. If not it outlives the process, but a power cut
                only once the caller has synced the disk: for ledgers that are many on one machine.

        Raises:
            LedgerError: not a ledger, of another format, damaged, an old copy, of another data set, gone, or locked; or
                the second place is not lost.
        """
        place = second_place(path) if witness is None else Path(witness)
        with faults(path):
            if not path.exists():
                must_be_new(path, place)
                if dataset is None:
                    raise LedgerError(f"there is no ledger {path}", remedy="name the ledger file of a site")
                create(path, dataset, clock(), synced=synced)
            db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        store = cls(db, path, place, clock, synced=synced)
        with store.closed_on_error(), faults(path):
            db.execute(f"PRAGMA synchronous = {synchronous(synced)}")
            check_format(db, path)
            if is_lost:
                must_be_lost(place, path)
                store.current()
            elif store._check_head() is None and dataset is not None:
                store._keep_head(None)  # Before the second row: from then on a ledger without it is refused.
            if dataset is not None and store.book.dataset != dataset:
                raise LedgerError(
                    f"ledger {path.name} belongs to another data set",
                    found=repr(store.book.dataset),
                    expected=repr(dataset),
                    remedy="give each data set its own ledger, for good",
                )
        return store

    def renew_witness(self, reason: str) -> None:
        """Record that the second place was lost, and write it anew.

        A crash between the two leaves a ledger without a second place, as before, and one row more.

        Raises:
            LedgerError: it is there and can be read.
        """
        with self._lock, faults(self.path):
            with self._locked():
                must_be_lost(self._witness, self.path)
                self.current()
                self.append(kind="witness", reason=reason)
                step("rows written")
                self._db.execute("COMMIT")
            step("committed")
            self._keep_head(None)

    def current(self) -> Book:
        """Verify and take in the rows that were written since the last look, by whichever process."""
        with self._lock, faults(self.path):
            catch_up(self._db, self.path, self.book)
            return self.book

    @contextmanager
    def writing(self) -> Iterator[Book]:
        """One transaction under SQLite's write lock, on the newest rows; undone as a whole by any error.

        The second place follows before it returns, also where an earlier crash had left it behind.
        """
        with self._lock, faults(self.path):
            with self._locked():
                kept = self._check_head()
                yield self.book
                step("rows written")
                self._db.execute("COMMIT")
            step("committed")
            self._keep_head(kept)

    def append(self, **values: Any) -> None:
        """Append a row, inside `writing`."""
        step("row to be written")
        insert(self._db, {**values, "at": self._clock()})

    def must_hold(self, row_hash: str) -> None:
        """Raise LedgerError unless a row has this hash, which the site once signed."""
        with self._lock, faults(self.path):
            self.current()
            if not has_hash(self._db, row_hash):
                raise LedgerError(
                    f"ledger {self.path.name} is behind what this site has signed for it",
                    found=f"{self.book.number} rows, none of which is the signed one",
                    expected="the row that the coordinator gave back under this site's own signature",
                    remedy="put the newest ledger back; where it is lost, the data set's budget counts as spent",
                )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the file if the block fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _check_head(self) -> Head | None:
        """Verify the rows, and that they reach as far as the second place remembers. The head that was kept there."""
        kept = read_head(self._witness)  # First: whatever is there by now, the ledger's rows are there longer.
        book = self.current()
        check_head(kept, hash_of(self._db, kept.number) if kept else None, book.number, self.path)
        return kept

    def _keep_head(self, kept: Head | None) -> None:
        """Bring the second place, which holds `kept`, up to the last row."""
        with self._locked():  # Nobody else writes meanwhile, so that the second place never goes back.
            head = self.current().head
            if head != kept:
                write_head(self._witness, head, synced=self._synced)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """SQLite's write lock; what was not committed is undone."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
