"""What the operator does to a ledger: budgets raised and lowered, records changed, clocks set back."""

from pathlib import Path
from typing import Any

import pytest

from tests.privacy.ledgers import DELTA, EVENT, charge, open_ledger, order_of
from yoriai.errors import BudgetError, ConfigError, LedgerError
from yoriai.privacy.dp.accounting import epsilon
from yoriai.privacy.dp.renyi import epsilon_at_order
from yoriai.privacy.ledger.ledger import Ledger, Policy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.mark.parametrize("change", [{"epsilon_budget": 8.1}, {"delta": 2e-5}, {"epsilon_budget": 2.0, "delta": 2e-5}])
def test_a_wider_policy_is_not_taken_in_silence(path: Path, change: dict[str, Any]) -> None:
    open_ledger(path).close()
    with pytest.raises(LedgerError, match=r"raised without an entry .* expected at most epsilon 8 at delta 1e-05"):
        open_ledger(path, **change)
    with Ledger.existing(path) as ledger:
        assert [change.policy for change in ledger.policies()] == [Policy(8.0, DELTA)]


def test_a_raise_is_an_entry_with_its_reason_and_holds_from_then_on(path: Path) -> None:
    with open_ledger(path, epsilon_budget=epsilon([(EVENT, 2)], DELTA)) as ledger:
        ledger.approve("job", EVENT, 2)
        charge(ledger, "job", 2)
        with pytest.raises(BudgetError):
            ledger.reserve("job", 2, EVENT)
        ledger.raise_budget(8.0, "  agreed on 3 March ")
        ledger.reserve("job", 2, EVENT)
        assert [(c.policy.epsilon_budget, c.reason) for c in ledger.policies()][1:] == [(8.0, "agreed on 3 March")]
    open_ledger(path, epsilon_budget=8.0).close()


def test_a_raised_delta_is_an_entry_too(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.raise_budget(8.0, "fewer records", delta=1e-4)
        assert ledger.policies()[-1].policy == Policy(8.0, 1e-4)


def test_a_lowered_budget_needs_no_reason_and_the_old_one_does_not_come_back_by_itself(path: Path) -> None:
    open_ledger(path).close()
    open_ledger(path, epsilon_budget=4.0).close()
    with pytest.raises(LedgerError, match="raised without an entry"):
        open_ledger(path, epsilon_budget=8.0)


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
def test_a_raise_without_a_reason_is_refused(path: Path, reason: str) -> None:
    with open_ledger(path) as ledger:
        with pytest.raises(ConfigError, match="needs a reason"):
            ledger.raise_budget(9.0, reason)
        assert len(ledger.policies()) == 1


@pytest.mark.parametrize(
    ("budget", "delta"), [(8.0, None), (7.0, None), (7.0, 1e-4), (9.0, 1e-6), (float("inf"), None), (9.0, 1.0)]
)
def test_what_is_no_raise_is_refused(path: Path, budget: float, delta: float | None) -> None:
    with open_ledger(path) as ledger:
        with pytest.raises(ConfigError):
            ledger.raise_budget(budget, "because", delta=delta)
        assert len(ledger.policies()) == 1


def test_a_raise_reaches_a_ledger_that_another_process_has_open(path: Path) -> None:
    with open_ledger(path, epsilon_budget=epsilon([EVENT], DELTA)) as running, Ledger.existing(path) as operator:
        running.reserve("job", 0, EVENT)
        operator.raise_budget(8.0, "agreed")
        running.reserve("job", 1, EVENT)


def test_a_clock_set_back_is_recorded_accepted_and_shown(path: Path) -> None:
    times = iter([100.0, 101.0, 102.0, 103.0, 50.0, 51.0, 200.0, 199.0])
    with open_ledger(path, clock=lambda: next(times)) as ledger:
        ledger.approve("job", EVENT, 2)
        charge(ledger, "job", 2)
        assert ledger.rows_set_back() == [5, 8]
        assert [c.reserved_at for c in ledger.charges()] == [50.0, 200.0]
        assert ledger.spent() == epsilon([(EVENT, 2)], DELTA)


def test_changed_records_are_an_entry_and_go_on_with_the_same_budget(path: Path) -> None:
    for fingerprint in ("a" * 64, "a" * 64, "b" * 64, None, "a" * 64):
        with open_ledger(path, fingerprint=fingerprint) as ledger:
            charge(ledger, f"job-{len(ledger.charges())}", 1)
    with Ledger.existing(path) as ledger:
        assert [text[0] for text in ledger.fingerprints()] == ["a", "b", "a"]
        assert ledger.spent() == epsilon_at_order([(EVENT, 5)], DELTA, order_of(ledger))


def test_a_ledger_that_is_there_is_read_at_its_own_policy_and_left_as_it_was(path: Path) -> None:
    with open_ledger(path, accountant="rdp") as ledger:
        ledger.approve("job", EVENT, 2)
        charge(ledger, "job", 2)
        expected = ledger.spent()
    before = path.read_bytes()
    with Ledger.existing(path) as again:
        assert again.spent() == expected == epsilon([(EVENT, 2)], DELTA, "rdp")
        assert again.dataset == "north"
    assert path.read_bytes() == before


def test_a_ledger_that_is_not_there_is_not_made_by_looking(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger.existing(path)
    assert list(path.parent.iterdir()) == []
