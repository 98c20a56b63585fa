"""How many jobs like one that is offered a site's budget has room for, before its operator says yes."""

from dataclasses import dataclass

from yoriai.client.cli.own_ledger import opened
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.job_entry import Terms
from yoriai.config import PolicySection
from yoriai.privacy.dp.accounting import event_from_dict
from yoriai.privacy.job_terms.noise import all_rounds
from yoriai.privacy.ledger.book import Book, Policy
from yoriai.privacy.ledger.rule import BudgetRule


@dataclass(frozen=True)
class Room:
    """What the budget has room for.

    Attributes:
        fit: jobs like the offered one, itself among them; at most 100.
        planned: jobs that the policy still plans for, the offered one among them.
    """

    fit: int
    planned: int

    @property
    def text(self) -> str:
        """In words, for the operator."""
        if not self.fit:
            return "this one does not fit what is left: the site will refuse it"
        more = self.fit - 1
        return "after this one " + ("1 more such job fits" if more == 1 else f"{more or 'no'} more such jobs fit")

    @property
    def objection(self) -> str:
        """Why that is too few for the policy's plan; empty if it is not."""
        if self.fit >= self.planned:
            return ""
        return f"policy.planned_jobs plans for {self.planned - 1} more after this one"


def room_for(site: SiteFolder, terms: Terms) -> Room | None:
    """The room for jobs like this one; None for one without privacy, or that an earlier version entered.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    if terms.event is None:
        return None
    policy, event, rounds = site.config().policy, event_from_dict(terms.event), all_rounds(terms.config())
    with opened(site) as ledger:
        if ledger is None:
            rule = BudgetRule(_as_ledgers_have_it(policy))
            return Room(rule.jobs_that_fit(Book(), event, rounds), policy.planned_jobs)
        begun = {charge.job_id for charge in ledger.charges()} | ledger.open_plans().keys()
        left = max(1, policy.planned_jobs - len(begun - {terms.run_id}))
        return Room(ledger.jobs_that_fit(event, rounds), left)


def _as_ledgers_have_it(policy: PolicySection) -> Policy:
    return Policy(policy.epsilon_budget, policy.delta, unit=policy.unit)
