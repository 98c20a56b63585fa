"""What a job asks of a site, on the terminal, before its operator decides: all that bears on privacy."""

from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.client.job_book import Entry, Terms
from yoriai.client.own_ledger import opened
from yoriai.client.site_folder import SiteFolder
from yoriai.config import JobConfig
from yoriai.privacy.wording import epsilon_text
from yoriai.privacy.wording import terms as wording

_SHOWN_SITES = 32


@dataclass(frozen=True)
class Budget:
    """A data set's budget as it is now, in epsilon at `delta`.

    Attributes:
        left: neither spent nor promised.
    """

    dataset: str
    epsilon_budget: float
    delta: float
    unit: str
    left: float


def budget_of(site: SiteFolder) -> Budget:
    """The budget that jobs at this site draw on; the policy's, whole, before the ledger was made.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    config = site.config()
    dataset, policy = config.records.dataset, config.policy
    with opened(site) as ledger:
        if ledger is None:
            return Budget(dataset, policy.epsilon_budget, policy.delta, policy.unit, policy.epsilon_budget)
        in_force = ledger.policies()[-1].policy
        left = max(0.0, in_force.epsilon_budget - ledger.promised())
    return Budget(dataset, in_force.epsilon_budget, in_force.delta, in_force.unit, left)


def print_terms(entry: Entry, budget: Budget, console: Console) -> None:
    """Print the terms of one job."""
    table = Table.grid(padding=(0, 2))
    for name, value in terms_rows(entry, budget):
        table.add_row(name, Text(printable(value), overflow="fold"))
    console.print(table, highlight=False)


def terms_rows(entry: Entry, budget: Budget) -> list[tuple[str, str]]:
    """The terms by name, in the order in which they are read."""
    terms, job = entry.terms, entry.terms.config()
    secure, early = job.secure_aggregation.enabled, early_end(entry)
    sites = sorted(terms.weights)
    named = ", ".join(sites[:_SHOWN_SITES]) + (", …" if len(sites) > _SHOWN_SITES else "")
    return [
        ("run", terms.run_id),
        ("job", f"{job.name}: {job.task.kind}, rule {job.federation.rule}"),
        ("state", f"{entry.state}, first offered {day_of(entry.seen_at)}{_decided(entry)}{early and f'; {early}'}"),
        ("privacy", _privacy(terms, job)),
        ("noise", _noise(terms, job)),
        (
            "budget",
            f"epsilon {epsilon_text(budget.left)} of {budget.epsilon_budget:g} is left at delta {budget.delta:g}",
        ),
        ("rounds", f"{job.federation.rounds}, and {job.privacy.spare_rounds} spare"),
        ("updates", "masked: only their sum opens" if secure else "in the clear: the coordinator reads this site's"),
        ("sites", f"{len(sites)} in roster {terms.roster_serial}, {job.federation.min_sites} needed: {named}"),
        ("base", f"{job.base.model}, digest {terms.base_digest}"),
    ]


def printable(text: str) -> str:
    """Text as it may stand on a terminal: names and texts of a job are the coordinator's choice."""
    return "".join(c if c.isprintable() else " " for c in text)


def day_of(at: float) -> str:
    """A time in words."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def early_end(entry: Entry) -> str:
    """That a run ended early, by its coordinator's signed word; empty if it did not, or has not ended."""
    rounds = entry.terms.config().federation.rounds
    if entry.rounds_done is None or entry.rounds_done == rounds:
        return ""
    return f"ended early after {entry.rounds_done} of {rounds} rounds"


def _decided(entry: Entry) -> str:
    return f"; decided {day_of(entry.decided_at)} by {entry.decided_by}" if entry.decided_at is not None else ""


def _privacy(terms: Terms, job: JobConfig) -> str:
    if terms.epsilon is None:
        return "none: without noise, what single records say can be read from updates"
    privacy = job.privacy
    cost = f"epsilon {epsilon_text(terms.epsilon)} at delta {privacy.delta:g} for all rounds, the spare ones too"
    return f"{cost}; {wording(privacy.unit, terms.accountant)}"


def _noise(terms: Terms, job: JobConfig) -> str:
    if terms.noise_multiplier is None:
        return job.privacy.noise
    text = f"{job.privacy.noise}, noise multiplier {terms.noise_multiplier:.4g}"
    if job.privacy.noise == "distributed":
        text += f"; it holds while at most {job.privacy.colluding} sites leave their share out or give it away"
    return text
