"""Why a run stands still for good: it was interrupted more often than its privacy budget has spare rounds."""

from yoriai.errors import BudgetError
from yoriai.server.registry import Registry
from yoriai.simulations.engines import SiteSpec
from yoriai.simulations.federation import Federation


def budget_used_up(federation: Federation) -> BudgetError | None:
    """The error that says so, if too few sites can pay for the round that comes next; None if that is not the cause."""
    job = federation.job
    if job.privacy.noise == "none":
        return None
    checkpoint = Registry(federation.folder).load()
    done = checkpoint.next_round if checkpoint else 0
    spent = [site.name for site in federation.sites if not _can_pay(federation, federation.spec(site), done)]
    if len(federation.sites) - len(spent) >= job.federation.min_sites:
        return None
    return BudgetError(
        f"the privacy budget of {', '.join(spent)} does not cover round {done + 1}: rounds that were interrupted after "
        "an update had left a site were charged twice",
        found=f"{done} of {job.federation.rounds} rounds done, all {job.federation.rounds + job.privacy.spare_rounds} "
        "that epsilon covers charged",
        remedy=f"start a new run with more privacy.spare_rounds (now {job.privacy.spare_rounds}); "
        "on the same records it spends anew",
    )


def _can_pay(federation: Federation, spec: SiteSpec, round_index: int) -> bool:
    with spec.open_ledger() as ledger:
        if ledger.outstanding(federation.run_id):
            return True
        own = [c for c in ledger.charges() if c.job_id == federation.run_id and c.round_index == round_index]
        return bool(own) and not own[-1].released
