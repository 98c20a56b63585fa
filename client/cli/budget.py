"""What a ledger says to whoever answers for the data: policy, spent and left, every charge, and what still fits."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import Accountant, Event, event_to_dict
from yoriai.privacy.dp.wording import accountant_name
from yoriai.privacy.ledger.folder import ledgers_in
from yoriai.privacy.ledger.ledger import FurtherJobs, Ledger, PolicyChange, Renewal


@dataclass(frozen=True)
class ChargeView:
    """One charge.

    Attributes:
        row: in the ledger.
        round: counted from 1, as in reports.
        released: whether anything that was computed for it may have left the site.
        epsilon: of this charge and all before it, whichever job they are of.
    """

    row: int
    job: str
    round: int
    event: Event
    released: bool
    at: float
    epsilon: float


@dataclass(frozen=True)
class PlanView:
    """A job that the ledger promised rounds to.

    Attributes:
        since: when the rounds were promised, seconds since the epoch.
        held: rounds that are promised and not charged yet.
        epsilon: what they hold of the budget.
        fit: further rounds that the budget has room for, the held ones among them.
    """

    job: str
    event: Event
    since: float
    held: int
    epsilon: float
    fit: int


@dataclass(frozen=True)
class BudgetView:
    """A data set's budget at one moment; spent, held and left add up to it.

    Attributes:
        held: what the unused rounds of open plans would add to the charges.
        accountant_text: the accountant behind `spent` in words, with the order if there was a filter.
        filtered: whether `spent` is beyond the first job's plan.
        further: whether there can be jobs beside the first one.
        policies: all that ever held; the last is in force.
        fingerprints: of the records, as they changed.
        renewals: when, and why, the second place was begun anew.
        rows_set_back: rows whose time is before that of the row above.
    """

    path: Path
    dataset: str
    policies: tuple[PolicyChange, ...]
    spent: float
    held: float
    left: float
    accountant: Accountant
    accountant_text: str
    filtered: bool
    further: FurtherJobs
    charges: tuple[ChargeView, ...]
    plans: tuple[PlanView, ...]
    fingerprints: tuple[str, ...]
    renewals: tuple[Renewal, ...]
    rows_set_back: tuple[int, ...]
    rows: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        policy = self.policies[-1].policy
        return {
            "ledger": str(self.path),
            "dataset": self.dataset,
            "rows": self.rows,
            "epsilon_budget": policy.epsilon_budget,
            "delta": policy.delta,
            "unit": policy.unit,
            "adjacency": "add_or_remove_one",
            "spent": self.spent,
            "held": self.held,
            "left": self.left,
            "accountant": self.accountant,
            "further_jobs": asdict(self.further),
            "plans": [_with_mechanism(plan) for plan in self.plans],
            "charges": [_with_mechanism(charge) for charge in self.charges],
            "policies": [
                {"row": change.number, "at": change.at, **asdict(change.policy), "reason": change.reason}
                for change in self.policies
            ],
            "fingerprints": list(self.fingerprints),
            "witness_renewed": [
                {"row": renewal.number, "at": renewal.at, "reason": renewal.reason} for renewal in self.renewals
            ],
            "rows_set_back": list(self.rows_set_back),
        }


def ledgers_of(run: Path) -> list[Path]:
    """The ledgers of a run's sites.

    Raises:
        ConfigError: the folder has none.
    """
    found = ledgers_in(run / "ledgers")
    if not found:
        raise ConfigError(f"{run} holds no ledgers", expected="the folder of a run", remedy="correct the path")
    return found


def view_of(ledger: Ledger, path: Path) -> BudgetView:
    """Everything about a ledger that can be shown.

    Raises:
        LedgerError: it cannot be read.
    """
    policies, spent = tuple(ledger.policies()), ledger.spent()
    budget, promised = policies[-1].policy.epsilon_budget, ledger.promised()
    since = ledger.open_since()
    accountant, further, filtered = ledger.accountant_in_use(), ledger.further_jobs(), ledger.is_filtered()
    return BudgetView(
        path=path,
        dataset=ledger.dataset,
        policies=policies,
        spent=spent,
        held=promised - spent,
        left=max(0.0, budget - promised),
        accountant=accountant,
        accountant_text=f"RDP at order {further.order}" if filtered else accountant_name(accountant),
        filtered=filtered,
        further=further,
        charges=tuple(
            ChargeView(
                row=charge.number,
                job=charge.job_id,
                round=charge.round_index + 1,
                event=charge.event,
                released=charge.released,
                at=charge.reserved_at,
                epsilon=ledger.spent_after(number),
            )
            for number, charge in enumerate(ledger.charges(), start=1)
        ),
        plans=tuple(
            PlanView(
                job,
                event,
                since=since[job],
                held=ledger.outstanding(job),
                epsilon=ledger.held_for(job),
                fit=ledger.rounds_that_fit(job),
            )
            for job, event in ledger.open_plans().items()
        ),
        fingerprints=tuple(ledger.fingerprints()),
        renewals=tuple(ledger.renewals()),
        rows_set_back=tuple(ledger.rows_set_back()),
        rows=ledger.head().number,
    )


def _with_mechanism(view: ChargeView | PlanView) -> dict[str, Any]:
    values = asdict(view)
    del values["event"]
    return {**values, "mechanism": event_to_dict(view.event)}
