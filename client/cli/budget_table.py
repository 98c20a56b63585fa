"""A data set's budget on the terminal, within 80 columns."""

from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from yoriai.client.cli.budget import BudgetView
from yoriai.privacy.dp.accounting import Event, SampledSkellam
from yoriai.privacy.dp.wording import epsilon_text, per_unit, terms
from yoriai.privacy.ledger.ledger import Ledger


def print_budget(view: BudgetView, console: Console) -> None:
    """Print one ledger: the sums, what is planned, every charge, and what else the operator did."""
    parts: list[RenderableType] = [Text(f"data set {view.dataset}", style="bold"), _sums(view)]
    if view.plans:
        parts += [Text(), _plans(view)]
    parts += [Text(), _charges(view) if view.charges else Text("no charges yet")]
    parts += [Text(line, style="dim") for line in _notes(view)]
    console.print(Group(*parts, Text()), highlight=False)


def last_of(ledger: Ledger) -> list[str]:
    """How far a ledger goes, for an operator who is to say whether it is the newest."""
    charges, lines = ledger.charges(), [f"data set {ledger.dataset}, {ledger.head().number} rows"]
    if not charges:
        return [*lines, "no charges yet"]
    last = charges[-1]
    at = f"{datetime.fromtimestamp(last.reserved_at, UTC):%Y-%m-%d %H:%M} UTC"
    where = f"round {last.round_index + 1} of {_printable(last.job_id)}"
    return [*lines, f"{len(charges)} charges; the last is {where}, {at}"]


def mechanism_text(event: Event) -> str:
    """An event in words."""
    return ", ".join(
        (
            f"sampled {'Skellam' if isinstance(event, SampledSkellam) else 'Gaussian'}",
            f"rate {event.sampling_rate:.4g}",
            f"noise {event.noise_multiplier:.4g}",
            *([f"of {event.draws} sites together"] if isinstance(event, SampledSkellam) else []),
            f"{event.steps} steps" if event.steps != 1 else "1 step",
        )
    )


def _printable(text: str) -> str:
    """Text as it may stand on a terminal: a job's name is the coordinator's choice."""
    return "".join(c if c.isprintable() else " " for c in text)


def _sums(view: BudgetView) -> Table:
    policy = view.policies[-1].policy
    table = Table.grid(padding=(0, 2))
    rows = (
        ("ledger", f"{view.path}, {view.rows} rows"),
        ("policy", f"epsilon {policy.epsilon_budget:g} at delta {policy.delta:g}, over all jobs"),
        ("spent", epsilon_text(view.spent, 4)),
        ("held", f"{epsilon_text(view.held, 4)} for unused rounds of open jobs"),
        ("left", epsilon_text(view.left, 4)),
        ("epsilon", terms(policy.unit, view.accountant_text)),
        ("further jobs", _further_jobs(view)),
    )
    for name, value in rows:
        table.add_row(name, Text(value, overflow="fold"))
    return table


def _further_jobs(view: BudgetView) -> str:
    """What the ledger says to a second job, and why."""
    further, policy = view.further, view.policies[-1].policy
    if further.order is None:
        return "possible: the first charge will fix the order at which they are added up"
    needs = f"at order {further.order}, at which they are added up, the first job's whole plan needs "
    needs += f"{epsilon_text(further.first_plan_epsilon, 4)} of {policy.epsilon_budget:g} ({terms(policy.unit, 'rdp')})"
    if further.possible:
        return f"possible under this budget: {needs}"
    return f"not possible under this budget, because {needs}; a raise opens the ledger"


def _plans(view: BudgetView) -> Table:
    table = Table("open job", box=None, pad_edge=False, header_style="bold")
    table.columns[0].overflow = "fold"
    table.add_column("since", no_wrap=True)
    table.add_column("mechanism of a round")
    table.add_column("held", justify="right", no_wrap=True)
    table.add_column("epsilon", justify="right", no_wrap=True)
    table.add_column("fit", justify="right", no_wrap=True)
    for plan in view.plans:
        name, since = escape(_printable(plan.job)), f"{datetime.fromtimestamp(plan.since, UTC):%Y-%m-%d}"
        mechanism, held = mechanism_text(plan.event), f"{plan.held}"
        table.add_row(name, since, mechanism, held, epsilon_text(plan.epsilon, 4), f"{plan.fit}")
    return table


def _charges(view: BudgetView) -> Table:
    table = Table("job", box=None, pad_edge=False, header_style="bold")
    table.columns[0].overflow = "fold"
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("mechanism")
    table.add_column("sent", no_wrap=True)
    table.add_column("epsilon", justify="right", no_wrap=True)
    above = ("", "")
    for charge in view.charges:
        # What is as in the row above is left out: forty rounds of a job are forty lines, not eighty.
        here = (escape(_printable(charge.job)), mechanism_text(charge.event))
        job, mechanism = (here[0] if here[0] != above[0] else "", here[1] if here != above else "")
        sent = "yes" if charge.released else "no"
        table.add_row(job, f"{charge.round}", mechanism, sent, epsilon_text(charge.epsilon, 4))
        above = here
    return table


def _notes(view: BudgetView) -> list[str]:
    unit = view.policies[-1].policy.unit
    notes = [
        f"Epsilon is of all charges so far, {per_unit(unit)}. A charge counts whether or not anything was sent.",
        "What is proved is the budget, however jobs were chosen; a figure below it is what the same charges cost had "
        "they been fixed in advance.",
    ]
    if view.plans:
        notes.append(
            "held: rounds promised to the job, and their epsilon; fit: rounds that the budget has room for, the held "
            "ones too. A job whose coordinator never comes back is given up with: yoriai site release DIR RUN"
        )
    if view.filtered:
        notes.append("Beyond the first job's plan epsilon jumps: from there on the Rényi filter counts.")
    for change in view.policies:
        if change.reason:
            day, policy = datetime.fromtimestamp(change.at, UTC), change.policy
            raised = f"the operator raised the budget to epsilon {policy.epsilon_budget:g} at delta {policy.delta:g}"
            notes.append(f"Row {change.number}, {day:%Y-%m-%d}: {raised}: {_printable(change.reason)}")
    for renewal in view.renewals:
        day = datetime.fromtimestamp(renewal.at, UTC)
        renewed = "the operator stated that the ledger is the newest and its second place was lost; it was begun anew"
        notes.append(f"Row {renewal.number}, {day:%Y-%m-%d}: {renewed}: {_printable(renewal.reason)}")
    if len(view.fingerprints) > 1:
        notes.append(f"The records changed {len(view.fingerprints) - 1} times; the budget went on.")
    if view.rows_set_back:
        rows = ", ".join(str(row) for row in view.rows_set_back[:8])
        notes.append(f"The clock was set back before row {rows}; times are shown and decide nothing.")
    return notes
