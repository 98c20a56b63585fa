"""The privacy ledger of one data set: what was approved, reserved and released, and what that costs together.

Order of things: `approve` (before anything trains) -> `reserve` (before a gradient is computed) -> `mark_released`
(before the first byte of an update leaves). Each is durable when it returns, so a crash may overcharge, never
undercharge. Events are stored, not epsilons: a better accountant or another delta is applied to the same history.

What fits is for `rule` to say: PLD or PRV within the first job's plan, a Rényi filter over several jobs. The
filter's order is written right before the first charge, from what is known then, and stays. A plan stays open, and
holds its unused rounds, until `finish`.

Storage. SQLite, one append-only table; each row holds canonical JSON and the SHA-256 over the previous row's hash, its
number and that JSON. All rows are verified at opening, new ones (of another process) before every use. The end of the
chain is kept in a second place as well (`witness`), so that an older copy of the file, or one whose end was cut,
is refused. Not covered: an attacker who can write both files and recomputes the chain; the signed commitment, which
the coordinator keeps, shows that.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from yoriai.errors import ConfigError, LedgerError, UsedUpError
from yoriai.privacy.dp.accounting import Accountant, Costing, Event, cost, event_to_dict
from yoriai.privacy.ledger.book import Book, Charge, Policy, PolicyChange, Renewal, Unit
from yoriai.privacy.ledger.reading import LedgerReading
from yoriai.privacy.ledger.rule import FurtherJobs
from yoriai.privacy.ledger.store import LedgerStore

__all__ = ["Charge", "FurtherJobs", "Ledger", "Policy", "PolicyChange", "Renewal", "Unit"]

_LONGEST_REASON = 500


class Ledger(LedgerReading):
    """The persistent privacy budget of one data set of a site. Safe for several threads and processes at once.

    Every method raises `LedgerError` if the file is locked for longer than the timeout, damaged or tampered with.
    Use `Ledger.open` or `Ledger.existing`, which verify the file.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        dataset: str,
        epsilon_budget: float,
        delta: float,
        fingerprint: str | None = None,
        clock: Callable[[], float] = time.time,
        accountant: Accountant = "pld",
        unit: Unit = "record",
        timeout_s: float = 30.0,
        witness: str | os.PathLike[str] | None = None,
        costing: Costing = cost,
        synced: bool = True,
    ) -> Self:
        """Open the ledger at `path`, made if there is none, verify every row, and put the policy into force.

        Args:
            path: file; its folder is made if need be.
            dataset: name of the data set, as first given; another one is refused.
            epsilon_budget: the site's limit over all jobs, > 0. A lower one than before is recorded, and holds from now
                on; a higher one must be recorded first, with `raise_budget`.
            delta: at which the limit holds, in (0, 1). As for the budget; the whole history is valued anew.
            fingerprint: of the records that are charged on, recorded when it changes: changed records go on with the
                same budget. None leaves it as it is.
            clock: seconds since the epoch, for the rows' time stamps. They decide nothing.
            accountant: for the first job's plan; RDP at the ledger's order otherwise.
            unit: what the budget protects one of; another one than on record is refused.
            timeout_s: how long to wait for another process.
            witness: where the end of the chain is kept a second time, best on another disk; None: beside the ledger.
            costing: `accounting.cost`, or what gives the same answers within limits.
            synced: whether a row is durable when a call returns; if not, once the caller has synced the disk
                (`sync_disk`): a simulation does so once a round, for all its ledgers.

        Raises:
            LedgerError: not a ledger, of another format, damaged, tampered with, an old copy, of another data set or
                unit, locked, or the policy is wider than the one on record.
            ConfigError: a budget or delta that makes no sense.
        """
        policy = Policy(float(epsilon_budget), float(delta), accountant, unit)
        store = LedgerStore.open(Path(path), dataset, clock=clock, timeout_s=timeout_s, witness=witness, synced=synced)
        ledger = cls(store, costing)
        with store.closed_on_error(), store.writing() as book:
            ledger._take_policy(book, policy)
            if fingerprint is not None and fingerprint not in book.fingerprints[-1:]:
                store.append(kind="records", fingerprint=fingerprint)
        return ledger

    @classmethod
    def existing(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 30.0,
        witness: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Open a ledger that is there, at the policy on record; writes nothing.

        Raises:
            LedgerError: there is none, or as `open`.
        """
        ledger = cls(LedgerStore.open(Path(path), None, clock=clock, timeout_s=timeout_s, witness=witness))
        with ledger._store.closed_on_error():
            ledger._rule()
        return ledger

    def raise_budget(self, epsilon_budget: float, reason: str, *, delta: float | None = None) -> None:
        """Widen the policy, as an entry of its own that names the operator's reason; durable when it returns.

        The order at which jobs are added up stays. A ledger that was closed to further jobs may open by it.

        Args:
            epsilon_budget: the new limit, at least the one in force.
            reason: in the operator's words, 1 to 500 characters; whoever checks the ledger reads it.
            delta: the new one, at least the one in force; None leaves it.

        Raises:
            ConfigError: it widens nothing, or the reason is missing or too long.
        """
        with self._store.writing():
            self._append_policy(self.check_raise(epsilon_budget, reason, delta=delta), reason.strip())

    def check_raise(self, epsilon_budget: float, reason: str, *, delta: float | None = None) -> Policy:
        """The policy that such a raise would make; raises as `raise_budget`, and writes nothing."""
        check_reason("raising a budget", reason)
        before = self._rule().policy
        new = replace(before, epsilon_budget=float(epsilon_budget), delta=before.delta if delta is None else delta)
        if before.loosens(new) or not new.loosens(before):
            raise ConfigError(
                f"this is no raise of the budget of data set {self._store.book.dataset}",
                found=_limits(new),
                expected=f"more than {_limits(before)}",
                remedy="a lower budget is taken from the site's policy, without a reason",
            )
        return new

    @classmethod
    def without_witness(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 30.0,
        witness: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Open a ledger whose second place is lost: to look at it, and to `renew_witness`. It cannot be charged on.

        Raises:
            LedgerError: the second place is there and can be read, and decides as ever; or as `existing`.
        """
        store = LedgerStore.open(Path(path), None, clock=clock, timeout_s=timeout_s, witness=witness, is_lost=True)
        return cls(store)

    def renew_witness(self, reason: str) -> None:
        """Begin the second place anew where it is lost: the way back after its disk died. Durable when it returns.

        Nothing but the operator's word, and the coordinator's newest commitment, then says that the ledger is the
        newest copy. So that word is a row of its own, with its reason, for good; it never passes in silence.

        Args:
            reason: in the operator's words, 1 to 500 characters; whoever checks the ledger reads it.

        Raises:
            LedgerError: the second place is there and can be read.
            ConfigError: the reason is missing or too long.
        """
        check_reason("beginning a ledger's second place anew", reason)
        self._store.renew_witness(reason.strip())

    def approve(self, job_id: str, event: Event, rounds: int) -> None:
        """Promise a job its rounds, before anything trains. Replaces an earlier plan of the same job; durable.

        Args:
            job_id: the job.
            event: what one round costs.
            rounds: charges for `event` over the whole job, those already made and spare rounds included; >= 1.

        Raises:
            BudgetError: history, other jobs' unused rounds and this plan exceed the budget, or the ledger takes nothing
                beyond its first job's plan. Nothing is recorded.
            ConfigError: rounds is not a whole number of at least 1.
        """
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ConfigError("rounds does not fit", found=repr(rounds), expected="a whole number of at least 1")
        # The slow part, an epsilon that is not cached yet, is worked out before the lock is taken.
        self._rule().check_plan(self._store.book, job_id, event, rounds)
        with self._store.writing():
            self._rule().check_plan(self._store.book, job_id, event, rounds)
            if self._store.book.plans.get(job_id) != (event, rounds):
                self._store.append(kind="approved", job_id=job_id, event=event_to_dict(event), rounds=rounds)

    def reserve(self, job_id: str, round_index: int, event: Event) -> None:
        """Charge a round, before its first gradient is computed; durable when it returns.

        A reservation of the same round and event that was never marked as released is used again without a new
        charge: nothing derived from it left. After a release, a repeat is a new charge.

        Raises:
            BudgetError: the round does not fit. Nothing is recorded.
        """
        # As in `approve`: slow, and cached then.
        self._rule().needs_charge(self._store.book, job_id, round_index, event)
        with self._store.writing():
            if self._rule().needs_charge(self._store.book, job_id, round_index, event):
                self._fix_order(event)
                self._store.append(kind="reserved", job_id=job_id, round_index=round_index, event=event_to_dict(event))

    def mark_released(self, job_id: str, round_index: int) -> None:
        """Record that the round's update leaves, before its first byte does; durable when it returns.

        Raises:
            LedgerError: the round was not reserved, or its reservation was released already. Nothing may be sent.
        """
        with self._store.writing():
            charge = self._store.book.last_charge(job_id, round_index)
            if charge is None or charge.released:
                raise LedgerError(
                    f"ledger {self._store.path.name}: round {round_index} of job {job_id} must not be released",
                    found="a reservation that was released already" if charge else "no reservation",
                    remedy="reserve the round and train it anew; each reservation covers one release",
                )
            self._store.append(kind="released", job_id=job_id, round_index=round_index)

    def mark_sent_uncharged(self, job_id: str, round_index: int, at_most: int | None) -> None:
        """Record that an update which no charge covers (a job without privacy) leaves; durable when it returns.

        Args:
            at_most: how often updates of this round may leave; None: as often as is asked for.

        Raises:
            UsedUpError: updates of this round left `at_most` times already. Nothing may be sent.
        """
        with self._store.writing():
            if at_most is not None and self._store.book.left[job_id, round_index] >= at_most:
                raise UsedUpError(
                    f"ledger {self._store.path.name}: round {round_index} of job {job_id} left {at_most} times already",
                    remedy="start a new run",
                )
            self._store.append(kind="left", job_id=job_id, round_index=round_index)

    def finish(self, job_id: str) -> None:
        """Close a job's plan, so that its unused rounds are free for other jobs. Charges stay. Durable; repeatable."""
        with self._store.writing():
            if job_id in self._store.book.plans:
                self._store.append(kind="finished", job_id=job_id)

    def must_hold(self, row_hash: str) -> None:
        """Refuse to go on if no row has the hash that the site committed to.

        Raises:
            LedgerError: the ledger is an older copy, another one, or was started anew.
        """
        self._store.must_hold(row_hash)

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_policy(self, book: Book, policy: Policy) -> None:
        """Put the site's policy into force, inside a transaction. The first is free; a wider one is not."""
        before = book.policy
        if before is not None and policy.unit != before.unit:
            raise LedgerError(
                f"the ledger of data set {book.dataset} counts in another unit",
                found=policy.unit,
                expected=before.unit,
                remedy=f"put policy.unit back to {before.unit}: what was spent per {before.unit} says nothing of "
                f"{policy.unit}s, and a new ledger for the same records would forget it",
            )
        if before is not None and policy.loosens(before):
            raise LedgerError(
                f"the budget of data set {book.dataset} was raised without an entry in its ledger",
                found=_limits(policy),
                expected=f"at most {_limits(before)}",
                remedy="record the raise with its reason: yoriai site budget --ledger FILE --raise-to EPSILON --reason "
                "TEXT; or put the policy back",
            )
        if policy != before:
            self._append_policy(policy, "")

    def _fix_order(self, event: Event) -> None:
        """Write the order that the first charge fixes, inside its transaction; from then on it stays."""
        book = self._store.book
        if not book.charges and book.order != (order := self._rule().order_for(book, event)):
            self._store.append(kind="order", order=order)

    def _append_policy(self, policy: Policy, reason: str) -> None:
        self._store.append(kind="policy", **asdict(policy), reason=reason)


def check_reason(what: str, reason: str) -> None:
    """Raise ConfigError unless an operator's reason is one that can be kept."""
    length = len(reason.strip())
    if not 0 < length <= _LONGEST_REASON:
        raise ConfigError(f"{what} needs a reason", found=f"{length} characters", expected=f"1 to {_LONGEST_REASON}")


def _limits(policy: Policy) -> str:
    return f"epsilon {policy.epsilon_budget:g} at delta {policy.delta:g}"
