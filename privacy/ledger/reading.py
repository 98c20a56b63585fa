"""What a ledger answers: what was spent, what is held, what fits. Nothing here writes a row."""

from collections import Counter
from dataclasses import replace

from yoriai.errors import LedgerError
from yoriai.privacy.dp.accounting import Accountant, Costing, Event, cost
from yoriai.privacy.ledger.book import Charge, Head, PolicyChange, Renewal, of_job
from yoriai.privacy.ledger.rule import BudgetRule, FurtherJobs
from yoriai.privacy.ledger.store import LedgerStore

_SPENDING_POINTS = 20


class LedgerReading:
    """The reading half of `yoriai.privacy.ledger.ledger.Ledger`, over a file that was verified.

    Attributes:
        costing: by which it adds up, and by which whoever asks about a job beforehand had best do so too.
    """

    def __init__(self, store: LedgerStore, costing: Costing = cost) -> None:
        self._store, self.costing = store, costing

    def renewals(self) -> list[Renewal]:
        """Return when, and why, the second place was begun anew, oldest first."""
        return list(self._store.current().renewals)

    def spent(self) -> float:
        """Return the epsilon of all charges, released or not; 0.0 before the first."""
        return self._rule().cost(self._store.book, self._store.book.spent())

    def promised(self) -> float:
        """Return the epsilon of all charges and of the unused rounds of all open plans."""
        book = self._store.current()
        return self._rule().cost(book, book.spent() + book.held())

    def spent_for(self, job_id: str) -> float:
        """Return the epsilon of one job's charges as if it were alone; 0.0 for a job without charges."""
        return self._rule().cost_alone(self._store.book, of_job(self._store.book.spent(), job_id))

    def spent_after(self, charges: int) -> float:
        """Return the epsilon of the first `charges` charges of all jobs, by the accountant that decided then."""
        rule, book = self._rule(), self._store.book
        return rule.cost(book, Counter((charge.job_id, charge.event) for charge in book.charges[:charges]))

    def spending(self, job_id: str) -> list[tuple[int, float]]:
        """Return (charges made, epsilon after them) for one job, at most 20 points, for a plot; the last is now."""
        rule, book = self._rule(), self._store.book
        events = [charge.event for charge in book.charges if charge.job_id == job_id]
        points = min(len(events), _SPENDING_POINTS)
        counts = [round(len(events) * k / points) for k in range(1, points + 1)]
        return [(n, rule.cost_alone(book, Counter((job_id, event) for event in events[:n]))) for n in counts]

    def outstanding(self, job_id: str) -> int:
        """Return how many rounds of the job's plan are not charged yet; 0 without an open plan."""
        return sum(of_job(self._store.current().held(), job_id).values())

    def held_for(self, job_id: str) -> float:
        """Return the epsilon that one job's plan holds: by how much `promised` would fall if it were finished."""
        rule, book = self._rule(), self._store.book
        without = replace(book, plans={job: plan for job, plan in book.plans.items() if job != job_id})
        return rule.cost(book, book.spent() + book.held()) - rule.cost(without, book.spent() + without.held())

    def rounds_that_fit(self, job_id: str) -> int:
        """Return how many more rounds of an open plan's event the budget has room for; 0 without an open plan."""
        return self._rule().rounds_that_fit(self._store.book, job_id)

    def jobs_that_fit(self, event: Event, rounds: int) -> int:
        """Return how many jobs of so many rounds of an event fit beside what is spent and held; at most 100."""
        return self._rule().jobs_that_fit(self._store.current(), event, rounds)

    def open_plans(self) -> dict[str, Event]:
        """Return the jobs whose plans are open, in the order of their approval, and what a round of each costs."""
        return {job_id: event for job_id, (event, _) in self._store.current().plans.items()}

    def open_since(self) -> dict[str, float]:
        """Return when the open plans were approved first, in seconds since the epoch."""
        book = self._store.current()
        return {job_id: book.opened[job_id] for job_id in book.plans}

    def charges(self) -> list[Charge]:
        """Return all charges, oldest first."""
        return list(self._store.current().charges)

    def has_released(self, job_id: str) -> bool:
        """Return whether an update of the job left, with a charge or, without privacy, without one."""
        book = self._store.current()
        charged = any(charge.released for charge in book.charges if charge.job_id == job_id)
        return charged or any(left_job == job_id for left_job, _ in book.left)

    def accountant_in_use(self) -> Accountant:
        """Return the accountant behind `spent`: the one asked for, or ``rdp`` beyond the first job's plan."""
        return self._rule().accountant_for(self._store.book, self._store.book.spent())

    def is_filtered(self) -> bool:
        """Return whether `spent` is beyond the first job's plan, and so the filter's, at the ledger's order."""
        return self._rule().is_filtered(self._store.book, self._store.book.spent())

    def further_jobs(self) -> FurtherJobs:
        """Return whether there can be jobs beside the first one under the budget in force, and the order they meet."""
        return self._rule().further_jobs(self._store.book)

    @property
    def dataset(self) -> str:
        """The data set's name, as first given."""
        return self._store.current().dataset

    @property
    def unit(self) -> str:
        """What the budget counts for: `record` or `owner`."""
        return self._rule().policy.unit

    def policies(self) -> list[PolicyChange]:
        """Return every policy that held, oldest first; the last is in force."""
        return list(self._store.current().policies)

    def fingerprints(self) -> list[str]:
        """Return the fingerprints of the records that were charged on, in the order in which they were recorded."""
        return list(self._store.current().fingerprints)

    def rows_set_back(self) -> list[int]:
        """Return the rows whose time is before that of the row above: the clock was set back. Nothing hangs on it."""
        return list(self._store.current().set_back)

    def head(self) -> Head:
        """Return number and hash of the last row, which stand for the whole ledger."""
        return self._store.current().head

    def _rule(self) -> BudgetRule:
        """The rule under the policy in force, after a look at the newest rows."""
        policy = self._store.current().policy
        if policy is None:
            what = f"ledger {self._store.path.name} has no policy yet"
            raise LedgerError(what, remedy="open it with the site's own first")
        return BudgetRule(policy, self.costing)
