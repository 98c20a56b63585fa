"""The ledger under kill -9 at every step, a full disk, torn pages and a damaged second place: never undercharged."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.privacy.ledgers import EVENT, OTHER, charge, open_ledger
from yoriai.errors import LedgerError, UsedUpError
from yoriai.privacy.ledger import file as ledger_file
from yoriai.privacy.ledger.book import Head
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import read_head, second_place, write_head

PAGE = 4096


def _work(path: Path, told: Callable[[str], None]) -> None:
    """All that a ledger writes, saying after each call what its caller may now count on."""
    with open_ledger(path, fingerprint="a" * 64) as ledger:
        told("opened")
        ledger.approve("job", EVENT, 3)
        told("approved")
        for index in range(2):
            ledger.reserve("job", index, EVENT)
            told(f"reserved {index}")
            ledger.mark_released("job", index)
            told(f"released {index}")
        ledger.raise_budget(9.0, "agreed")
        told("raised")
        ledger.reserve("other", 0, OTHER)
        told("reserved other")
        ledger.mark_sent_uncharged("free", 0, at_most=1)
        told("left")
        ledger.finish("job")
        told("finished")


def _killed_at(path: Path, number: int) -> tuple[list[str], bool]:
    """What the worker was told before it was killed at its `number`-th step, and whether it was."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # Nothing of the test's own may run here: it works, and is gone.
        try:
            steps = iter(range(number))
            ledger_file.on_step = lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(steps, None) is None else None
            _work(path, lambda text: os.write(writer, f"{text}\n".encode()) and None)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        told = lines.read().split("\n")[:-1]
    return told, os.waitpid(child, 0)[1] == signal.SIGKILL


def _check_nothing_is_lost(path: Path, told: list[str]) -> None:
    """Everything that a caller was told stands in the ledger, and the work can be done again."""
    kept = read_head(second_place(path))
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT max(number) FROM entries").fetchone()[0]
    db.close()
    assert rows - 2 <= (kept.number if kept else 0) <= rows  # One transaction: the first has two rows.
    if "opened" in told:
        with Ledger.existing(path) as ledger:
            charges = {(c.job_id, c.round_index): c.released for c in ledger.charges()}
            for index in range(2):
                assert f"reserved {index}" not in told or ("job", index) in charges
                assert f"released {index}" not in told or charges["job", index]
            assert "reserved other" not in told or ("other", 0) in charges
            assert "approved" not in told or "job" in ledger.open_plans() or "reserved other" in told
            assert ("raised" not in told) or ledger.policies()[-1].reason == "agreed"
            if "left" in told:
                with pytest.raises(UsedUpError, match="left 1 times already"):
                    ledger.mark_sent_uncharged("free", 0, at_most=1)


def test_killed_at_every_step_the_ledger_holds_all_that_a_caller_was_told(tmp_path: Path) -> None:
    _work(tmp_path / "whole.sqlite", lambda _: None)  # Fills the cache of epsilons, which the children inherit.
    number, killed = 0, True
    while killed:
        path = tmp_path / f"{number}" / "ledger.sqlite"
        told, killed = _killed_at(path, number)
        assert killed or told[-1] == "finished"
        if path.exists():
            _check_nothing_is_lost(path, told)
        # Whatever the state, the site can be started again; what was told is charged, and at most once more.
        with open_ledger(path, epsilon_budget=8.0) as ledger:
            before = len(ledger.charges())
            for index in range(2):
                ledger.reserve("job", index, EVENT)
            assert len(ledger.charges()) - before <= 2
            assert ledger.spent() > 0.0
        assert read_head(second_place(path)) == _end_of(path)
        number += 1
    assert number > 60


def _end_of(path: Path) -> Head:
    with Ledger.existing(path) as ledger:
        return ledger.head()


def _torn_states(path: Path) -> tuple[bytes, bytes, bytes]:
    """The file before and after a row is written, and the journal as it is on the disk while pages are written."""
    with open_ledger(path) as ledger:
        charge(ledger, "job", 12)
        before = path.read_bytes()
        with ledger._store.writing():
            ledger._store.append(kind="finished", job_id="job" + "x" * 3000)
            journal = bytearray(Path(f"{path}-journal").read_bytes())
        after = path.read_bytes()
    # Before SQLite touches the file itself, it syncs the journal and puts its mark and its number of pages in front.
    sector = int.from_bytes(journal[20:24], "big")
    journal[:12] = bytes.fromhex("d9d505f920a163d7") + ((len(journal) - sector) // (PAGE + 8)).to_bytes(4, "big")
    return before, after, bytes(journal)


def test_torn_pages_are_rolled_back_to_the_rows_that_were_durable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with open_ledger(tmp_path / "like.sqlite") as ledger:
        charge(ledger, "job", 12)
        head, charges = ledger.head(), ledger.charges()
    before, after, journal = _torn_states(path)
    kept = Head(head.number, _hash_in(before, tmp_path, head.number))
    pages = range(0, len(after), PAGE)
    changed = [place for place in pages if before[place : place + PAGE] != after[place : place + PAGE]]
    assert len(changed) >= 2
    for torn in [(place, size) for place in changed for size in (PAGE // 2, PAGE)]:
        start, end = torn[0], sum(torn)
        path.write_bytes(before[:start].ljust(start, b"\0") + after[start:end] + before[end:])
        Path(f"{path}-journal").write_bytes(journal)
        write_head(second_place(path), kept)
        with Ledger.existing(path) as ledger:
            assert ledger.charges() == charges
            assert ledger.head() == kept


def _hash_in(file: bytes, folder: Path, number: int) -> str:
    (folder / "copy").write_bytes(file)
    db = sqlite3.connect(folder / "copy")
    try:
        return ledger_file.hash_of(db, number) or ""
    finally:
        db.close()


def test_a_page_torn_without_a_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path) as ledger:
        charge(ledger, "job", 20)
    data = bytearray(path.read_bytes())
    data[-PAGE:] = bytes(PAGE // 2) + data[-PAGE // 2 :]
    path.write_bytes(data)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        Ledger.existing(path)


def test_a_full_disk_refuses_the_charge_and_keeps_what_stood(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path) as ledger:
        pages = ledger._store._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._store._db.execute(f"PRAGMA max_page_count = {pages}")
        done = 0
        with pytest.raises(LedgerError, match=r"the disk is full; make room"):  # noqa: PT012
            while True:
                ledger.reserve("job", done, EVENT)
                done += 1
        assert len(ledger.charges()) == done > 0
        ledger._store._db.execute(f"PRAGMA max_page_count = {pages + 50}")
        ledger.reserve("job", done, EVENT)
    with Ledger.existing(path) as again:
        assert len(again.charges()) == done + 1


def test_no_room_for_the_second_place_stops_the_caller_and_overcharges_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"

    def full(name: str) -> None:
        if name == "head written":
            raise OSError(28, "No space left on device")

    with open_ledger(path) as ledger:
        monkeypatch.setattr(ledger_file, "on_step", full)
        with pytest.raises(LedgerError, match="No space left on device; make room"):
            ledger.reserve("job", 0, EVENT)
        assert len(ledger.charges()) == 1
        monkeypatch.undo()
        ledger.reserve("job", 0, EVENT)  # The reservation stands; the caller goes on only when the head is kept too.
        assert len(ledger.charges()) == 1
        assert read_head(second_place(path)) == ledger.head()


def test_the_second_place_never_goes_ahead_of_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "ledger.sqlite", []

    def look(name: str) -> None:
        kept = read_head(second_place(path))
        if kept is not None and name != "row to be written":
            other = sqlite3.connect(path)
            seen.append(other.execute("SELECT max(number) FROM entries").fetchone()[0] - kept.number)
            other.close()

    monkeypatch.setattr(ledger_file, "on_step", look)
    with open_ledger(path) as ledger:
        charge(ledger, "job", 3)
    assert set(seen) == {0, 1, 2}  # The first charge brings the order with it: two rows in one transaction.


def test_a_damaged_second_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    open_ledger(path).close()
    for content in (b"", b"{}", b'{"number": 2, "hash": "xyz"}', b'{"number": true, "hash": "' + b"a" * 64 + b'"}'):
        second_place(path).write_bytes(content)
        with pytest.raises(LedgerError, match=r"ledger\.sqlite\.head, .* is damaged"):
            open_ledger(path)


def test_a_copy_of_ledger_and_second_place_opens_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "here" / "ledger.sqlite"
    with open_ledger(path) as ledger:
        charge(ledger, "job", 2)
    shutil.copytree(path.parent, tmp_path / "there")
    with open_ledger(tmp_path / "there" / "ledger.sqlite") as moved:
        assert len(moved.charges()) == 2
