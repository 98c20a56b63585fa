"""`yoriai job check`: what a job will do, spend and move, without training a step."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai import wire
from yoriai.client.base_model import choose_device, load_base
from yoriai.client.workbench import Workbench
from yoriai.config import JobConfig
from yoriai.errors import RecordError
from yoriai.privacy.accounting import Accountant, SampledGaussian, epsilon
from yoriai.privacy.secagg import FixedPoint
from yoriai.privacy.secagg.fixedpoint import packed_bytes
from yoriai.privacy.secagg.messages import HEADER_BYTES, SIGNATURE_BYTES
from yoriai.privacy.wording import terms
from yoriai.simulations.experiment import DataSource, Experiment, accountant_of, noise_multiplier, resolve
from yoriai.simulations.progress import Observer, Silent
from yoriai.simulations.report_html import size_text
from yoriai.simulations.reporting import describe
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

# Of a masked update: its frame, the count of clipped values, the signature.
MASKED_OVERHEAD_BYTES = HEADER_BYTES + 8 + SIGNATURE_BYTES


@dataclass(frozen=True)
class Fitted:
    """A base that the job's adapter and the records were seen to fit.

    Attributes:
        initial: the adapter before round 0.
        cut: records, for training or testing, that are cut to task.max_tokens, by site.
    """

    workbench: Workbench
    initial: AdapterState
    cut: dict[str, int]


@dataclass(frozen=True)
class Check:
    """What `check` found out.

    Attributes:
        accountant: what added these up; None without privacy.
        epsilon: of all rounds without the spare ones; None without privacy.
        epsilon_with_spares: of all rounds and spare ones.
        bytes_offer: of the message that brings a site the job and the complete adapter, once.
        bytes_down, bytes_up: of one round's adapter to a site, and of the update from it, at most; the keys and shares
            of secure aggregation come on top.
        word_bits: width of one masked value; None without secure aggregation.
        parameters: trained in a round, at most.
    """

    experiment: Experiment
    fitted: Fitted
    noise_multiplier: float | None
    accountant: Accountant | None
    epsilon: float | None
    epsilon_with_spares: float | None
    bytes_offer: int
    bytes_down: int
    bytes_up: int
    parameters: int
    word_bits: int | None


def fit(experiment: Experiment, observer: Observer) -> Fitted:
    """Load the base, attach the adapter and turn every record into tokens.

    Raises:
        YoriaiError: the base does not load or is another one, the adapter does not fit it, or a record does not fit
            the task.
    """
    job = experiment.job
    observer.advance("loading the base model", 0, 0)
    base = load_base(
        job.base.model,
        device=choose_device(job.speed.device),
        expected_digest=job.base.digest,
        progress=lambda what, done, total: observer.advance(f"base model: {what}", done, total),
    )
    observer.advance("fitting the adapter", 0, 0)
    workbench = Workbench(base, job.speed)
    initial = workbench.initial_adapter(job)
    cut = {}
    for site in experiment.sites:
        try:
            cut[site.name] = workbench.encode((*site.train, *site.test), job.task).cut
        except RecordError as error:
            raise RecordError(
                f"site {site.name}: {error.what}", found=error.found, expected=error.expected, remedy=error.remedy
            ) from None
    return Fitted(workbench, initial, cut)


def check(
    job: JobConfig,
    source: DataSource,
    settings: Mapping[str, object] | None = None,
    observer: Observer | None = None,
) -> Check:
    """Validate job and records together.

    Raises:
        YoriaiError: the first thing that would stop a run, with its remedy.
    """
    experiment = resolve(job, source, settings)
    job = experiment.job
    fitted = fit(experiment, observer or Silent())
    rule = get_rule(job.federation.rule)
    # Which factors move takes turns under some rules; the adapter of a request holds all that may have changed.
    moving = fitted.initial.select(rule.moving)
    updates = [fitted.initial.select(rule.trainable(index)) for index in range(2)]
    noise = noise_multiplier(job)
    return Check(
        experiment=experiment,
        fitted=fitted,
        noise_multiplier=noise,
        accountant=accountant_of(job),
        epsilon=_epsilon(job, noise, job.federation.rounds),
        epsilon_with_spares=_epsilon(job, noise, job.federation.rounds + job.privacy.spare_rounds),
        bytes_offer=len(wire.encode(_offer(experiment, fitted, noise))),
        bytes_down=len(wire.encode(_request(job, moving))),
        bytes_up=max(len(wire.encode(_update(experiment, update))) for update in updates),
        parameters=max(update.size_bytes for update in updates) // 4,
        word_bits=_word_bits(experiment),
    )


def print_check(found: Check, console: Console) -> None:
    """Show it."""
    job, experiment = found.experiment.job, found.experiment
    training, federation = job.training, job.federation
    lines = [
        *map(Text, describe(experiment, found.fitted.workbench, found.fitted.cut)),
        Text(
            f"training rule {federation.rule}, {found.parameters:,} parameters, {federation.rounds} rounds of "
            f"{training.local_steps} local step{'s' * (training.local_steps > 1)}, sampling rate "
            f"{training.sampling_rate:g}"
        ),
        _privacy_line(found),
        Text(
            f"traffic  to each site {size_text(found.bytes_offer)} once; each round {size_text(found.bytes_down)} "
            f"down and {size_text(found.bytes_up)} up"
        ),
        _secure_line(found),
    ]
    for line in lines:
        console.print(line, highlight=False)
    console.print()
    console.print(_table(found))


def _secure_line(found: Check) -> Text:
    if found.word_bits is None:
        return Text("secure aggregation is off: the coordinator can read single updates", style="bold red")
    bits, weight = found.experiment.job.secure_aggregation.bits, sum(found.experiment.roster().weights.values())
    return Text(
        f"masking  {bits} bits a value in words of {found.word_bits} bits (weights add up to {weight}), "
        f"{found.word_bits / 8:g} bytes a parameter; keys and shares come on top"
    )


def _privacy_line(found: Check) -> Text:
    job = found.experiment.job
    if found.noise_multiplier is None:
        return Text("no differential privacy: privacy.noise is none", style="bold red")
    return Text(
        f"privacy  noise multiplier {found.noise_multiplier:.4f}: epsilon {found.epsilon:.3f} for "
        f"{job.federation.rounds} rounds, {found.epsilon_with_spares:.3f} with {job.privacy.spare_rounds} spare, "
        f"at delta {job.privacy.delta:g}, {terms(job.privacy.unit, found.accountant)}"
    )


def _table(found: Check) -> Table:
    experiment, weights = found.experiment, found.experiment.roster().weights
    table = Table(box=None, pad_edge=False)
    table.add_column("site", overflow="fold")
    by_owner = experiment.job.privacy.unit == "owner"
    owners = experiment.unit_counts()
    for heading in ("train", *(["owners"] if by_owner else []), "test", "weight", "cut", "epsilon", "delta"):
        table.add_column(heading, justify="right", no_wrap=True)
    for site in experiment.sites:
        table.add_row(
            Text(site.name),
            str(len(site.train)),
            *([str(owners[site.name])] if by_owner else []),
            str(len(site.test)),
            str(weights[site.name]),
            str(found.fitted.cut[site.name]),
            "none" if found.epsilon is None else f"{found.epsilon:.3f}",
            "-" if found.epsilon is None else f"{experiment.job.privacy.delta:g}",
        )
    return table


def _offer(experiment: Experiment, fitted: Fitted, noise: float | None) -> wire.JobOffer:
    return wire.JobOffer(
        run_id=_run_id(experiment.job),
        job=experiment.job.model_dump(mode="json", by_alias=True),
        roster=experiment.roster(),
        base_digest=fitted.workbench.base.digest,
        noise_multiplier=noise,
        payload=fitted.initial.to_bytes(),
    )


def _request(job: JobConfig, moving: AdapterState) -> wire.TrainRequest:
    return wire.TrainRequest(
        run_id=_run_id(job),
        round_index=job.federation.rounds - 1,
        adapter_digest=moving.digest(),
        payload=moving.to_bytes(),
    )


def _word_bits(experiment: Experiment) -> int | None:
    if not experiment.job.secure_aggregation.enabled:
        return None
    return FixedPoint(experiment.job.secure_aggregation.bits, 1.0).word_bits(sum(experiment.roster().weights.values()))


def _update(experiment: Experiment, update: AdapterState) -> wire.Message:
    """A message of the size that an update has."""
    width = _word_bits(experiment)
    if width is not None:
        return wire.SecureReply(
            run_id=_run_id(experiment.job),
            round_index=experiment.job.federation.rounds - 1,
            stage="mask",
            site=max((site.name for site in experiment.sites), key=len),
            payload=bytes(MASKED_OVERHEAD_BYTES + packed_bytes(update.size_bytes // 4, width)),
        )
    return wire.PlainUpdate(
        run_id=_run_id(experiment.job),
        round_index=experiment.job.federation.rounds - 1,
        site=max((site.name for site in experiment.sites), key=len),
        payload=update.to_bytes(),
    )


def _run_id(job: JobConfig) -> str:
    """As long as a run's own."""
    return f"{job.name}-{'0' * 12}"


def _epsilon(job: JobConfig, noise: float | None, rounds: int) -> float | None:
    if noise is None:
        return None
    event = SampledGaussian(job.training.sampling_rate, noise, job.training.local_steps)
    return epsilon([(event, rounds)], job.privacy.delta, job.privacy.accountant)
