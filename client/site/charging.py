"""What a site's rounds do to its ledger: promised with the job, charged before training, released before leaving."""

from yoriai.client.site.job import AcceptedJob, Round
from yoriai.config import JobConfig
from yoriai.errors import PolicyError, UsedUpError
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.job_terms.distributed_noise_parameters import all_rounds
from yoriai.privacy.ledger.ledger import Ledger


class Charging:
    """A site's ledger, in the terms of jobs and rounds.

    Args:
        site: its name, for messages.
        ledger: of the records that jobs train on.
    """

    def __init__(self, site: str, ledger: Ledger) -> None:
        self._site, self._ledger = site, ledger

    def approve(self, run_id: str, event: Event, job: JobConfig) -> None:
        """Have the ledger promise the rounds. A run keeps the noise that it began with, or its losses would add up.

        Raises:
            PolicyError: the run was charged for rounds with other privacy settings.
            BudgetError: the budget does not cover them.
        """
        if any(charge.job_id == run_id and charge.event != event for charge in self._ledger.charges()):
            raise PolicyError(
                f"site {self._site}: run {run_id[:80]} was charged for rounds with other privacy settings",
                remedy="start a new run",
            )
        self._ledger.approve(run_id, event, all_rounds(job))

    def charge(self, this: Round) -> None:
        """Charge a round, within what the job may have in all; the ledger alone would let it take the site's whole.

        Raises:
            UsedUpError: every round of the run is used.
            BudgetError: the budget does not cover it any more.
        """
        run_id, event = this.job.run_id, this.plan.event()
        if event is None:
            return
        open_reservation = any(
            (charge.job_id, charge.round_index, charge.released) == (run_id, this.index, False)
            for charge in self._ledger.charges()
        )
        if not open_reservation and not self._ledger.outstanding(run_id):
            raise self._all_used(run_id)
        self._ledger.reserve(run_id, this.index, event)

    def check_rounds_left(self, accepted: AcceptedJob) -> None:
        """Raise UsedUpError if no round of the run is left to charge, and none is charged that has not left."""
        if accepted.noise_multiplier is None or self._ledger.outstanding(accepted.run_id):
            return
        charges = [charge for charge in self._ledger.charges() if charge.job_id == accepted.run_id]
        if all(charge.released for charge in charges):
            raise self._all_used(accepted.run_id)

    def mark_released(self, this: Round) -> None:
        """Record durably that the round's update is about to leave.

        A charge covers one release. Without privacy there is no charge, and a masked round may leave once and, after
        interruptions, as often again as the job has spare rounds.

        Raises:
            UsedUpError: without privacy, it left that often already.
        """
        run_id, job = this.job.run_id, this.job.job
        if this.plan.event() is not None:
            self._ledger.mark_released(run_id, this.index)
        else:
            masked = job.secure_aggregation.enabled
            self._ledger.mark_sent_uncharged(
                run_id, this.index, at_most=1 + job.privacy.spare_rounds if masked else None
            )

    def holds(self, accepted: AcceptedJob) -> bool:
        """Whether the ledger still has the run's plan; its operator may have given it back meanwhile."""
        return accepted.noise_multiplier is None or accepted.run_id in self._ledger.open_plans()

    def open_runs(self) -> list[str]:
        """The runs for which the ledger holds rounds, or may."""
        return list(self._ledger.open_plans())

    def give_back(self, run_id: str) -> None:
        """Free what the ledger holds for the run's further rounds. Charges stay."""
        self._ledger.finish(run_id)

    def _all_used(self, run_id: str) -> UsedUpError:
        return UsedUpError(
            f"site {self._site}: every round of run {run_id[:80]} is used, the spare ones too",
            remedy="raise privacy.spare_rounds in a new run",
        )
