"""One data set, one budget: a renamed copy of the same records gets no second ledger."""

from pathlib import Path

import pytest

from tests.privacy.ledgers import EVENT, charge
from yoriai.errors import LedgerError
from yoriai.privacy.ledger.folder import ledgers_in, open_in_folder
from yoriai.privacy.ledger.ledger import Ledger, Policy

POLICY = Policy(8.0, 1e-5)
A, B, C = "a" * 64, "b" * 64, "c" * 64


def _open(folder: Path, dataset: str, fingerprint: str) -> Ledger:
    return open_in_folder(folder, dataset, fingerprint, POLICY)


def test_a_renamed_copy_of_the_same_records_is_refused_and_makes_no_ledger(tmp_path: Path) -> None:
    _open(tmp_path, "orders", A).close()
    message = r"records of data set copy are those of data set orders .*name the data set orders, whose budget"
    with pytest.raises(LedgerError, match=message):
        _open(tmp_path, "copy", A)
    assert [path.name for path in ledgers_in(tmp_path)] == ["orders.sqlite"]


def test_records_that_a_data_set_had_once_are_known_too(tmp_path: Path) -> None:
    _open(tmp_path, "orders", A).close()
    _open(tmp_path, "orders", B).close()
    with pytest.raises(LedgerError, match="under another name"):
        _open(tmp_path, "copy", A)


def test_a_ledger_that_exists_does_not_take_over_the_records_of_another(tmp_path: Path) -> None:
    _open(tmp_path, "orders", A).close()
    _open(tmp_path, "faults", B).close()
    with pytest.raises(LedgerError, match="are those of data set orders"):
        _open(tmp_path, "faults", A)


def test_changed_records_under_the_same_name_go_on_with_the_same_ledger(tmp_path: Path) -> None:
    with _open(tmp_path, "orders", A) as ledger:
        charge(ledger, "job", 1)
    with _open(tmp_path, "orders", C) as ledger:
        assert len(ledger.charges()) == 1
        ledger.reserve("job", 1, EVENT)


def test_a_damaged_ledger_beside_it_is_not_passed_over(tmp_path: Path) -> None:
    _open(tmp_path, "orders", A).close()
    (tmp_path / "orders.sqlite").write_bytes(b"")
    with pytest.raises(LedgerError, match="orders"):
        _open(tmp_path, "copy", B)


def test_second_places_in_a_folder_of_their_own_are_found_for_every_ledger(tmp_path: Path) -> None:
    ledgers, elsewhere = tmp_path / "ledgers", tmp_path / "elsewhere"
    for dataset, fingerprint in (("orders", A), ("faults", B)):
        with open_in_folder(ledgers, dataset, fingerprint, POLICY, witnesses=elsewhere) as ledger:
            charge(ledger, "job", 1)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["faults.sqlite.head", "orders.sqlite.head"]
    assert not list(ledgers.glob("*.head"))
    with pytest.raises(LedgerError, match="under another name"):
        open_in_folder(ledgers, "copy", A, POLICY, witnesses=elsewhere)
    (elsewhere / "orders.sqlite.head").unlink()
    with pytest.raises(LedgerError, match="second place is gone"):
        open_in_folder(ledgers, "orders", A, POLICY, witnesses=elsewhere)


@pytest.mark.parametrize("name", ["", "../north", ".north", "a/b", "x" * 65])
def test_a_name_that_no_file_should_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LedgerError, match="does not fit a file's name"):
        _open(tmp_path, name, A)
