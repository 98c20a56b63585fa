"""The one order: how it is chosen, that it stays, and what becomes of a ledger whose first plan does not fit at it."""

import json
import math
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.privacy.ledgers import DELTA, EVENT, OTHER, open_ledger, order_of
from yoriai.errors import BudgetError, LedgerError
from yoriai.privacy.dp.accounting import SampledGaussian, epsilon, event_to_dict
from yoriai.privacy.dp.renyi import epsilon_at_order
from yoriai.privacy.ledger import file as ledger_file
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.order import best_order, budget_for

# By PLD 22 rounds of EVENT are within this budget; at the order that it fixes they are not.
BUDGET, PLAN = 5.2, 22


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def _rows(path: Path) -> list[dict[str, object]]:
    db = sqlite3.connect(path)
    try:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM entries ORDER BY number")]
    finally:
        db.close()


@pytest.mark.parametrize(("budget", "noise"), [(0.3, 50.0), (1.0, 20.0), (4.0, 3.0), (8.0, 3.0)])
def test_the_order_is_the_one_at_which_the_event_is_repeated_most_often(budget: float, noise: float) -> None:
    def repetitions(order: int) -> float:
        """Mironov 2017 and Canonne et al. 2020, written anew for a Gaussian without sampling."""
        room = budget - math.log1p(-1 / order) + math.log(DELTA * order) / (order - 1)
        return room / (order / (2 * noise**2))

    found = best_order(budget, DELTA, SampledGaussian(1.0, noise))
    assert repetitions(found) >= 0.999 * max(repetitions(order) for order in range(2, 1025))


@pytest.mark.parametrize("events", [[EVENT], [(EVENT, 7), OTHER], [SampledGaussian(1.0, 2.0, 5)]])
def test_the_best_of_all_orders_is_what_rdp_accounting_says(events: list[SampledGaussian]) -> None:
    found = min(epsilon_at_order(events, DELTA, order) for order in (*range(2, 64), *range(64, 256, 8)))
    assert found == pytest.approx(epsilon(events, DELTA, "rdp"), rel=1e-12)


def test_nothing_costs_nothing_at_any_order() -> None:
    assert epsilon_at_order([], DELTA, 2) == 0.0


def test_a_budget_grows_until_the_order_that_it_fixes_is_the_one_that_it_was_worked_out_at() -> None:
    """A first plan of little cost fixes a high order for a small budget, at which the second plan costs much."""
    plans = [(SampledGaussian(1.0, 30.0), 5), (SampledGaussian(0.05, 0.9), 9)]
    least = epsilon(plans, DELTA, "rdp")
    assert epsilon_at_order(plans, DELTA, best_order(least, DELTA, plans[0][0])) > least
    budget = budget_for(plans, DELTA, at_least=0.1)
    assert epsilon_at_order(plans, DELTA, best_order(budget, DELTA, plans[0][0])) <= budget


@pytest.mark.parametrize("at_least", [0.5, 5.0, 50.0])
def test_a_budget_for_some_plans_takes_them_at_the_order_that_it_fixes(path: Path, at_least: float) -> None:
    plans = [(EVENT, 9), (OTHER, 12)]
    budget = budget_for(plans, DELTA, at_least=at_least)
    assert budget >= at_least
    assert budget <= max(at_least, 1.1 * epsilon(plans, DELTA, "rdp"))
    with open_ledger(path, epsilon_budget=budget) as ledger:
        for number, (event, rounds) in enumerate(plans):
            ledger.approve(f"job-{number}", event, rounds)
            for index in range(rounds):
                ledger.reserve(f"job-{number}", index, event)


def test_the_order_is_written_once_right_before_the_first_charge(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.approve("job", EVENT, 3)
        ledger.approve("other", OTHER, 3)
        ledger.reserve("job", 0, EVENT)
        ledger.reserve("other", 0, OTHER)
    kinds = [row["kind"] for row in _rows(path)]
    assert kinds == ["opened", "policy", "approved", "approved", "order", "reserved", "reserved"]
    assert _rows(path)[4]["order"] == best_order(8.0, DELTA, EVENT)


# Of little cost a round, so that it is repeated most often at a high order, which suits few other jobs.
SPOILER = SampledGaussian(1e-4, 30.0)


def test_a_first_offer_that_never_trains_leaves_no_order_behind(tmp_path: Path) -> None:
    """Before, the first plan fixed the order for good: one offer, and the ledger took next to nothing afterwards."""
    fit: list[int] = []
    for spoilt in (False, True):
        with open_ledger(tmp_path / f"{spoilt}.sqlite") as ledger:
            if spoilt:
                ledger.approve("nonsense", SPOILER, 1)
                assert order_of(ledger) == best_order(8.0, DELTA, SPOILER) != best_order(8.0, DELTA, EVENT)
                ledger.finish("nonsense")
            ledger.approve("job", EVENT, 2)
            ledger.reserve("job", 0, EVENT)
            assert order_of(ledger) == best_order(8.0, DELTA, EVENT)
            ledger.finish("job")
            ledger.approve("next", EVENT, 1)
            fit.append(ledger.rounds_that_fit("next"))
    assert fit[0] == fit[1] > 0


def test_an_order_that_an_earlier_yoriai_wrote_with_a_plan_gives_way_until_something_is_charged(path: Path) -> None:
    bad = best_order(8.0, DELTA, SPOILER)
    with open_ledger(path) as ledger:
        with ledger._store.writing():
            ledger._store.append(kind="order", order=bad)
            ledger._store.append(kind="approved", job_id="old", event=event_to_dict(SPOILER), rounds=1)
        ledger.finish("old")
        ledger.reserve("job", 0, EVENT)
        assert order_of(ledger) == best_order(8.0, DELTA, EVENT) != bad
    with Ledger.existing(path) as again:
        assert order_of(again) == best_order(8.0, DELTA, EVENT)


def test_jobs_that_wait_together_meet_at_the_order_of_the_oldest(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.approve("job", EVENT, 2)
        ledger.approve("spoiler", SPOILER, 2)
        ledger.reserve("spoiler", 0, SPOILER)  # The first to charge; what was promised together still fits.
        assert order_of(ledger) == best_order(8.0, DELTA, EVENT)
        for index in range(2):
            ledger.reserve("job", index, EVENT)


def test_the_order_hangs_on_the_first_plans_event_and_not_on_its_rounds(tmp_path: Path) -> None:
    orders: list[int] = []
    for event, rounds in ((EVENT, 1), (EVENT, 30), (SampledGaussian(0.1, 12.0), 1)):
        with open_ledger(tmp_path / f"{len(orders)}.sqlite") as ledger:
            ledger.approve("job", event, rounds)
            orders.append(order_of(ledger))
    assert orders[0] == orders[1] != orders[2]


def test_neither_more_jobs_nor_a_raise_nor_another_opening_change_an_order_that_was_charged_at(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.approve("job", EVENT, 1)
        ledger.reserve("job", 0, EVENT)
        before = order_of(ledger)
        ledger.approve("fine", SampledGaussian(0.01, 20.0), 3)
        ledger.raise_budget(80.0, "agreed", delta=1e-3)
    assert best_order(80.0, 1e-3, EVENT) != before
    with open_ledger(path, epsilon_budget=80.0, delta=1e-3) as ledger:
        ledger.approve("late", EVENT, 2)
        assert order_of(ledger) == before
        ledger.reserve("late", 0, EVENT)
        assert ledger.spent() == epsilon_at_order([(EVENT, 2)], 1e-3, before)


def test_a_charge_without_a_plan_fixes_the_order_too(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("job", 0, EVENT)
    assert [row["kind"] for row in _rows(path)][2:] == ["order", "reserved"]


@pytest.mark.parametrize("planned", [False, True])
def test_a_first_charge_that_no_plan_covers_is_a_first_plan_of_one_round(path: Path, planned: bool) -> None:
    with open_ledger(path) as ledger:
        if planned:
            ledger.approve("job", OTHER, 5)
        ledger.reserve("job", 0, EVENT)
        assert ledger.further_jobs().first_plan_epsilon == epsilon_at_order([EVENT], DELTA, order_of(ledger))


def test_a_job_that_fits_by_pld_and_not_at_the_order_closes_the_ledger_to_others(path: Path) -> None:
    with open_ledger(path, epsilon_budget=BUDGET) as ledger:
        ledger.approve("job", EVENT, PLAN)
        ledger.reserve("job", 0, EVENT)
        ledger.finish("job")  # What it left unused does not help: it might have gone on.
        said = r"nothing beyond the plan of its first job .* for its 22 rounds, per record .*, by RDP at order \d+; exp"
        with pytest.raises(BudgetError, match=said):
            ledger.approve("other", OTHER, 1)
        with pytest.raises(BudgetError, match=said):
            ledger.reserve("other", 0, OTHER)
        found = ledger.further_jobs()
        assert (found.possible, found.order) == (False, order_of(ledger))
        assert found.first_plan_epsilon == epsilon_at_order([(EVENT, PLAN)], DELTA, order_of(ledger)) > BUDGET


def test_the_job_that_closed_a_ledger_runs_its_plan_to_the_end(path: Path) -> None:
    with open_ledger(path, epsilon_budget=BUDGET) as ledger:
        ledger.approve("job", EVENT, PLAN)
        for index in range(PLAN):
            ledger.reserve("job", index, EVENT)
        assert ledger.spent() == epsilon([(EVENT, PLAN)], DELTA)
        with pytest.raises(BudgetError, match="nothing beyond"):
            ledger.reserve("job", PLAN, EVENT)


def test_a_raise_up_to_what_the_first_plan_needs_opens_the_ledger_again_and_less_does_not(path: Path) -> None:
    with open_ledger(path, epsilon_budget=BUDGET) as ledger:
        ledger.approve("job", EVENT, PLAN)
        ledger.reserve("job", 0, EVENT)
        ledger.finish("job")
        needed = ledger.further_jobs().first_plan_epsilon
        ledger.raise_budget(needed * 0.999, "agreed")
        with pytest.raises(BudgetError, match="nothing beyond"):
            ledger.approve("other", OTHER, 1)
        ledger.raise_budget(needed, "agreed")
        ledger.approve("other", OTHER, 1)


def test_a_budget_lowered_below_the_first_plan_closes_the_ledger(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.approve("job", EVENT, 4)
        ledger.reserve("job", 0, EVENT)
        ledger.finish("job")
        needed = ledger.further_jobs().first_plan_epsilon
    with open_ledger(path, epsilon_budget=needed * 0.99) as ledger, pytest.raises(BudgetError, match="nothing beyond"):
        ledger.approve("other", OTHER, 1)


def test_a_plan_that_was_never_charged_closes_nothing(path: Path) -> None:
    with open_ledger(path, epsilon_budget=BUDGET) as ledger:
        ledger.approve("job", EVENT, PLAN)
        ledger.finish("job")
        assert ledger.further_jobs().possible
        ledger.approve("other", OTHER, 1)


@pytest.mark.parametrize("number", range(8))
def test_killed_while_order_and_first_charge_are_written_there_are_both_or_neither(path: Path, number: int) -> None:
    open_ledger(path).close()
    best_order(8.0, DELTA, EVENT)
    child = os.fork()
    if child == 0:  # Nothing of the test's own may run here.
        try:
            steps = iter(range(number))
            with open_ledger(path) as ledger:
                ledger_file.on_step = lambda _: (
                    os.kill(os.getpid(), signal.SIGKILL) if next(steps, None) is None else None
                )
                ledger.reserve("job", 0, EVENT)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with Ledger.existing(path) as ledger:
        assert (ledger._store.book.order is None) == (ledger.charges() == [])
    with open_ledger(path) as ledger:
        ledger.reserve("job", 0, EVENT)
        assert order_of(ledger) == best_order(8.0, DELTA, EVENT)


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "order", "order": 5},
        {"kind": "order", "order": 1},
        {"kind": "order", "order": True},
        {"kind": "reserved", "job_id": "job", "round_index": 0},
        {"kind": "witness", "reason": ""},
        {"kind": "witness", "reason": 3},
    ],
)
def test_a_row_that_no_ledger_writes_at_its_place_is_refused(path: Path, row: dict[str, object]) -> None:
    """The order after a charge, no order, a charge before there is one, no reason; each with a hash that fits."""
    with open_ledger(path) as ledger:
        if row.get("order") == 5:
            ledger.reserve("job", 0, EVENT)
        event = {"event": event_to_dict(EVENT)} if row["kind"] == "reserved" else {}
        with pytest.raises(LedgerError, match=r"row \d: it was changed or is damaged"), ledger._store.writing():
            ledger._store.append(**row, **event)


@pytest.mark.parametrize("budget", [2.0, 8.0, 16.0, 40.0])
@pytest.mark.parametrize("event", [EVENT, OTHER, SampledGaussian(1.0, 9.0), SampledGaussian(0.01, 0.6)])
def test_as_many_like_jobs_as_fit_at_any_order_fit_at_the_one_that_is_taken(
    budget: float, event: SampledGaussian
) -> None:
    # So no order would serve a stated number of like jobs better: it hangs on their event, not on how many are planned.
    taken = best_order(budget, DELTA, event)
    for rounds in (1, 7, 40, 300):
        if any(epsilon_at_order([(event, rounds)], DELTA, order) <= budget for order in (*range(2, 64), 128, 256)):
            assert epsilon_at_order([(event, rounds)], DELTA, taken) <= budget
