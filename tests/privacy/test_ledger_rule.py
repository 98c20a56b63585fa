"""The budget rule: the Rényi filter over jobs, and how many rounds still fit."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.privacy.ledgers import DELTA, EVENT, OTHER, open_ledger
from yoriai.errors import BudgetError
from yoriai.privacy.accounting import SampledGaussian, epsilon
from yoriai.privacy.ledger import Ledger
from yoriai.privacy.ledger_book import Book, Policy
from yoriai.privacy.ledger_rule import BudgetRule


def _rdp_of_gaussians(ledger: Ledger) -> float:
    """Epsilon of unsampled Gaussians from the closed form: each has divergence order / (2 noise^2) (Mironov 2017).

    The conversion is that of Canonne, Kamath and Steinke (2020), proposition 12. Written anew, without dp_accounting.
    """
    rho = sum(c.event.steps / (2 * c.event.noise_multiplier**2) for c in ledger.charges())
    orders = [*range(2, 64), *range(64, 256, 8), 256, 320, 384, 512, 768, 1024]
    return min(a * rho + math.log1p(-1 / a) - math.log(DELTA * a) / (a - 1) for a in orders)


@pytest.mark.parametrize("seed", range(6))
def test_the_filter_never_lets_the_total_pass_the_budget_whatever_is_asked_for_after_what_was_seen(
    tmp_path: Path, seed: int
) -> None:
    # An adversary that picks each job after the answers so far: large noise or small, close to what is left or far
    # beyond it, and again and again until nothing at all fits.
    rng, budget, refused = random.Random(seed), 3.0, 0
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=budget) as ledger:
        ledger.reserve("first", 0, SampledGaussian(1.0, 9.0))
        for number in range(60):
            greed = rng.choice((3.0, 10.0, 30.0, 100.0)) * (1.0 if refused % 2 else 0.5)
            event = SampledGaussian(1.0, greed, rng.choice((1, 4)))
            try:
                ledger.reserve(f"job-{number}", 0, event)
            except BudgetError:
                refused += 1
            assert _rdp_of_gaussians(ledger) <= budget * (1 + 1e-9)
            assert ledger.spent() <= budget
        assert refused > 0
        assert ledger.spent() > 0.5 * budget


def test_the_filter_equals_rdp_accounting_on_a_fixed_history(tmp_path: Path) -> None:
    events = [SampledGaussian(1.0, 5.0), SampledGaussian(1.0, 8.0, 3), SampledGaussian(1.0, 20.0, 10)]
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        for number, event in enumerate(events):
            ledger.reserve(f"job-{number}", 0, event)
        assert ledger.accountant_in_use() == "rdp"
        assert ledger.spent() == epsilon(events, DELTA, "rdp") == pytest.approx(_rdp_of_gaussians(ledger), rel=1e-9)


def test_the_filter_lets_a_history_up_to_the_budget_and_not_a_step_further() -> None:
    history = Counter({("one", EVENT): 3, ("two", OTHER): 4})
    cost = epsilon([(EVENT, 3), (OTHER, 4)], DELTA, "rdp")
    book = Book(dataset="north", plans={"one": (EVENT, 3)})
    BudgetRule(Policy(cost, DELTA)).check_plan(book, "two", OTHER, 4)
    with pytest.raises(BudgetError):
        BudgetRule(Policy(cost, DELTA)).check_plan(book, "two", OTHER, 5)
    assert BudgetRule(Policy(cost, DELTA)).cost(history) == cost


def test_a_history_of_two_jobs_never_costs_less_than_its_tight_value() -> None:
    history = Counter({("one", EVENT): 3, ("two", OTHER): 4})
    assert BudgetRule(Policy(1.0, DELTA)).cost(history) >= epsilon([(EVENT, 3), (OTHER, 4)], DELTA, "pld")


def test_the_rounds_that_fit_can_be_reserved_and_one_more_cannot(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=4.0) as ledger:
        ledger.approve("other", OTHER, 2)
        ledger.approve("job", EVENT, 2)
        ledger.reserve("job", 0, EVENT)
        fit = ledger.rounds_that_fit("job")
        assert fit >= ledger.outstanding("job") == 1
        for index in range(fit):
            ledger.reserve("job", 1 + index, EVENT)
        with pytest.raises(BudgetError):
            ledger.reserve("job", 1 + fit, EVENT)
        assert ledger.rounds_that_fit("job") == 0
        assert ledger.outstanding("other") == 2


def test_no_round_fits_where_no_plan_is_open(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.reserve("job", 0, EVENT)
        assert ledger.rounds_that_fit("job") == 0
