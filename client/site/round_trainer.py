"""A round at a site, masked or not: charged before a gradient is computed, trained, marked before a byte leaves.

    promise (with the job) -> charge -> train -> mark as released

The ledger is on disk at each of these steps. Whatever comes of a charged round is paid for.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from yoriai.client.session.model_session import PrefixProgress
from yoriai.client.site.job import AcceptedJob, Read, Round, started
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.shared_round import SharedSum, sum_round
from yoriai.client.training.train import LocalUpdate, train_round
from yoriai.config import JobConfig
from yoriai.errors import PolicyError, TrainingError, UsedUpError
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.dp.randomness import RandomSource, SystemSource
from yoriai.privacy.job_terms.noise import DistributedNoise, all_rounds
from yoriai.privacy.job_terms.round_terms import rotation_seed
from yoriai.privacy.ledger.ledger import Ledger

_log = logging.getLogger("yoriai.site")

Progress = Callable[[int], None] | None


def train_charged(this: Round, source: RandomSource, progress: Progress) -> LocalUpdate | SharedSum:
    """The round's update, which carries all of its noise; where noise is distributed, integers with a share of it."""
    job, plan = this.job, this.plan
    if not isinstance(plan.noise, DistributedNoise):
        return train_round(job.model, this.start, job.records, job.head, plan, source=source, progress=progress)
    seed = rotation_seed(job.run_id, this.index, this.start.digest())
    gradients = RoundGradients.at(job.model, this.start, job.records, job.head, plan)
    summed = sum_round(gradients, rotation_seed=seed, source=source)
    if progress is not None:
        progress(1)
    return summed


def check_start(this: Round) -> None:
    """Load a round's adapter. Raises TrainingError if it gives values that are not finite on public input."""
    this.job.model.load(this.start)
    this.job.model.check_output()


@dataclass(frozen=True)
class SiteHooks:
    """What a simulation or a test may put in from outside; a deployed site takes the defaults.

    Attributes:
        randomness: source for one round, by run id and round index.
        on_prefix: progress of the prefix, in records.
        on_step: called after each local step.
        on_fault: called with a line for the site's own eyes when a message is refused for a fault of the records or
            of the code.
        read: makes an adapter of a message's bytes, as `started`.
        check: has the model stand at a round's adapter and sees that it computes, as `check_start`.
        train: makes what leaves of a round that is charged, as `train_charged`.
    """

    randomness: Callable[[str, int], RandomSource] = lambda _run, _round: SystemSource()
    on_prefix: PrefixProgress | None = None
    on_step: Callable[[int], None] | None = None
    on_fault: Callable[[str], None] = _log.warning
    read: Read = started
    check: Callable[[Round], None] = check_start
    train: Callable[[Round, RandomSource, Progress], LocalUpdate | SharedSum] = train_charged


class RoundTrainer:
    """A site's ledger and its training, in the terms of jobs and rounds.

    Args:
        site: its name, for messages.
        ledger: of the records that jobs train on.
        hooks: see SiteHooks.
    """

    def __init__(self, site: str, ledger: Ledger, hooks: SiteHooks) -> None:
        self._site, self._ledger, self._hooks = site, ledger, hooks

    def promise(self, run_id: str, event: Event, job: JobConfig) -> None:
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
        run_id, event = this.job.run_id, this.event
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
        if accepted.noise.multiplier is None or self._ledger.outstanding(accepted.run_id):
            return
        charges = [charge for charge in self._ledger.charges() if charge.job_id == accepted.run_id]
        if all(charge.released for charge in charges):
            raise self._all_used(accepted.run_id)

    def train(self, this: Round) -> LocalUpdate | SharedSum:
        """Train a round that is charged. What comes of it may leave only after it is marked as released.

        A training that failed is marked at once: that it failed may tell something of the records, and is seen outside.
        A site that is stopped or killed tells nothing, and may use its charge again.

        Raises:
            TrainingError: it failed, or was done with other noise than was charged.
        """
        source = self._hooks.randomness(this.job.run_id, this.index)
        with this.job.model.threads():
            # Nothing of the records is in this check, so a refusal here leaves the charge open.
            self._hooks.check(this)
            try:
                trained = self._hooks.train(this, source, self._hooks.on_step)
                if trained.event != this.event:
                    raise TrainingError("the round was trained with other noise than was charged")
            except Exception:
                self.mark_released(this)
                raise
        return trained

    def mark_released(self, this: Round) -> None:
        """Record durably that the round's update is about to leave.

        A charge covers one release. Without privacy there is no charge, and a masked round may leave once and, after
        interruptions, as often again as the job has spare rounds.

        Raises:
            UsedUpError: without privacy, it left that often already.
        """
        run_id, job = this.job.run_id, this.job.job
        if this.event is not None:
            self._ledger.mark_released(run_id, this.index)
        else:
            masked = job.secure_aggregation.enabled
            self._ledger.mark_sent_uncharged(
                run_id, this.index, at_most=1 + job.privacy.spare_rounds if masked else None
            )

    def holds(self, accepted: AcceptedJob) -> bool:
        """Whether the ledger still has the run's plan; its operator may have given it back meanwhile."""
        return accepted.noise.multiplier is None or accepted.run_id in self._ledger.open_plans()

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
