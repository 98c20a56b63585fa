"""The budget rule: what a history costs, and whether the next plan or round still fits. Pure.

What counts is every charge ever made, released or not, plus the unused rounds of every open plan. So a job that was
approved is not starved by a later one, and approvals together never promise more than the budget. Charges of a job for
its planned event use up the plan, repeats after an interruption included (a job's spare rounds exist for them); what
goes beyond it is checked anew.

Accountant. Within one job with one event the history is fixed in advance: PLD or PRV. As soon as several jobs (or
several events of one job) count, later parameters may depend on earlier results. PLD composition does not hold then in
general: a filter on the composed privacy profile can be passed by who chooses parameters with an eye on the outputs so
far (Regehr et al. 2026). A Rényi filter decides in its place: a charge is refused where the Rényi divergences of all
charges, added up order by order, come to more than the budget after conversion to (epsilon, delta).

How far that is a theorem. At one order fixed beforehand, the sum bounds the divergence of everything together however
the parameters were chosen (Feldman and Zrnic 2021, Lécuyer 2021). Here the best of 92 fixed orders is read off the
history, as usual in RDP accounting. If the parameters do not depend on outputs, or depend in such a way that one order
serves on every path, that too holds at the stated delta. Who steers different outputs to different best orders is not
covered by that argument: what a union bound over the orders, and over the switch from PLD, then gives is the same
epsilon at 93 times the delta. Site operators who must cover it set the policy's delta that much lower; on three typical
histories that made 21 to 35 % more epsilon.
"""

from collections import Counter
from dataclasses import dataclass

from yoriai.errors import BudgetError
from yoriai.privacy.accounting import Accountant, Event, epsilon
from yoriai.privacy.ledger_book import Book, Costs, Policy

_MOST_ROUNDS = 1_000_000


@dataclass(frozen=True)
class BudgetRule:
    """The rule under one policy."""

    policy: Policy

    def accountant_for(self, costs: Costs) -> Accountant:
        """The accountant that values this history."""
        return self.policy.accountant if len(costs) <= 1 else "rdp"

    def cost(self, costs: Costs) -> float:
        """Epsilon of a history at the policy's delta."""
        events = [(event, n) for (_, event), n in costs.items()]
        return epsilon(events, self.policy.delta, self.accountant_for(costs))

    def check_plan(self, book: Book, job_id: str, event: Event, rounds: int) -> None:
        """Raise BudgetError unless all charges, all other plans and this plan fit together."""
        spent = book.spent()
        before = spent + book.held(without=job_id)
        new = max(0, rounds - spent[job_id, event])
        self._check(book, before, Counter({(job_id, event): new}), f"this job's {new} rounds need", job_id)

    def needs_charge(self, book: Book, job_id: str, round_index: int, event: Event) -> bool:
        """Return False if an unreleased reservation serves; raise BudgetError if a new charge would not fit."""
        pending = book.last_charge(job_id, round_index)
        if pending and not pending.released and pending.event == event:
            return False
        spent, held, one = book.spent(), book.held(), Counter({(job_id, event): 1})
        # A planned round leaves this sum as it was, so that in the common case its epsilon comes from the cache.
        if self.cost(spent + (held | one)) > self.policy.epsilon_budget:
            # The budget was lowered, or the round goes beyond the plan: the job's own unused rounds may now give way.
            self._check(book, spent + book.held(without=job_id), one, "this round needs", job_id)
        return True

    def rounds_that_fit(self, book: Book, job_id: str) -> int:
        """How many more rounds of an open plan's event the budget has room for, beyond the plan too; at most 10^6.

        Other open plans keep their unused rounds. 0 for a job without an open plan.
        """
        if job_id not in book.plans:
            return 0
        event, before = book.plans[job_id][0], book.spent() + book.held(without=job_id)

        def fits(rounds: int) -> bool:
            return self.cost(before + Counter({(job_id, event): rounds})) <= self.policy.epsilon_budget

        low, high = 0, 1
        while high <= _MOST_ROUNDS and fits(high):
            low, high = high, 2 * high
        while high - low > 1:  # `low` fits or is 0, `high` does not fit or is out of bounds.
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return min(low, _MOST_ROUNDS)

    def _check(self, book: Book, before: Costs, new: Costs, needs: str, job_id: str) -> None:
        after, budget = self.cost(before + new), self.policy.epsilon_budget
        if after <= budget:
            return
        base = self.cost(before)
        others = sorted({key[0] for key in book.held(without=job_id)})
        remedy = "lower local_steps or rounds, or raise noise_multiplier"
        if others:
            remedy = f"finish {', '.join(others)}, for which unused rounds are held, or {remedy}"
        raise BudgetError(
            f"data set {book.dataset}: {needs} epsilon {after - base:.4g}, "
            f"{max(0.0, budget - base):.4g} of {budget:g} is left",
            remedy=remedy,
        )
