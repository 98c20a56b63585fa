"""Ledgers of another format are refused by name, and those of another unit too."""

import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest

from tests.privacy.ledgers import DELTA, open_ledger
from yoriai.errors import ConfigError, LedgerError
from yoriai.privacy.ledger.book import FORMAT
from yoriai.privacy.ledger.folder import open_in_folder
from yoriai.privacy.ledger.ledger import Ledger, Policy
from yoriai.privacy.ledger.witness import second_place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def _write_first_format(path: Path) -> None:
    """Two rows as Yoriai wrote them before there was an order, and the second place beside them."""
    bodies = (
        '{"at":1.0,"dataset":"north","id":"00","kind":"opened","version":1}',
        '{"accountant":"pld","at":1.0,"delta":1e-05,"epsilon_budget":8.0,"kind":"policy","reason":""}',
    )
    chained = sha256(b"yoriai privacy ledger, version 1").hexdigest()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL)")
        for number, body in enumerate(bodies, start=1):
            chained = sha256(f"{chained}\n{number}\n{body}".encode()).hexdigest()
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, body, chained))
    db.close()
    second_place(path).write_text(f'{{"number": 2, "hash": "{chained}"}}')


def _set_format(path: Path, number: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {number}")
    db.close()


def test_a_ledger_of_the_first_format_is_refused_by_name_and_left_as_it_was(path: Path) -> None:
    _write_first_format(path)
    before = path.read_bytes()
    said = r"was written by an older Yoriai; found format 1; expected format 2; go on with the Yoriai that wrote it"
    with pytest.raises(LedgerError, match=said):
        open_ledger(path)
    with pytest.raises(LedgerError, match=said):
        Ledger.existing(path)
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_format_is_refused_by_name_before_a_row_is_looked_at(path: Path) -> None:
    open_ledger(path).close()
    _set_format(path, FORMAT + 1)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE entries")
    db.close()
    with pytest.raises(LedgerError, match=r"by a newer Yoriai; found format 3; expected format 2; upgrade Yoriai"):
        Ledger.existing(path)


def test_the_format_stands_in_the_files_header_and_in_its_first_row(path: Path) -> None:
    open_ledger(path).close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert f'"version":{FORMAT}' in db.execute("SELECT body FROM entries WHERE number = 1").fetchone()[0]
    db.close()


@pytest.mark.parametrize("body", ["{}", "[]", "no json", '{"version":"1"}', '{"version":true}'])
def test_a_header_wiped_with_a_first_row_that_says_nothing_is_damage_and_no_old_format(path: Path, body: str) -> None:
    open_ledger(path).close()
    _set_format(path, 0)
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER no_update")
        db.execute("UPDATE entries SET body = ? WHERE number = 1", (body,))
    db.close()
    with pytest.raises(LedgerError, match="row 1: it was changed or is damaged"):
        open_ledger(path)


@pytest.mark.parametrize(("first", "then"), [("record", "owner"), ("owner", "record")])
def test_a_ledger_is_refused_in_another_unit_than_its_own(path: Path, first: str, then: str) -> None:
    open_ledger(path, unit=first).close()
    said = rf"counts in another unit; found {then}; expected {first}; put policy.unit back to {first}: what was spent"
    with pytest.raises(LedgerError, match=said):
        open_ledger(path, unit=then)
    with Ledger.existing(path) as ledger:
        assert [change.policy.unit for change in ledger.policies()] == [first]


def test_a_raise_keeps_the_unit(path: Path) -> None:
    with open_ledger(path, unit="owner") as ledger:
        ledger.raise_budget(9.0, "agreed")
        assert ledger.policies()[-1].policy == Policy(9.0, DELTA, unit="owner")


def test_a_ledger_in_a_folder_has_its_policys_unit(tmp_path: Path) -> None:
    with open_in_folder(tmp_path, "orders", "a" * 64, Policy(8.0, DELTA, unit="owner")) as ledger:
        assert ledger.policies()[-1].policy.unit == "owner"


def test_a_unit_that_no_ledger_knows_is_refused_and_makes_no_file(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found 'person'; expected record or owner"):
        open_ledger(path, unit="person")
    assert not path.exists()
