"""The ledger: refuses before it records, records before it answers, and never charges too little."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.privacy.ledgers import DELTA, EVENT, OTHER, charge, open_ledger, order_of, tamper
from yoriai.errors import BudgetError, ConfigError, LedgerError
from yoriai.privacy.dp.accounting import epsilon
from yoriai.privacy.dp.renyi import epsilon_at_order
from yoriai.privacy.ledger.ledger import Ledger


def _in_new_process(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with `ledger` and `EVENT` at hand."""
    start = (
        "import os, signal\n"
        "from yoriai.privacy.dp.accounting import SampledGaussian\n"
        "from yoriai.privacy.ledger.ledger import Ledger\n"
        "EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=2)\n"
        f"ledger = Ledger.open({str(path)!r}, dataset='north', epsilon_budget=8.0, delta=1e-5)\n"
    )
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as opened:
        yield opened


def test_a_new_ledger_has_spent_nothing(ledger: Ledger) -> None:
    assert (ledger.spent(), ledger.spent_for("job"), ledger.charges(), ledger.spending("job")) == (0.0, 0.0, [], [])


def test_spent_is_the_epsilon_of_all_rounds_composed(ledger: Ledger) -> None:
    ledger.approve("job", EVENT, 5)
    charge(ledger, "job", 3)
    assert ledger.spent() == ledger.spent_for("job") == epsilon([(EVENT, 3)], DELTA, "pld")
    assert [(c.job_id, c.round_index, c.event, c.released) for c in ledger.charges()] == [
        ("job", index, EVENT, True) for index in range(3)
    ]


def test_a_reservation_counts_before_anything_is_released(ledger: Ledger) -> None:
    ledger.reserve("job", 0, EVENT)
    assert ledger.spent() == epsilon([EVENT], DELTA)
    assert [charge.released for charge in ledger.charges()] == [False]


def test_an_unreleased_reservation_is_used_again_without_a_second_charge(ledger: Ledger) -> None:
    ledger.reserve("job", 0, EVENT)
    ledger.reserve("job", 0, EVENT)
    assert len(ledger.charges()) == 1


def test_a_repeat_after_release_is_charged_anew(ledger: Ledger) -> None:
    ledger.approve("job", EVENT, 2)
    charge(ledger, "job", 1)
    ledger.reserve("job", 0, EVENT)
    assert [charge.released for charge in ledger.charges()] == [True, False]
    assert ledger.spent() == epsilon([(EVENT, 2)], DELTA)


def test_a_reservation_for_another_event_is_a_charge_of_its_own(ledger: Ledger) -> None:
    ledger.reserve("job", 0, EVENT)
    ledger.reserve("job", 0, OTHER)
    assert [charge.event for charge in ledger.charges()] == [EVENT, OTHER]


def test_a_round_without_reservation_is_not_released(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"round 4 of job job .*no reservation"):
        ledger.mark_released("job", 4)


def test_one_reservation_covers_one_release(ledger: Ledger) -> None:
    charge(ledger, "job", 1)
    with pytest.raises(LedgerError, match="released already"):
        ledger.mark_released("job", 0)


def test_a_plan_beyond_the_budget_is_refused_before_anything_trains_and_leaves_no_trace(path: Path) -> None:
    with open_ledger(path, epsilon_budget=1.0) as ledger:
        before = path.read_bytes()
        message = (
            r"data set north: this job's 50 rounds need epsilon 7\.047, 1\.000 of 1 is left, per record .*, by PLD; "
            "lower .*, or raise noise"
        )
        with pytest.raises(BudgetError, match=message):
            ledger.approve("job", EVENT, 50)
        assert path.read_bytes() == before
        assert ledger.outstanding("job") == 0


def test_a_plan_calibrated_to_the_whole_budget_fits_to_its_last_round_and_no_further(path: Path) -> None:
    with open_ledger(path, epsilon_budget=epsilon([(EVENT, 4)], DELTA)) as ledger:
        ledger.approve("job", EVENT, 4)
        charge(ledger, "job", 4)
        before = path.read_bytes()
        with pytest.raises(BudgetError, match=r"nothing beyond the plan of its first job .* for its 4 rounds, per rec"):
            ledger.reserve("job", 4, EVENT)
        assert path.read_bytes() == before
        assert ledger.spent() <= epsilon([(EVENT, 4)], DELTA)


def test_a_repeated_round_uses_up_one_of_the_planned_ones(path: Path) -> None:
    with open_ledger(path, epsilon_budget=epsilon([(EVENT, 3)], DELTA)) as ledger:
        ledger.approve("job", EVENT, 3)
        charge(ledger, "job", 2)
        ledger.reserve("job", 1, EVENT)
        ledger.mark_released("job", 1)
        assert ledger.outstanding("job") == 0
        with pytest.raises(BudgetError):
            ledger.reserve("job", 2, EVENT)


def test_approving_the_same_plan_again_after_a_crash_counts_its_charges_once(path: Path) -> None:
    with open_ledger(path, epsilon_budget=epsilon([(EVENT, 3)], DELTA)) as ledger:
        ledger.approve("job", EVENT, 3)
        charge(ledger, "job", 2)
    with open_ledger(path, epsilon_budget=epsilon([(EVENT, 3)], DELTA)) as ledger:
        ledger.approve("job", EVENT, 3)
        assert ledger.outstanding("job") == 1
        ledger.reserve("job", 2, EVENT)


def test_unused_rounds_of_an_open_plan_are_held_against_another_job_until_it_is_finished(path: Path) -> None:
    budget = epsilon([(EVENT, 20), (OTHER, 5)], DELTA, "rdp") * 1.0001
    with open_ledger(path, epsilon_budget=budget) as ledger:
        ledger.approve("first", EVENT, 20)
        with pytest.raises(BudgetError, match=r"wait .*\(yoriai site release DIR first\).*rounds are held for first"):
            ledger.approve("second", OTHER, 40)
        ledger.reserve("first", 0, EVENT)
        ledger.finish("first")
        ledger.finish("first")
        ledger.approve("second", OTHER, 20)
        assert ledger.outstanding("first") == 0


def test_an_approved_job_keeps_its_rounds_whatever_other_jobs_ask_for(path: Path) -> None:
    with open_ledger(path, epsilon_budget=7.0) as ledger:
        ledger.approve("first", EVENT, 20)
        for index in range(200):
            try:
                ledger.reserve("greedy", index, OTHER)
            except BudgetError:
                break
        charge(ledger, "first", 20)
        assert 0 < len([charge for charge in ledger.charges() if charge.job_id == "greedy"]) < 200
        assert ledger.spent() <= 7.0


def test_several_jobs_are_composed_by_the_renyi_filter_and_one_job_by_pld(ledger: Ledger) -> None:
    ledger.approve("first", EVENT, 3)
    charge(ledger, "first", 3)
    assert ledger.accountant_in_use() == "pld"
    charge(ledger, "second", 2, OTHER)
    assert ledger.accountant_in_use() == "rdp"
    assert ledger.spent() == epsilon_at_order([(EVENT, 3), (OTHER, 2)], DELTA, order_of(ledger))
    assert ledger.spent_for("second") == epsilon([(OTHER, 2)], DELTA, "pld")


def test_events_are_stored_so_that_another_delta_revalues_the_whole_history(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.approve("job", EVENT, 3)
        charge(ledger, "job", 3)
    with open_ledger(path, delta=1e-7) as ledger:
        assert ledger.spent() == epsilon([(EVENT, 3)], 1e-7)


def test_a_lowered_budget_holds_for_a_job_that_was_approved_before(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.approve("job", EVENT, 50)
        charge(ledger, "job", 2)
    with open_ledger(path, epsilon_budget=epsilon([(EVENT, 3)], DELTA)) as ledger:
        ledger.reserve("job", 2, EVENT)
        with pytest.raises(BudgetError):
            ledger.reserve("job", 3, EVENT)


def test_spending_gives_at_most_20_points_and_ends_with_what_is_spent(ledger: Ledger) -> None:
    ledger.approve("job", EVENT, 45)
    charge(ledger, "job", 45)
    points = ledger.spending("job")
    assert len(points) == 20
    assert points[-1] == (45, ledger.spent_for("job"))
    assert [value for _, value in points] == sorted({value for _, value in points})
    assert points[0][1] == epsilon([(EVENT, points[0][0])], DELTA)


def test_killed_between_reservation_and_release_the_charge_stays_and_serves_again(path: Path) -> None:
    code = "ledger.approve('job', EVENT, 3); ledger.reserve('job', 0, EVENT); os.kill(os.getpid(), signal.SIGKILL)"
    assert _in_new_process(path, code).returncode == -signal.SIGKILL
    with open_ledger(path) as ledger:
        assert [charge.released for charge in ledger.charges()] == [False]
        assert ledger.spent() == epsilon([EVENT], DELTA)
        ledger.reserve("job", 0, EVENT)
        ledger.mark_released("job", 0)
        assert len(ledger.charges()) == 1


def test_killed_after_the_release_mark_a_repeat_is_charged_anew(path: Path) -> None:
    code = "ledger.reserve('job', 0, EVENT); ledger.mark_released('job', 0); os.kill(os.getpid(), signal.SIGKILL)"
    assert _in_new_process(path, code).returncode == -signal.SIGKILL
    with open_ledger(path) as ledger:
        with pytest.raises(LedgerError, match="released already"):
            ledger.mark_released("job", 0)
        ledger.reserve("job", 0, EVENT)
        assert len(ledger.charges()) == 2


def test_killed_inside_a_transaction_the_ledger_opens_at_the_state_before(path: Path) -> None:
    code = (
        "ledger.reserve('job', 0, EVENT)\n"
        "with ledger._store.writing():\n"
        "    ledger._store.append(kind='released', job_id='job', round_index=0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert _in_new_process(path, code).returncode == -signal.SIGKILL
    with open_ledger(path) as ledger:
        assert [charge.released for charge in ledger.charges()] == [False]


def test_two_processes_at_once_lose_no_charge(path: Path) -> None:
    open_ledger(path).close()
    code = "for index in range(15):\n    ledger.reserve('job' + str(os.getpid()), index, EVENT)\nledger.close()\n"
    results: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: results.append(_in_new_process(path, code))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.stderr for result in results if result.returncode] == []
    with open_ledger(path) as ledger:
        assert len(ledger.charges()) == 30


def test_two_open_ledgers_see_each_others_charges_and_share_one_budget(path: Path) -> None:
    budget = epsilon([(EVENT, 2)], DELTA)
    with open_ledger(path, epsilon_budget=budget) as here, open_ledger(path, epsilon_budget=budget) as there:
        here.approve("job", EVENT, 2)
        here.reserve("job", 0, EVENT)
        there.reserve("job", 1, EVENT)
        assert here.spent() == there.spent() == budget
        for ledger in (here, there):
            with pytest.raises(BudgetError):
                ledger.reserve("job", 2, EVENT)


def test_a_reservation_shared_by_two_processes_is_released_only_once(path: Path) -> None:
    with open_ledger(path) as here, open_ledger(path) as there:
        here.reserve("job", 0, EVENT)
        there.reserve("job", 0, EVENT)
        there.mark_released("job", 0)
        with pytest.raises(LedgerError, match="released already"):
            here.mark_released("job", 0)


def test_threads_of_one_process_lose_no_charge(ledger: Ledger) -> None:
    def reserve(job_id: str) -> None:
        for index in range(10):
            ledger.reserve(job_id, index, EVENT)

    threads = [threading.Thread(target=reserve, args=(f"job{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.charges()) == 30


def test_a_locked_ledger_gives_a_clear_error_and_charges_nothing(path: Path) -> None:
    with open_ledger(path, timeout_s=0.1) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked by another process"):
            ledger.reserve("job", 0, EVENT)
        other.execute("ROLLBACK")
        other.close()
        assert ledger.charges() == []


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE entries SET body = replace(body, '\"round_index\":1', '\"round_index\":0') WHERE number = 6", 6),
        ("UPDATE entries SET body = replace(body, '\"noise_multiplier\":1.0', '\"noise_multiplier\":9.0')", 4),
        ("UPDATE entries SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE number = 4", 4),
        ("DELETE FROM entries WHERE number = 3", 4),
        ("DELETE FROM entries WHERE number = 1", 2),
        ("DELETE FROM entries", 1),
        ("INSERT INTO entries VALUES (99, '{}', '')", 99),
    ],
)
def test_a_changed_row_is_found_at_opening_and_named(path: Path, statement: str, row: int) -> None:
    with open_ledger(path) as ledger:  # Rows: 1 opened, 2 policy, 3 order, then reserved and released twice.
        charge(ledger, "job", 2)
    tamper(path, statement)
    with pytest.raises(LedgerError, match=rf"ledger.sqlite, row {row}: "):
        open_ledger(path)


def test_a_row_added_behind_an_open_ledger_without_a_valid_hash_stops_it(path: Path, ledger: Ledger) -> None:
    with sqlite3.connect(path) as db:
        db.execute('INSERT INTO entries VALUES (3, \'{"kind":"finished","job_id":"job"}\', \'forged\')')
    db.close()
    with pytest.raises(LedgerError, match="row 3: "):
        ledger.spent()


@pytest.mark.parametrize("statement", ["UPDATE entries SET hash = ''", "DELETE FROM entries"])
def test_the_file_itself_refuses_to_change_or_drop_rows(path: Path, ledger: Ledger, statement: str) -> None:
    with sqlite3.connect(path) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    db.close()


@pytest.mark.parametrize("content", [b"", b"no ledger at all " * 100, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        open_ledger(path)
    assert path.read_bytes() == content


def test_a_torn_ledger_is_refused(path: Path) -> None:
    with open_ledger(path) as ledger:
        charge(ledger, "job", 20)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(LedgerError):
        open_ledger(path)


def test_a_ledger_of_another_data_set_is_refused(path: Path) -> None:
    open_ledger(path).close()
    with pytest.raises(LedgerError, match=r"found 'north'; expected 'south'"):
        open_ledger(path, dataset="south")


def test_two_processes_that_make_the_same_ledger_get_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(path) as first:
        first.reserve("job", 0, EVENT)
        monkeypatch.setattr(Path, "exists", lambda _: False)
        with open_ledger(path) as second:
            assert second.charges() == first.charges()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.head"]


def test_only_its_owner_may_read_the_ledger(path: Path, ledger: Ledger) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_commit_reaches_the_disk_before_the_call_returns(ledger: Ledger) -> None:
    extra = 3
    assert ledger._store._db.execute("PRAGMA synchronous").fetchone() == (extra,)


def test_a_ledger_whose_caller_syncs_the_disk_waits_for_no_disk_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(os, "fsync", waited.append)
    with open_ledger(path, synced=False) as ledger:
        charge(ledger, "job", 2)
        assert ledger._store._db.execute("PRAGMA synchronous").fetchone() == (0,)
    assert waited == []
    with open_ledger(path) as ledger:
        assert len(ledger.charges()) == 2
        charge(ledger, "other", 1)
    assert waited != []


@pytest.mark.parametrize("change", [{"epsilon_budget": 0.0}, {"epsilon_budget": float("nan")}, {"delta": 1.0}])
def test_a_budget_that_makes_no_sense_is_refused_and_makes_no_file(path: Path, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        open_ledger(path, **change)
    assert not path.exists()


def test_a_closed_ledger_takes_nothing_any_more(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("job", 0, EVENT)
    for use in (lambda: ledger.reserve("job", 1, EVENT), lambda: ledger.mark_released("job", 0)):
        with pytest.raises(LedgerError):
            use()


@pytest.mark.parametrize("rounds", [0, -1, True, 1.5])
def test_a_plan_without_rounds_is_refused(ledger: Ledger, rounds: int) -> None:
    with pytest.raises(ConfigError, match="rounds"):
        ledger.approve("job", EVENT, rounds)
