"""The budget rule: what a history costs, and whether the next plan or round still fits. Pure.

What counts is every charge ever made, released or not, plus the unused rounds of every open plan. So a job that was
approved is not starved by a later one, and approvals together never promise more than the budget. Charges of a job for
its planned event use up the plan, repeats after an interruption included (a job's spare rounds exist for them); what
goes beyond it is checked anew.

Two ways to value a history.

    fixed    the first job's one event, at most as often as its plan had it when the first charge was made: PLD or PRV
    filter   anything: Rényi divergences of all charges, added up at the ledger's one order

PLD composition does not hold in general once parameters may depend on earlier results: a filter on the composed privacy
profile can be passed by who chooses them with an eye on the outputs so far (Regehr et al. 2026). At one order that was
fixed beforehand the sum bounds the divergence of everything together, however the parameters were chosen, if it never
passes a limit that was fixed as well (Feldman and Zrnic 2021, Lécuyer 2021). The order (`order`) is a row of its
own, written with the first charge and before it; neither more jobs nor another budget change it afterwards. Until then
nothing that hangs on records has left, so a plan that is given up leaves no order behind: the offer of a job that never
trains cannot spoil the ledger for those that do.

Rule. Let V say that the first plan, as a whole, fits the budget at the order. A history fits

    if it lies within the first plan, and the fixed value is within the budget; or
    if V holds, and the filter's value is within the budget.

Theorem: everything that leaves is (epsilon_budget, delta)-differentially private. The first plan, the order and the
policy are fixed before the first charge, and so is V. If V holds, every history that fits is within the filter's limit:
one within the first plan because its divergence is no more than the whole plan's. So it is one filter on every path,
whether the first job ends early, runs to its end or is followed by others, and whichever of these hangs on outputs. If
V fails, only the first plan ever runs, or its beginning: a composition fixed in advance, of which stopping early shows
no more. There is no path on which one statement is traded for the other after outputs were seen, and so no union of
the two over delta. Why V asks for the whole plan and not for what was charged of it: a job that may go on to its end
under PLD, or stop and make room for others, as its outputs have it, is covered by neither statement.

Plans that are approved together before any charge are fixed in advance too; they are valued by the filter all the same.
A round without a plan is a first plan of one round, and what follows it is the filter's.

A raise keeps the order. V is judged anew under the wider budget: a ledger that was closed to further jobs may open,
which is sound, since no path charged more of the first plan than the whole. What is proved is then the widest budget
that was ever in force. A lowered budget holds from then on; that both together are the lower one is proved if the
decision to lower it did not hang on outputs. Not covered: errors of floating point in the divergences.

What `cost` says below the budget is a reading: what the same charges cost had they been fixed in advance. Only the
budget itself is proved where the number of charges hung on outputs.
"""

from collections import Counter
from dataclasses import dataclass

from yoriai.errors import BudgetError
from yoriai.privacy.dp.accounting import Accountant, Cost, Costing, Event, cost
from yoriai.privacy.dp.renyi import epsilon_at_order
from yoriai.privacy.dp.wording import epsilon_text, terms
from yoriai.privacy.ledger.book import Book, Costs, FirstPlan, Policy
from yoriai.privacy.ledger.order import best_order

_MOST_ROUNDS = 1_000_000
_MOST_JOBS = 100
_ANY_JOB = ""  # The id of no run.


@dataclass(frozen=True)
class FurtherJobs:
    """Whether a ledger can take jobs beside its first.

    Attributes:
        possible: under the budget in force.
        order: at which jobs are added up; None before the first plan. Until the first charge another may come.
        first_plan_epsilon: what the first job's whole plan needs at that order; 0.0 without a plan.
    """

    possible: bool
    order: int | None
    first_plan_epsilon: float


@dataclass(frozen=True)
class BudgetRule:
    """The rule under one policy; `costing` adds up what is fixed in advance."""

    policy: Policy
    costing: Costing = cost

    def accountant_for(self, book: Book, costs: Costs) -> Accountant:
        """The accountant that values this history."""
        if self.is_filtered(book, costs):
            return "rdp"
        return self._fixed_cost(costs).accountant

    def is_filtered(self, book: Book, costs: Costs) -> bool:
        """Whether this history is beyond the first plan, so that the filter values it."""
        first = _first(book)
        return first is not None and not first.covers(costs)

    def cost(self, book: Book, costs: Costs) -> float:
        """Epsilon of a part of the ledger's history at the policy's delta."""
        first = _first(book)
        if first is None or first.covers(costs):
            return self._fixed(costs)
        return self._filtered(costs, self.order_for(book, first.event))

    def cost_alone(self, book: Book, costs: Costs) -> float:
        """Epsilon of one job's charges as if there were no other job; filtered if they are of several events."""
        several = [event for _, event in costs]
        return self._filtered(costs, self.order_for(book, several[0])) if len(several) > 1 else self._fixed(costs)

    def order_for(self, book: Book, event: Event) -> int:
        """The ledger's order or, before its first charge, the one that it would be fixed at now.

        That is the oldest open plan's or, without a plan, the one of this event: as long as nothing was charged, a plan
        that is given up takes its order with it.
        """
        if book.charges and book.order is not None:
            return book.order
        oldest = next((planned for planned, _ in book.plans.values()), event)
        return best_order(self.policy.epsilon_budget, self.policy.delta, oldest)

    def further_jobs(self, book: Book) -> FurtherJobs:
        """Whether the ledger can take jobs beside the first one, judged by its plan as it stands."""
        first = _first(book)
        if first is None:
            return FurtherJobs(True, None, 0.0)
        order = self.order_for(book, first.event)
        return FurtherJobs(self._leaves_room(book, first), order, self._whole(book, first))

    def check_plan(self, book: Book, job_id: str, event: Event, rounds: int) -> None:
        """Raise BudgetError unless all charges, all other plans and this plan fit together."""
        spent = book.spent()
        before = spent + book.held(without=job_id)
        new = max(0, rounds - spent[job_id, event])
        # Until something is charged, whichever job begins is the first: if there are others, all must pass the filter.
        first = book.first_plan or FirstPlan(job_id, event, rounds)
        self._check(book, before, Counter({(job_id, event): new}), f"this job's {new} rounds need", first)

    def needs_charge(self, book: Book, job_id: str, round_index: int, event: Event) -> bool:
        """Return False if an unreleased reservation serves; raise BudgetError if a new charge would not fit."""
        pending = book.last_charge(job_id, round_index)
        if pending and not pending.released and pending.event == event:
            return False
        first = book.first_plan or book.plan_if_first(job_id, event)
        spent, held, one = book.spent(), book.held(), Counter({(job_id, event): 1})
        # A planned round leaves this sum as it was, so that in the common case its epsilon comes from the cache.
        if not self._fits(book, spent + (held | one), first):
            # The budget was lowered, or the round goes beyond the plan: the job's own unused rounds may now give way.
            self._check(book, spent + book.held(without=job_id), one, "this round needs", first)
        return True

    def rounds_that_fit(self, book: Book, job_id: str) -> int:
        """How many more rounds of an open plan's event the budget has room for, beyond the plan too; at most 10^6.

        Other open plans keep their unused rounds. 0 for a job without an open plan.
        """
        if job_id not in book.plans:
            return 0
        plan, before = _planned(book, job_id), book.spent() + book.held(without=job_id)
        first = book.first_plan or plan

        def fits(rounds: int) -> bool:
            return self._fits(book, before + Counter({(job_id, plan.event): rounds}), first)

        low, high = 0, 1
        while high <= _MOST_ROUNDS and fits(high):
            low, high = high, 2 * high
        while high - low > 1:  # `low` fits or is 0, `high` does not fit or is out of bounds.
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return min(low, _MOST_ROUNDS)

    def jobs_that_fit(self, book: Book, event: Event, rounds: int) -> int:
        """How many jobs of so many rounds of an event the budget has room for, beside all that is held; at most 100."""
        before, first = book.spent() + book.held(), book.first_plan or FirstPlan(_ANY_JOB, event, rounds)
        for jobs in range(1, _MOST_JOBS + 1):
            if not self._fits(book, before + Counter({(_ANY_JOB, event): jobs * rounds}), first):
                return jobs - 1
        return _MOST_JOBS

    def _fits(self, book: Book, costs: Costs, first: FirstPlan) -> bool:
        """The rule at the head of this file."""
        budget = self.policy.epsilon_budget
        if first.covers(costs) and self._fixed(costs) <= budget:
            return True
        return self._leaves_room(book, first) and self._filtered(costs, self.order_for(book, first.event)) <= budget

    def _leaves_room(self, book: Book, first: FirstPlan) -> bool:
        """V of the rule."""
        return self._whole(book, first) <= self.policy.epsilon_budget

    def _whole(self, book: Book, first: FirstPlan) -> float:
        return epsilon_at_order([(first.event, first.rounds)], self.policy.delta, self.order_for(book, first.event))

    def _fixed(self, costs: Costs) -> float:
        return self._fixed_cost(costs).epsilon

    def _fixed_cost(self, costs: Costs) -> Cost:
        return self.costing(_events(costs), self.policy.delta, self.policy.accountant)

    def _filtered(self, costs: Costs, order: int) -> float:
        return epsilon_at_order(_events(costs), self.policy.delta, order)

    def _check(self, book: Book, before: Costs, new: Costs, needs: str, first: FirstPlan) -> None:
        if self._fits(book, before + new, first):
            return
        if first.covers(before + new):
            effective: str = self._fixed_cost(before + new).accountant
            base, after = self._fixed(before), self._fixed(before + new)
        else:
            if book.first_plan is not None:
                self._refuse_closed(book, first)
            order = self.order_for(book, first.event)
            effective, base, after = (
                _by(order),
                self._filtered(before, order),
                self._filtered(before + new, order),
            )
        left, ((job_id, _),) = max(0.0, self.policy.epsilon_budget - base), new
        others = sorted({key[0] for key in book.held(without=job_id)})
        remedy = "lower local_steps or rounds, or raise noise_multiplier"
        if others:
            run = others[0] if len(others) == 1 else "RUN"
            free = f"wait for the end of what holds unused rounds, or give it up (yoriai site release DIR {run})"
            remedy = f"{free}; or {remedy}; rounds are held for {', '.join(others)}"
        raise BudgetError(
            f"data set {book.dataset}: {needs} epsilon {epsilon_text(after - base, 3)}, {epsilon_text(left, 3)} of "
            f"{self.policy.epsilon_budget:g} is left, {terms(self.policy.unit, effective)}",
            remedy=remedy,
        )

    def _refuse_closed(self, book: Book, first: FirstPlan) -> None:
        """Raise BudgetError if the ledger takes nothing beyond its first job's plan."""
        if self._leaves_room(book, first):
            return
        effective = _by(self.order_for(book, first.event))
        raise BudgetError(
            f"data set {book.dataset} takes nothing beyond the plan of its first job under this budget: what comes "
            "later is only covered if that whole plan fits at the ledger's order",
            found=f"epsilon {epsilon_text(self._whole(book, first), 3)} for its {first.rounds} rounds, "
            f"{terms(self.policy.unit, effective)}",
            expected=f"at most {self.policy.epsilon_budget:g}",
            remedy="raise the budget with its reason (yoriai site budget DIR --raise-to EPSILON --reason TEXT); on "
            "another data set, begin with a job of fewer rounds or more noise",
        )


def _by(order: int) -> str:
    return f"RDP at order {order}"


def _events(costs: Costs) -> list[tuple[Event, int]]:
    return [(event, n) for (_, event), n in costs.items()]


def _planned(book: Book, job_id: str) -> FirstPlan:
    """An open plan as the first one."""
    return FirstPlan(job_id, *book.plans[job_id])


def _first(book: Book) -> FirstPlan | None:
    """The plan that was first charged or, as long as nothing was, the oldest that is open."""
    return book.first_plan or next((_planned(book, job_id) for job_id in book.plans), None)
