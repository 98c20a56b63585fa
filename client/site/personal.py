"""A site's own adapter: the shared one of a finished job, trained on at the site alone.

    for each round t of personal.rounds:
        u_t = one round of local training on the factors of rule.trainable(t), noised as the job's rounds are
        w   ← w + the step of Adam for u_t at personal.learning_rate · (1 − t / rounds)

The basis stays where the job left it: no rule combines anything here, so every entry of a factor keeps its meaning,
Adam goes with every rule, and W of the dense rules stands still. Factors that take turns have an Adam each.

Nothing of it is sent. This module knows no message and no registry, and writes to the ledger alone; the adapter goes to
its caller, at the site. It answers the site's users all the same, and so counts as released.

The ledger holds it as a run of its own: one charge for all rounds, since they end in one release. The charge is durable
before the first gradient and marked as released before the caller gets the adapter. A training that is interrupted in
between showed nothing to anybody, and may start over on the same charge; one that ended, or failed for all to see, is
paid for and not repeated. Noise is calibrated to personal.epsilon by itself; what that adds to the job's loss, the
ledger works out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.offer.charge_names import PERSONAL_MARK
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import training_plan
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.train import train_round
from yoriai.config import JobConfig
from yoriai.errors import BudgetError, ConfigError, PolicyError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian, calibrate
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.job_terms.noise import LocalNoise, NoNoise
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import add_to_trainable
from yoriai.strategies.learning_rate_schedule import schedule_factor
from yoriai.strategies.server_opt import Adam, OptState

_RELEASE = 0  # The one release of a personal run, by the ledger's count of rounds.


@dataclass(frozen=True)
class PersonalTraining:
    """What one site trains its own adapter from; all of it was there for the job.

    Attributes:
        run_id: the job's run.
        shared: the job's last adapter, all factors.
        weight: from the roster; it stands for the records in the mean, as in the job.
        rank: the directions that this site trains; None for all of the job's.
    """

    run_id: str
    job: JobConfig
    shared: AdapterState
    records: PreparedRecords
    weight: int
    rank: int | None = None


def personal_run_id(run_id: str) -> str:
    """The name under which the ledger keeps the personal training of a run."""
    return run_id + PERSONAL_MARK


def personal_event(job: JobConfig) -> SampledGaussian | None:
    """What the whole personal training costs, with the least noise that keeps it within personal.epsilon.

    None without privacy, and for a job that trains no personal adapter.
    """
    privacy, training = job.privacy, job.training
    if privacy.noise == "none" or not job.personal.rounds:
        return None
    steps = job.personal.rounds * training.local_steps
    noise_multiplier = calibrate(
        epsilon=job.personal.epsilon,
        delta=privacy.delta,
        sampling_rate=training.sampling_rate,
        steps=steps,
        accountant=privacy.accountant,
    )
    return SampledGaussian(training.sampling_rate, noise_multiplier, steps)


def train_personal(
    training: PersonalTraining,
    session: ModelSession,
    ledger: Ledger | None,
    *,
    source: RandomSource,
    progress: Callable[[int], None] | None = None,
) -> AdapterState:
    """Train the site's own adapter. Factors that do not train are those of the shared one, bit for bit.

    Args:
        session: its model must be the one that the records were prepared for; its lock is held meanwhile.
        ledger: of the records; not touched by a job without privacy, and None where the records are public.
        source: of sampling and noise.
        progress: told the number of finished rounds.

    Returns:
        All factors, of the shared adapter's shapes.

    Raises:
        ConfigError: the job asks for no personal adapter.
        BudgetError: the budget does not cover it, or it was released already. No gradient was computed.
        PolicyError: the run was charged for a personal training with other privacy settings, or there is no ledger.
        TrainingError: training diverged. It is paid for all the same.
    """
    if not training.job.personal.rounds:
        raise ConfigError("the job trains no personal adapter", expected="personal.rounds of at least 1")
    run_id, event = personal_run_id(training.run_id), personal_event(training.job)
    if event is None:
        with session.lock:
            return _trained(training, session, None, source=source, progress=progress)
    if ledger is None:
        raise PolicyError(f"run {run_id[:80]} trains with privacy, and there is no ledger to charge")
    _charge(ledger, run_id, event)
    try:
        with session.lock:
            own = _trained(training, session, event, source=source, progress=progress)
    except Exception:
        # That it failed is seen, and may tell something of the records. Who is stopped or killed tells nothing.
        _release(ledger, run_id)
        raise
    _release(ledger, run_id)
    return own


def _charge(ledger: Ledger, run_id: str, event: SampledGaussian) -> None:
    """Charge the training, or take up the charge of one that was interrupted."""
    earlier = [charge for charge in ledger.charges() if charge.job_id == run_id]
    if any(charge.released for charge in earlier):
        raise BudgetError(
            f"run {run_id[:80]} has released its personal adapter already",
            expected="one release a charge",
            remedy="keep that adapter, or train another one after a new run",
        )
    if any(charge.event != event for charge in earlier):
        raise PolicyError(
            f"run {run_id[:80]} was charged for a personal adapter with other privacy settings",
            remedy="put them back, or start a new run",
        )
    ledger.approve(run_id, event, rounds=1)
    ledger.reserve(run_id, _RELEASE, event)


def _release(ledger: Ledger, run_id: str) -> None:
    """Record durably that the adapter, or the news that there is none, goes to the site's users."""
    ledger.mark_released(run_id, _RELEASE)
    ledger.finish(run_id)


def _trained(
    training: PersonalTraining,
    session: ModelSession,
    event: SampledGaussian | None,
    *,
    source: RandomSource,
    progress: Callable[[int], None] | None,
) -> AdapterState:
    """All rounds, already charged for; `event` is what they may cost together."""
    job, state, adam = training.job, training.shared, Adam()
    model, head = session.model(job), session.head(job)
    moments: dict[tuple[str, ...], OptState] = {}
    for index in range(job.personal.rounds):
        plan = _plan(training, index, event, session.speed.physical_batch_size)
        model.load(state)
        model.check_output()
        trained = train_round(model, state, training.records, head, plan, source=source)
        if trained.event != plan.event():
            raise TrainingError("a personal round was trained with other noise than was charged")
        fall = schedule_factor("linear", index, job.personal.rounds)
        step, moments[plan.factors] = adam.step(
            trained.update,
            moments.get(plan.factors) or adam.init(trained.update),
            learning_rate=job.personal.learning_rate * fall,
        )
        state = add_to_trainable(state, step, plan.factors)
        if progress is not None:
            progress(index + 1)
    return state


def _plan(training: PersonalTraining, index: int, event: SampledGaussian | None, batch_size: int) -> TrainingPlan:
    """A round as the job's are, but at the learning rate of its first, and without a bound that guards others."""
    job = training.job
    plan = training_plan(
        job,
        index,
        weight=training.weight,
        noise=NoNoise() if event is None else LocalNoise(event.noise_multiplier),
        physical_batch_size=batch_size,
        rank=training.rank,
    )
    return replace(plan, learning_rate=job.training.learning_rate, update_norm_bound=None)
