"""The privacy ledger of one data set: what was approved, reserved and released, and what that costs together.

Order of things: `approve` (before anything trains) -> `reserve` (before a gradient is computed) -> `mark_released`
(before the first byte of an update leaves). Each is durable when it returns, so a crash may overcharge, never
undercharge. Events are stored, not epsilons: a better accountant or another delta is applied to the same history.

Budget rule. What counts is every charge ever made, released or not, plus the unused rounds of every open plan. A plan
stays open, and holds its unused rounds, until `finish`; so a job that was approved is not starved by a later one, and
approvals together never promise more than the budget. Charges of a job for its planned event use up the plan, repeats
after an interruption included (a job's spare rounds exist for them); what goes beyond it is checked anew.

Accountant. Within one job with one event the history is fixed in advance: PLD or PRV. As soon as several jobs (or
several events of one job) count, later parameters may depend on earlier results, for which PLD composition does not
hold in general: then the Rényi filter of Feldman and Zrnic (2021), here at the best of a fixed grid of orders as in
Lécuyer (2021), decides over everything. `accountant_in_use` says which one.

Storage. SQLite, one append-only table; each row holds canonical JSON and the SHA-256 over the previous row's hash, its
number and that JSON. All rows are verified at opening, new ones (of another process) before every use. Not covered: an
attacker who can write the file and recomputes the chain, cuts its end, or puts back an older copy.
"""

import math
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from yoriai.errors import BudgetError, ConfigError, LedgerError
from yoriai.privacy.accounting import Accountant, Event, epsilon, event_to_dict
from yoriai.privacy.ledger_file import Book, Charge, Costs, catch_up, create, faults, insert, of_job

__all__ = ["Charge", "Ledger"]

_SPENDING_POINTS = 20


class Ledger:
    """The persistent privacy budget of one data set of a site. Safe for several threads and processes at once.

    Every method raises `LedgerError` if the file is locked for longer than the timeout, damaged or tampered with.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, policy: tuple[float, float], accountant: Accountant) -> None:
        """Use `Ledger.open`, which verifies the file."""
        self._db, self._path, self._accountant = db, path, accountant
        self._epsilon_budget, self._delta = policy
        self._book = Book()
        self._lock = threading.RLock()
        self._clock: Callable[[], float] = time.time

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        dataset: str,
        epsilon_budget: float,
        delta: float,
        clock: Callable[[], float] = time.time,
        accountant: Accountant = "pld",
        timeout_s: float = 30.0,
    ) -> Self:
        """Open the ledger at `path`, made if there is none, and verify every row.

        Args:
            path: file; its folder is made if need be.
            dataset: name of the data set, as first given; another one is refused.
            epsilon_budget: the site's limit over all jobs, > 0. A change is recorded, and holds from now on.
            delta: at which the limit holds, in (0, 1). A change is recorded; the whole history is valued anew.
            clock: seconds since the epoch, for the rows' time stamps.
            accountant: for a history of one job with one event; RDP otherwise.
            timeout_s: how long to wait for another process.

        Raises:
            LedgerError: not a ledger, damaged, tampered with, of another data set, or locked.
            ConfigError: a budget or delta that makes no sense.
        """
        if not (math.isfinite(epsilon_budget) and epsilon_budget > 0.0):
            raise ConfigError("epsilon_budget does not fit", found=repr(epsilon_budget), expected="a number above 0")
        epsilon([], delta, accountant)  # Refuses a delta or an accountant that makes no sense.
        file = Path(path)
        with faults(file):
            if not file.exists():
                create(file, dataset, clock())
            db = sqlite3.connect(file, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        ledger = cls(db, file, (float(epsilon_budget), float(delta)), accountant)
        ledger._clock = clock
        try:
            ledger._begin(dataset)
        except BaseException:
            db.close()
            raise
        return ledger

    def approve(self, job_id: str, event: Event, rounds: int) -> None:
        """Promise a job its rounds, before anything trains. Replaces an earlier plan of the same job; durable.

        Args:
            job_id: the job.
            event: what one round costs.
            rounds: charges for `event` over the whole job, those already made and spare rounds included; >= 1.

        Raises:
            BudgetError: history, other jobs' unused rounds and this plan exceed the budget. Nothing is recorded.
            ConfigError: rounds is not a whole number of at least 1.
        """
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ConfigError("rounds does not fit", found=repr(rounds), expected="a whole number of at least 1")
        self._current()
        self._check_plan(job_id, event, rounds)
        with self._writing():
            self._check_plan(job_id, event, rounds)
            if self._book.plans.get(job_id) != (event, rounds):
                self._append(kind="approved", job_id=job_id, event=event_to_dict(event), rounds=rounds)

    def reserve(self, job_id: str, round_index: int, event: Event) -> None:
        """Charge a round, before its first gradient is computed; durable when it returns.

        A reservation of the same round and event that was never marked as released is used again without a new
        charge: nothing derived from it left. After a release, a repeat is a new charge.

        Raises:
            BudgetError: the round does not fit. Nothing is recorded.
        """
        # The slow part, an epsilon that is not cached yet, is worked out before the lock is taken.
        self._current()
        self._needs_charge(job_id, round_index, event)
        with self._writing():
            if self._needs_charge(job_id, round_index, event):
                self._append(kind="reserved", job_id=job_id, round_index=round_index, event=event_to_dict(event))

    def mark_released(self, job_id: str, round_index: int) -> None:
        """Record that the round's update leaves, before its first byte does; durable when it returns.

        Raises:
            LedgerError: the round was not reserved, or its reservation was released already. Nothing may be sent.
        """
        with self._writing():
            charge = self._book.last_charge(job_id, round_index)
            if charge is None or charge.released:
                raise LedgerError(
                    f"ledger {self._path.name}: round {round_index} of job {job_id} must not be released",
                    found="a reservation that was released already" if charge else "no reservation",
                    remedy="reserve the round and train it anew; each reservation covers one release",
                )
            self._append(kind="released", job_id=job_id, round_index=round_index)

    def mark_left(self, job_id: str, round_index: int, at_most: int) -> None:
        """Record that an update which no charge covers (a job without privacy) leaves; durable when it returns.

        Raises:
            LedgerError: updates of this round left `at_most` times already. Nothing may be sent.
        """
        with self._writing():
            if self._book.left[job_id, round_index] >= at_most:
                raise LedgerError(
                    f"ledger {self._path.name}: round {round_index} of job {job_id} left {at_most} times already",
                    remedy="start a new run",
                )
            self._append(kind="left", job_id=job_id, round_index=round_index)

    def finish(self, job_id: str) -> None:
        """Close a job's plan, so that its unused rounds are free for other jobs. Charges stay. Durable; repeatable."""
        with self._writing():
            if job_id in self._book.plans:
                self._append(kind="finished", job_id=job_id)

    def spent(self) -> float:
        """Return the epsilon of all charges, released or not; 0.0 before the first."""
        return self._cost(self._current().spent())

    def spent_for(self, job_id: str) -> float:
        """Return the epsilon of one job's charges as if it were alone; 0.0 for a job without charges."""
        return self._cost(of_job(self._current().spent(), job_id))

    def spending(self, job_id: str) -> list[tuple[int, float]]:
        """Return (charges made, epsilon after them) for one job, at most 20 points, for a plot; the last is now."""
        events = [charge.event for charge in self._current().charges if charge.job_id == job_id]
        points = min(len(events), _SPENDING_POINTS)
        counts = [round(len(events) * k / points) for k in range(1, points + 1)]
        return [(n, self._cost(Counter((job_id, event) for event in events[:n]))) for n in counts]

    def outstanding(self, job_id: str) -> int:
        """Return how many rounds of the job's plan are not charged yet; 0 without an open plan."""
        return sum(of_job(self._current().held(), job_id).values())

    def charges(self) -> list[Charge]:
        """Return all charges, oldest first."""
        return list(self._current().charges)

    def accountant_in_use(self) -> Accountant:
        """Return the accountant behind `spent`: the one asked for, or ``rdp`` once several jobs or events count."""
        return self._accountant_for(self._current().spent())

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, dataset: str) -> None:
        with faults(self._path):
            # EXTRA is FULL and also syncs the folder after the journal is gone: without that, a power cut right after
            # a commit could bring the journal back and undo the charge.
            self._db.execute("PRAGMA synchronous = EXTRA")
        if self._current().dataset != dataset:
            raise LedgerError(
                f"ledger {self._path.name} belongs to another data set",
                found=repr(self._book.dataset),
                expected=repr(dataset),
                remedy="give each data set its own ledger, for good",
            )
        with self._writing():
            if self._book.policy != (self._epsilon_budget, self._delta):
                self._append(kind="policy", epsilon_budget=self._epsilon_budget, delta=self._delta)

    def _accountant_for(self, costs: Costs) -> Accountant:
        return self._accountant if len(costs) <= 1 else "rdp"

    def _cost(self, costs: Costs) -> float:
        events = [(event, n) for (_, event), n in costs.items()]
        return epsilon(events, self._delta, self._accountant_for(costs))

    def _check_plan(self, job_id: str, event: Event, rounds: int) -> None:
        """Raise BudgetError unless all charges, all other plans and this plan fit together."""
        spent = self._book.spent()
        before = spent + self._book.held(without=job_id)
        new = max(0, rounds - spent[job_id, event])
        self._check(before, Counter({(job_id, event): new}), f"this job's {new} rounds need", job_id)

    def _needs_charge(self, job_id: str, round_index: int, event: Event) -> bool:
        """Return False if an unreleased reservation serves; raise BudgetError if a new charge would not fit."""
        pending = self._book.last_charge(job_id, round_index)
        if pending and not pending.released and pending.event == event:
            return False
        spent, held, one = self._book.spent(), self._book.held(), Counter({(job_id, event): 1})
        # A planned round leaves this sum as it was, so that in the common case its epsilon comes from the cache.
        if self._cost(spent + (held | one)) > self._epsilon_budget:
            # The budget was lowered, or the round goes beyond the plan: the job's own unused rounds may now give way.
            self._check(spent + self._book.held(without=job_id), one, "this round needs", job_id)
        return True

    def _check(self, before: Costs, new: Costs, needs: str, job_id: str) -> None:
        after, budget = self._cost(before + new), self._epsilon_budget
        if after <= budget:
            return
        base = self._cost(before)
        others = sorted({key[0] for key in self._book.held(without=job_id)})
        remedy = "lower local_steps or rounds, or raise noise_multiplier"
        if others:
            remedy = f"finish {', '.join(others)}, for which unused rounds are held, or {remedy}"
        raise BudgetError(
            f"data set {self._book.dataset}: {needs} epsilon {after - base:.4g}, "
            f"{max(0.0, budget - base):.4g} of {budget:g} is left",
            remedy=remedy,
        )

    def _current(self) -> Book:
        """Verify and take in the rows that were written since the last look, by whichever process."""
        with self._lock, faults(self._path):
            catch_up(self._db, self._path, self._book)
            return self._book

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction under SQLite's write lock, on the newest rows; undone as a whole by any error."""
        with self._lock, faults(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._current()
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            self._current()

    def _append(self, **values: Any) -> None:
        insert(self._db, self._book.number + 1, self._book.hash, {**values, "at": self._clock()})
