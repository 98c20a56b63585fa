"""The budget rule: the Rényi filter at one order over jobs, the first plan beside it, and how many rounds still fit."""

import math
import random
import re
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.privacy.ledgers import DELTA, EVENT, OTHER, charge, open_ledger, order_of
from yoriai.config import JobConfig, PolicySection
from yoriai.errors import BudgetError
from yoriai.privacy.dp.accounting import SampledGaussian, SampledSkellam, calibrate, epsilon
from yoriai.privacy.dp.renyi import epsilon_at_order
from yoriai.privacy.job_terms.noise import all_rounds
from yoriai.privacy.ledger.book import Book, Charge, FirstPlan, Policy
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.rule import BudgetRule, FurtherJobs
from yoriai.terminal import one_line

GAUSSIAN = SampledGaussian(1.0, 9.0)


def closed_form(ledger: Ledger, order: int) -> float:
    """Epsilon of unsampled Gaussians at one order: each has divergence order / (2 noise^2) (Mironov 2017).

    The conversion is that of Canonne, Kamath and Steinke (2020), proposition 12. Written anew, without dp_accounting.
    """
    rho = sum(c.event.steps / (2 * c.event.noise_multiplier**2) for c in ledger.charges())
    return order * rho + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)


@pytest.mark.parametrize("seed", range(6))
def test_the_filter_never_lets_the_total_pass_the_budget_whatever_is_asked_for_after_what_was_seen(
    tmp_path: Path, seed: int
) -> None:
    # An adversary that picks each job after the answers so far: large noise or small, close to what is left or far
    # beyond it, and again and again until nothing at all fits.
    rng, budget, refused = random.Random(seed), 3.0, 0
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=budget) as ledger:
        ledger.reserve("first", 0, GAUSSIAN)
        order = order_of(ledger)
        for number in range(60):
            greed = rng.choice((3.0, 10.0, 30.0, 100.0)) * (1.0 if refused % 2 else 0.5)
            event = SampledGaussian(1.0, greed, rng.choice((1, 4)))
            try:
                ledger.reserve(f"job-{number}", 0, event)
            except BudgetError:
                refused += 1
            assert closed_form(ledger, order) <= budget * (1 + 1e-9)
            assert ledger.spent() <= budget
        assert refused > 0
        assert ledger.spent() > 0.5 * budget


def test_a_history_at_the_fixed_order_equals_the_closed_form(tmp_path: Path) -> None:
    events = [SampledGaussian(1.0, 5.0), SampledGaussian(1.0, 8.0, 3), SampledGaussian(1.0, 20.0, 10)]
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        for number, event in enumerate(events):
            ledger.reserve(f"job-{number}", 0, event)
        assert ledger.accountant_in_use() == "rdp"
        assert ledger.spent() == pytest.approx(closed_form(ledger, order_of(ledger)), rel=1e-9)


def test_every_further_charge_costs_more(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        spent = [0.0]
        for number in range(12):
            ledger.reserve(f"job-{number % 3}", number, (EVENT, OTHER)[number % 2])
            spent.append(ledger.spent())
    assert all(after > before for before, after in pairwise(spent))


def _end_of(path: Path, rounds: int, seed: int, budget: float) -> Counter[tuple[str, SampledGaussian]]:
    """What an adversary got out of a ledger whose first plan is fixed and whose later requests it chooses."""
    rng = random.Random(seed)
    with open_ledger(path, epsilon_budget=budget) as ledger:
        ledger.approve("first", EVENT, rounds)
        for index in range(rng.randint(1, rounds)):
            ledger.reserve("first", index, EVENT)
        for number in range(40):
            job, event = rng.choice(
                (("first", EVENT), ("first", OTHER), ("other", OTHER), ("small", SampledGaussian(0.1, 4.0)))
            )
            if rng.random() < 0.2:
                ledger.finish("first")
            try:
                ledger.reserve(job, 100 + number, event)
            except BudgetError:
                continue
        return Counter((charge.job_id, charge.event) for charge in ledger.charges())


@pytest.mark.parametrize(("rounds", "filtered"), [(4, True), (22, False)])
def test_one_statement_covers_every_path_whatever_the_adversary_does_after_the_first_plan(
    tmp_path: Path, rounds: int, filtered: bool
) -> None:
    """Either all ends are within the filter at the one order, or all are within the first plan; never some of each."""
    budget, first = 5.2, FirstPlan("first", EVENT, rounds)
    ends = [_end_of(tmp_path / f"{seed}.sqlite", rounds, seed, budget) for seed in range(12)]
    order = _order_under(tmp_path, budget)
    cost = [epsilon_at_order([(event, n) for (_, event), n in end.items()], DELTA, order) for end in ends]
    if filtered:
        assert max(cost) <= budget
        assert not all(first.covers(end) for end in ends)
    else:
        assert all(first.covers(end) for end in ends)
        assert max(cost) > budget
        assert epsilon([(EVENT, rounds)], DELTA) <= budget


def _order_under(folder: Path, budget: float) -> int:
    with open_ledger(folder / "order.sqlite", epsilon_budget=budget) as ledger:
        ledger.approve("first", EVENT, 1)
        return order_of(ledger)


def _book(order: int = 4) -> Book:
    """A plan of three rounds, of which one is charged, so that the order is fixed."""
    plans, charge = {"one": (EVENT, 3)}, Charge(5, "one", 0, EVENT, 0.0)
    first = FirstPlan("one", EVENT, 3)
    return Book(dataset="north", order=order, plans=plans, first_plan=first, charges=[charge])


def test_the_filter_lets_a_history_up_to_the_budget_and_not_a_step_further() -> None:
    cost = epsilon_at_order([(EVENT, 3), (OTHER, 4)], DELTA, 4)
    rule = BudgetRule(Policy(cost, DELTA))
    rule.check_plan(_book(), "two", OTHER, 4)
    with pytest.raises(
        BudgetError, match=r"is left, per record .*, by RDP at order 4; wait .* rounds are held for one"
    ):
        rule.check_plan(_book(), "two", OTHER, 5)
    assert rule.cost(_book(), Counter({("one", EVENT): 3, ("two", OTHER): 4})) == cost


def test_a_refusal_by_the_filter_says_what_the_job_needs_and_what_is_left() -> None:
    rule, book = BudgetRule(Policy(6.0, DELTA)), _book()
    held = epsilon_at_order([(EVENT, 3)], DELTA, 4)
    needs = epsilon_at_order([(EVENT, 3), (OTHER, 400)], DELTA, 4) - held
    with pytest.raises(BudgetError, match=re.escape(f"need epsilon {needs:.3f}, {6.0 - held:.3f} of 6 is left")):
        rule.check_plan(book, "two", OTHER, 400)


def test_an_empty_ledger_takes_any_job_and_says_that_nothing_is_planned(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.further_jobs() == FurtherJobs(possible=True, order=None, first_plan_epsilon=0.0)


def test_a_history_of_two_jobs_never_costs_less_than_its_tight_value() -> None:
    history = Counter({("one", EVENT): 3, ("two", OTHER): 4})
    assert BudgetRule(Policy(1.0, DELTA)).cost(_book(), history) >= epsilon([(EVENT, 3), (OTHER, 4)], DELTA, "pld")


def test_the_first_plan_is_valued_as_fixed_in_advance_and_a_round_beyond_it_by_the_filter(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.approve("job", EVENT, 2)
        for index in range(3):
            ledger.reserve("job", index, EVENT)
            if index == 1:
                assert (ledger.spent(), ledger.accountant_in_use()) == (epsilon([(EVENT, 2)], DELTA), "pld")
        assert ledger.spent() == epsilon_at_order([(EVENT, 3)], DELTA, order_of(ledger))
        assert ledger.accountant_in_use() == "rdp"


def test_plans_approved_together_before_any_charge_are_held_to_the_filter(tmp_path: Path) -> None:
    tight = epsilon([(EVENT, 4), (OTHER, 4)], DELTA)
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=tight * 1.001) as ledger:
        ledger.approve("one", EVENT, 4)
        with pytest.raises(BudgetError, match=r"wait .*\(yoriai site release DIR one\).*held for one"):
            ledger.approve("two", OTHER, 4)


def test_a_first_plan_may_still_change_until_it_is_charged(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=5.2) as ledger:
        ledger.approve("job", EVENT, 22)
        assert not ledger.further_jobs().possible
        ledger.approve("job", EVENT, 4)
        ledger.reserve("job", 0, EVENT)
        assert ledger.further_jobs().possible
        with pytest.raises(BudgetError):  # As the first plan it would have fitted, by PLD.
            ledger.approve("job", EVENT, 22)


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


def test_before_any_charge_the_rounds_that_fit_are_those_that_can_be_reserved(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=4.0) as ledger:
        ledger.approve("job", EVENT, 2)
        fit = ledger.rounds_that_fit("job")
        for index in range(fit):
            ledger.reserve("job", index, EVENT)
        with pytest.raises(BudgetError):
            ledger.reserve("job", fit, EVENT)


def test_of_a_further_job_the_rounds_that_fit_are_those_that_the_first_ones_filter_leaves(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=4.0) as ledger:
        ledger.approve("first", EVENT, 1)
        ledger.reserve("first", 0, EVENT)
        ledger.approve("further", OTHER, 1)
        fit = ledger.rounds_that_fit("further")
        for index in range(fit):
            ledger.reserve("further", index, OTHER)
        with pytest.raises(BudgetError):
            ledger.reserve("further", fit, OTHER)
        assert ledger.accountant_in_use() == "rdp"


def test_in_a_closed_ledger_the_rounds_that_fit_are_those_of_the_plan(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=5.2) as ledger:
        ledger.approve("job", EVENT, 22)
        ledger.reserve("job", 0, EVENT)
        assert ledger.rounds_that_fit("job") == ledger.outstanding("job") == 21


def test_no_round_fits_where_no_plan_is_open(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.reserve("job", 0, EVENT)
        assert ledger.rounds_that_fit("job") == 0


def test_gaussian_and_skellam_jobs_add_up_at_the_one_order(tmp_path: Path) -> None:
    shared = SampledSkellam(0.25, variance=40_000_000, squared_l2=2_000_000, l1=150_000, coordinates=8192, draws=4)
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=6.0) as ledger:
        ledger.approve("shared", shared, 20)
        for index in range(20):
            ledger.reserve("shared", index, shared)
        assert ledger.accountant_in_use() == "rdp"
        alone, order = ledger.spent(), order_of(ledger)
        ledger.reserve("own", 0, GAUSSIAN)
        both = ledger.spent()
        assert both == epsilon_at_order([(shared, 20), GAUSSIAN], DELTA, order) > alone
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=6.0) as again:
        assert [type(charge.event) for charge in again.charges()] == [SampledSkellam] * 20 + [SampledGaussian]
        assert again.spent() == both


def approved_jobs(ledger: Ledger, event: SampledGaussian, rounds: int) -> int:
    """How many jobs the ledger takes one after the other, each charged for all of its rounds."""
    for number in range(60):
        try:
            ledger.approve(f"next-{number}", event, rounds)
        except BudgetError:
            return number
        charge(ledger, f"next-{number}", rounds, event)
        ledger.finish(f"next-{number}")
    return 60


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("event", [EVENT, OTHER, GAUSSIAN])
def test_the_jobs_that_are_said_to_fit_are_those_that_the_ledger_takes(
    tmp_path: Path, event: SampledGaussian, before: int
) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=9.0) as ledger:
        charge(ledger, "first", before, OTHER)
        said = ledger.jobs_that_fit(event, 4)
        assert said == approved_jobs(ledger, event, 4)
        assert said > 1


def _most_rounds_under(budget: float) -> int:
    """The longest first plan that the budget pays for by PLD; each further length is an accounting of its own."""
    return bisect_right(range(1, 201), budget, key=lambda rounds: epsilon([(EVENT, rounds)], DELTA))


def test_a_job_that_fits_by_pld_alone_leaves_no_room_for_a_second(tmp_path: Path) -> None:
    rounds = _most_rounds_under(5.2)
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=5.2) as ledger:
        assert ledger.jobs_that_fit(EVENT, rounds) == 1
        assert approved_jobs(ledger, EVENT, rounds) == 1


def test_three_default_jobs_fit_the_default_budget_and_the_fourth_is_refused_with_the_remedy_first(
    tmp_path: Path,
) -> None:
    job, policy = JobConfig(name="default"), PolicySection()
    noise = calibrate(
        epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        sampling_rate=job.training.sampling_rate,
        steps=all_rounds(job) * job.training.local_steps,
    )
    event = SampledGaussian(job.training.sampling_rate, noise, job.training.local_steps)
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=policy.epsilon_budget, delta=policy.delta) as ledger:
        assert ledger.jobs_that_fit(event, all_rounds(job)) == policy.planned_jobs == 3
        for number in range(3):
            ledger.approve(f"job-{number}-{'x' * 100}", event, all_rounds(job))
            ledger.reserve(f"job-{number}-{'x' * 100}", 0, event)
        with pytest.raises(BudgetError) as refused:
            ledger.approve("job-3", event, all_rounds(job))
        assert ledger.jobs_that_fit(event, all_rounds(job)) == 0
    assert "yoriai site release DIR RUN" in one_line(refused.value.remedy_first())


def test_what_a_closed_ledger_says_to_do_is_never_cut(tmp_path: Path) -> None:
    rounds = _most_rounds_under(5.2)
    with open_ledger(tmp_path / "ledger.sqlite", epsilon_budget=5.2) as ledger:
        ledger.approve("first", EVENT, rounds)
        ledger.reserve("first", 0, EVENT)
        with pytest.raises(BudgetError) as refused:
            ledger.approve("second", OTHER, 1)
    said = one_line(refused.value.remedy_first())
    assert said.startswith("raise the budget with its reason (yoriai site budget DIR --raise-to EPSILON --reason TEXT)")
    assert refused.value.remedy in said
