"""Restored backups and cut ends are found out, by the second place and by the site's own signature."""

import os
import shutil
from pathlib import Path

import pytest

from tests.privacy.ledgers import EVENT, charge, open_ledger, tamper
from yoriai.errors import ConfigError, IdentityError, LedgerError
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.ledger import file as ledger_file
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import commit, committed, read_head, second_place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_backup_put_back_is_refused_with_what_is_missing(path: Path) -> None:
    with open_ledger(path) as ledger:
        charge(ledger, "job", 2)
        shutil.copy(path, path.with_name("backup"))
        charge(ledger, "late", 1)
    shutil.move(path.with_name("backup"), path)
    message = r"ledger\.sqlite, which is an old copy .* found 7 rows; expected row 9 .* put the newest file back; where"
    with pytest.raises(LedgerError, match=message):
        open_ledger(path)
    with pytest.raises(LedgerError, match="old copy"):
        Ledger.existing(path)


def test_a_backup_put_back_under_an_open_ledger_stops_its_next_write(path: Path) -> None:
    with open_ledger(path) as ledger:
        charge(ledger, "job", 1)
        old = path.read_bytes()
        charge(ledger, "late", 1)
        path.write_bytes(old)
        with pytest.raises(LedgerError):
            ledger.reserve("more", 0, EVENT)


@pytest.mark.parametrize("last", [4, 5, 6])
def test_a_cut_end_is_refused(path: Path, last: int) -> None:
    with open_ledger(path) as ledger:
        charge(ledger, "job", 2)
    tamper(path, f"DELETE FROM entries WHERE number > {last}")
    with pytest.raises(LedgerError, match=rf"rows that were written are missing; found {last} rows; expected row 7 "):
        open_ledger(path)


def test_another_history_of_the_same_length_is_refused_with_its_row(path: Path) -> None:
    for home in ("one", "two"):
        with open_ledger(path.parent / home / path.name) as ledger:
            charge(ledger, "job", 1)
    shutil.copy(path.parent / "two" / path.name, path.parent / "one" / path.name)
    with pytest.raises(LedgerError, match=r"row 5: it is not the row that was written there"):
        open_ledger(path.parent / "one" / path.name)


def test_two_ledgers_of_one_data_set_made_at_the_same_time_have_no_hash_in_common(path: Path) -> None:
    heads = set()
    for home in ("one", "two"):
        with open_ledger(path.parent / home / path.name) as ledger:
            heads.add(ledger.head().hash)
    assert len(heads) == 2


def test_a_ledger_without_its_second_place_is_refused(path: Path) -> None:
    open_ledger(path).close()
    second_place(path).unlink()
    with pytest.raises(LedgerError, match=r"its second place is gone; expected .* ledger\.sqlite\.head.* put that"):
        open_ledger(path)


def test_a_ledger_is_not_started_anew_where_one_was(path: Path) -> None:
    open_ledger(path).close()
    path.unlink()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite is gone, .* put the ledger back"):
        open_ledger(path)
    assert not path.exists()


def test_the_second_place_may_be_anywhere_and_a_restored_folder_is_found_out_by_it(path: Path) -> None:
    home, elsewhere = path.parent / "site", path.parent / "other-disk" / "north.head"
    place = home / path.name
    with open_ledger(place, witness=elsewhere) as ledger:
        charge(ledger, "job", 1)
        shutil.copytree(home, path.parent / "backup")
        charge(ledger, "late", 1)
        assert read_head(elsewhere) == ledger.head()
        assert os.listdir(home) == [path.name]
    shutil.rmtree(home)
    shutil.move(path.parent / "backup", home)
    with pytest.raises(LedgerError, match="old copy"):
        open_ledger(place, witness=elsewhere)


def test_a_second_place_left_behind_by_a_crash_is_brought_up_at_the_next_opening(path: Path) -> None:
    with open_ledger(path) as ledger:
        charge(ledger, "job", 1)
        behind = second_place(path).read_bytes()
        ledger.reserve("job", 1, EVENT)
    second_place(path).write_bytes(behind)
    with open_ledger(path) as again:
        assert read_head(second_place(path)) == again.head()


# The way back after the second place's disk died.


def test_a_lost_second_place_is_begun_anew_on_the_operators_word_which_stays_in_the_chain(path: Path) -> None:
    with open_ledger(path) as ledger:
        charge(ledger, "job", 2)
        spent = ledger.spent()
    second_place(path).unlink()
    with pytest.raises(LedgerError, match="yoriai site witness DIR --reason TEXT"):
        open_ledger(path)
    with Ledger.without_witness(path) as lost:
        lost.renew_witness("its disk died")
    with open_ledger(path) as again:
        assert [(renewal.number, renewal.reason) for renewal in again.renewals()] == [(8, "its disk died")]
        assert again.spent() == spent
        assert read_head(second_place(path)) == again.head()
        again.reserve("more", 0, EVENT)


def test_a_damaged_second_place_counts_as_lost(path: Path) -> None:
    open_ledger(path).close()
    second_place(path).write_text("{")
    with Ledger.without_witness(path) as lost:
        lost.renew_witness("half of its disk died")
    open_ledger(path).close()


def test_a_second_place_that_can_be_read_is_never_begun_anew(path: Path) -> None:
    """Else an old copy of the ledger would be made the newest by one command."""
    with open_ledger(path) as ledger:
        charge(ledger, "job", 1)
        shutil.copy(path, path.with_name("backup"))
        charge(ledger, "late", 1)
    shutil.move(path.with_name("backup"), path)
    before = path.read_bytes(), second_place(path).read_bytes()
    with pytest.raises(LedgerError, match=r"is not lost; found .* with the hash of row 7"):
        Ledger.without_witness(path)
    assert (path.read_bytes(), second_place(path).read_bytes()) == before


def test_a_second_place_that_comes_back_meanwhile_decides(path: Path) -> None:
    open_ledger(path).close()
    kept = second_place(path).read_bytes()
    second_place(path).unlink()
    with Ledger.without_witness(path) as lost:
        second_place(path).write_bytes(kept)
        with pytest.raises(LedgerError, match="is not lost"):
            lost.renew_witness("it was only unplugged")
    with open_ledger(path) as ledger:
        assert ledger.renewals() == []


def test_a_ledger_opened_without_its_second_place_cannot_be_charged_on(path: Path) -> None:
    open_ledger(path).close()
    second_place(path).unlink()
    with Ledger.without_witness(path) as lost, pytest.raises(LedgerError, match="its second place is gone"):
        lost.reserve("job", 0, EVENT)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_second_place_is_not_begun_anew_without_a_reason(path: Path, reason: str) -> None:
    open_ledger(path).close()
    second_place(path).unlink()
    with Ledger.without_witness(path) as lost, pytest.raises(ConfigError, match="needs a reason"):
        lost.renew_witness(reason)
    assert not second_place(path).exists()


def test_a_rolled_back_ledger_whose_second_place_was_begun_anew_is_found_out_by_the_sites_commitment(
    path: Path,
) -> None:
    """What the operator's word cannot mend: whoever lies about the newest copy is told so with the next offer."""
    key = SigningKey.generate()
    with open_ledger(path) as ledger:
        charge(ledger, "job", 1)
        shutil.copy(path, path.with_name("backup"))
        charge(ledger, "late", 1)
        signed = commit(ledger.head().hash, "north", key)
    shutil.move(path.with_name("backup"), path)
    second_place(path).unlink()
    with Ledger.without_witness(path) as lost:
        lost.renew_witness("so they say")
        with pytest.raises(LedgerError, match="is behind what this site has signed for it"):
            lost.must_hold(committed(signed, "north", key.public_key))
        assert [renewal.reason for renewal in lost.renewals()] == ["so they say"]


def test_killed_while_the_second_place_is_begun_anew_the_command_works_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(path).close()
    second_place(path).unlink()

    def die(name: str) -> None:
        if name == "committed":
            raise KeyboardInterrupt

    with Ledger.without_witness(path) as lost, monkeypatch.context() as patched:
        patched.setattr(ledger_file, "on_step", die)
        with pytest.raises(KeyboardInterrupt):
            lost.renew_witness("its disk died")
    with pytest.raises(LedgerError, match="its second place is gone"):
        open_ledger(path)
    with Ledger.without_witness(path) as lost:
        lost.renew_witness("its disk died, and the power too")
    with open_ledger(path) as ledger:
        assert len(ledger.renewals()) == 2


def test_a_commitment_is_to_every_row_and_holds_while_the_ledger_grows(path: Path) -> None:
    key = SigningKey.generate()
    with open_ledger(path) as ledger:
        charge(ledger, "job", 1)
        signed = commit(ledger.head().hash, "north", key)
        charge(ledger, "job2", 1)
        ledger.must_hold(committed(signed, "north", key.public_key))


def test_a_ledger_restored_with_its_second_place_is_behind_the_sites_own_commitment(path: Path) -> None:
    key, home = SigningKey.generate(), path.parent / "site"
    with open_ledger(home / path.name) as ledger:
        charge(ledger, "job", 1)
        shutil.copytree(home, path.parent / "backup")
        charge(ledger, "late", 1)
        signed = commit(ledger.head().hash, "north", key)
    with (
        open_ledger(path.parent / "backup" / path.name) as restored,
        pytest.raises(LedgerError, match="is behind what this site has signed for it; found 5 rows"),
    ):
        restored.must_hold(committed(signed, "north", key.public_key))


@pytest.mark.parametrize("place", [0, 63, 64, 191])
def test_a_commitment_with_a_changed_digit_is_refused(place: int) -> None:
    key = SigningKey.generate()
    signed = commit("ab" * 32, "north", key)
    changed = signed[:place] + ("0" if signed[place] != "0" else "1") + signed[place + 1 :]
    with pytest.raises(IdentityError, match="does not fit"):
        committed(changed, "north", key.public_key)


@pytest.mark.parametrize("text", ["", "ab", "g" * 192, "AB" * 96])
def test_what_is_no_commitment_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match="malformed"):
        committed(text, "north", SigningKey.generate().public_key)


def test_a_commitment_is_of_one_site_and_one_key() -> None:
    key = SigningKey.generate()
    signed = commit("ab" * 32, "north", key)
    assert committed(signed, "north", key.public_key) == "ab" * 32
    with pytest.raises(IdentityError):
        committed(signed, "south", key.public_key)
    with pytest.raises(IdentityError):
        committed(signed, "north", SigningKey.generate().public_key)


def test_a_signature_for_another_purpose_is_no_commitment() -> None:
    key = SigningKey.generate()
    signed = commit("ab" * 32, "north", key)
    elsewhere = key.sign(b"yoriai/other/1", bytes.fromhex("ab" * 32)).hex()
    with pytest.raises(IdentityError):
        committed(signed[:64] + elsewhere, "north", key.public_key)
