"""What a ledger's rows say when replayed in order. Pure: knows neither file nor accountant."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, TypeAlias, get_args

from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import Accountant, Event, epsilon, event_from_dict

# Of the rows and of the file; another format is refused by name, before a row is looked at.
FORMAT = 2
GENESIS = sha256(b"yoriai privacy ledger, version %d" % FORMAT).hexdigest()

Unit: TypeAlias = Literal["record", "owner"]

# How often each event of each job counts.
Costs: TypeAlias = Counter[tuple[str, Event]]


@dataclass(frozen=True)
class Policy:
    """The limit of a data set, what it protects, and how the first job's plan is valued.

    Args:
        epsilon_budget: over all jobs, > 0.
        delta: at which the budget holds, in (0, 1).
        accountant: for what was fixed in advance; see `rule`.
        unit: what is added or removed; the same for good.

    Raises:
        ConfigError: a value makes no sense.
    """

    epsilon_budget: float
    delta: float
    accountant: Accountant = "pld"
    unit: Unit = "record"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon_budget) and self.epsilon_budget > 0.0):
            raise ConfigError(
                "epsilon_budget does not fit", found=repr(self.epsilon_budget), expected="a number above 0"
            )
        if self.unit not in get_args(Unit):
            raise ConfigError("a ledger cannot count in this unit", found=repr(self.unit), expected="record or owner")
        epsilon([], self.delta, self.accountant)  # Refuses a delta or an accountant that makes no sense.

    def loosens(self, other: "Policy") -> bool:
        """Whether this policy lets more out than `other`: a larger delta does, as a larger epsilon does."""
        return self.epsilon_budget > other.epsilon_budget or self.delta > other.delta


@dataclass(frozen=True)
class Charge:
    """One charge: `number` is its row in the ledger, `reserved_at` in seconds since the epoch."""

    number: int
    job_id: str
    round_index: int
    event: Event
    reserved_at: float
    released: bool = False


@dataclass(frozen=True)
class PolicyChange:
    """A policy as it came into force with row `number`; `reason` is the operator's, and stands at every raise."""

    number: int
    at: float
    policy: Policy
    reason: str = ""


@dataclass(frozen=True)
class Renewal:
    """That the ledger's second place was lost and begun anew with row `number`, on the operator's word."""

    number: int
    at: float
    reason: str


@dataclass(frozen=True)
class FirstPlan:
    """What was fixed before anything left: how often the first job to be charged may run its one event."""

    job_id: str
    event: Event
    rounds: int

    def covers(self, costs: Costs) -> bool:
        """Whether a history is this plan, as far as it got."""
        return all(key == (self.job_id, self.event) and n <= self.rounds for key, n in costs.items())


@dataclass(frozen=True)
class Head:
    """The last row of a chain: its number, and the hash that stands for it and for all rows before it."""

    number: int
    hash: str


@dataclass
class Book:
    """The state after row `number`, whose hash is `hash`.

    Attributes:
        policies: all that ever held, oldest first.
        order: the one at which jobs are added up, fixed with the first charge; None before that.
        first_plan: the plan that the first charge was made under; None before that.
        fingerprints: of the records, in the order in which they were first charged on; the last are in use.
        renewals: of the second place, oldest first.
        set_back: rows whose time is before the row's before them. Times decide nothing; they are shown.
    """

    number: int = 0
    hash: str = GENESIS
    dataset: str = ""
    policies: list[PolicyChange] = field(default_factory=list)
    order: int | None = None
    first_plan: FirstPlan | None = None
    fingerprints: list[str] = field(default_factory=list)
    renewals: list[Renewal] = field(default_factory=list)
    set_back: list[int] = field(default_factory=list)
    # Replaced as a whole, never changed: another thread may be reading it.
    plans: Mapping[str, tuple[Event, int]] = field(default_factory=dict)
    # When each open plan was approved first, in seconds since the epoch.
    opened: dict[str, float] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    # The last charge of each (job, round), by its place in `charges`.
    latest: dict[tuple[str, int], int] = field(default_factory=dict)
    # How often an update of each (job, round) left without a charge.
    left: Counter[tuple[str, int]] = field(default_factory=Counter)
    _time: float = -math.inf

    def apply(self, number: int, body: Mapping[str, Any], row_hash: str) -> None:
        """Take in the next row.

        Raises:
            ConfigError, KeyError, TypeError, ValueError: no ledger writes such a row, or not at this place.
        """
        if number != self.number + 1:
            raise ValueError("a row is missing")
        kind = body["kind"]
        if (kind == "opened") != (number == 1):
            raise ValueError("the first row, and only it, names the data set")
        if kind == "opened":
            self.dataset = body["dataset"]
        elif kind == "policy":
            policy = Policy(body["epsilon_budget"], body["delta"], body["accountant"], body["unit"])
            self.policies.append(PolicyChange(number, body["at"], policy, body["reason"]))
        elif kind == "order":
            self._fix_order(body["order"])
        elif kind == "witness":
            self._renew_witness(number, body)
        elif kind == "records":
            self.fingerprints.append(body["fingerprint"])
        else:
            self._apply_to_job(kind, number, body)
        if body["at"] < self._time:
            self.set_back.append(number)
        self.number, self.hash, self._time = number, row_hash, body["at"]

    def _fix_order(self, order: object) -> None:
        # Before the first charge it may be fixed anew: earlier Yoriais wrote it with the first plan, charged or not.
        if self.charges or type(order) is not int or order < 2:
            raise ValueError("the order is fixed before the first charge, to a whole number of at least 2")
        self.order = order

    def _renew_witness(self, number: int, body: Mapping[str, Any]) -> None:
        if type(body["reason"]) is not str or not body["reason"]:
            raise ValueError("a second place is begun anew for a reason")
        self.renewals.append(Renewal(number, body["at"], body["reason"]))

    def _apply_to_job(self, kind: str, number: int, body: Mapping[str, Any]) -> None:
        job_id = body["job_id"]
        if self.order is None and kind == "reserved":
            raise ValueError("a charge before the order was fixed")
        if kind == "approved":
            self.opened[job_id] = self.opened[job_id] if job_id in self.plans else body["at"]
            self.plans = {**self.plans, job_id: (event_from_dict(body["event"]), body["rounds"])}
        elif kind == "finished":
            self.plans = {job: plan for job, plan in self.plans.items() if job != job_id}
        elif kind == "reserved":
            event = event_from_dict(body["event"])
            self.first_plan = self.first_plan or self.plan_if_first(job_id, event)
            self.latest[job_id, body["round_index"]] = len(self.charges)
            self.charges.append(Charge(number, job_id, body["round_index"], event, body["at"]))
        elif kind == "released":
            place = self.latest[job_id, body["round_index"]]
            self.charges[place] = replace(self.charges[place], released=True)
        elif kind == "left":
            self.left[job_id, body["round_index"]] += 1
        else:
            raise ValueError("unknown kind of row")

    @property
    def head(self) -> Head:
        """The last row."""
        return Head(self.number, self.hash)

    @property
    def policy(self) -> Policy | None:
        """The policy in force; None in a ledger that was made a moment ago."""
        return self.policies[-1].policy if self.policies else None

    def plan_if_first(self, job_id: str, event: Event) -> FirstPlan:
        """What the first plan would be if this event were the first charge: without a plan for it, one round."""
        planned, rounds = self.plans.get(job_id, (None, 0))
        return FirstPlan(job_id, event, rounds if planned == event else 1)

    def last_charge(self, job_id: str, round_index: int) -> Charge | None:
        """The newest charge of a round."""
        place = self.latest.get((job_id, round_index))
        return None if place is None else self.charges[place]

    def spent(self) -> Costs:
        """All charges."""
        return Counter((charge.job_id, charge.event) for charge in self.charges)

    def held(self, without: str | None = None) -> Costs:
        """The unused rounds of the open plans, but not those of the job `without`."""
        spent = self.spent()
        unused = {(job_id, e): rounds - spent[job_id, e] for job_id, (e, rounds) in self.plans.items()}
        return Counter({key: n for key, n in unused.items() if n > 0 and key[0] != without})


def of_job(costs: Costs, job_id: str) -> Costs:
    """Return the part of `costs` that is one job's."""
    return Counter({key: n for key, n in costs.items() if key[0] == job_id})
