"""`yoriai job check`: what a job will do, spend and move, without training a step."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from yoriai.client.base_model import choose_device, load_base
from yoriai.client.workbench import Workbench
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.accounting import SampledGaussian, epsilon
from yoriai.simulations.experiment import DataSource, Experiment, noise_multiplier, resolve
from yoriai.simulations.report_html import size_text
from yoriai.strategies.rule import get_rule


@dataclass(frozen=True)
class Check:
    """What `check` found out.

    Attributes:
        epsilon: of all rounds without the spare ones; None without privacy.
        epsilon_with_spares: of all rounds and spare ones.
        cut: records that are cut to task.max_tokens, by site.
        bytes_offer: of the adapter that travels once to each site.
        bytes_round: of the factors that travel each way in a round, at most.
        parameters: trained in a round, at most.
    """

    experiment: Experiment
    noise_multiplier: float | None
    epsilon: float | None
    epsilon_with_spares: float | None
    cut: dict[str, int]
    bytes_offer: int
    bytes_round: int
    parameters: int


def check(job: JobConfig, source: DataSource, settings: Mapping[str, object] | None = None) -> Check:
    """Validate job and records together.

    Raises:
        YoriaiError: the first thing that would stop a run, with its remedy.
    """
    experiment = resolve(job, source, settings)
    job = experiment.job
    for site in experiment.sites:
        if job.privacy.noise != "none" and job.privacy.delta >= 1 / max(1, len(site.train)):
            raise ConfigError(
                f"privacy.delta is not below 1 / (training records of site {site.name})",
                found=f"{job.privacy.delta:g}",
                expected=f"below {1 / max(1, len(site.train)):.3g}",
                remedy="lower privacy.delta",
            )
    base = load_base(job.base.model, device=choose_device(job.speed.device), expected_digest=job.base.digest)
    workbench = Workbench(base, job.speed)
    rule = get_rule(job.federation.rule)
    initial = workbench.initial_adapter(job)
    moving = [initial.select(rule.trainable(index)) for index in range(2)]
    noise = noise_multiplier(job)
    return Check(
        experiment=experiment,
        noise_multiplier=noise,
        epsilon=_epsilon(job, noise, job.federation.rounds),
        epsilon_with_spares=_epsilon(job, noise, job.federation.rounds + job.privacy.spare_rounds),
        cut={site.name: workbench.encode(site.train, job.task).cut for site in experiment.sites},
        bytes_offer=initial.size_bytes,
        bytes_round=max(state.size_bytes for state in moving),
        parameters=max(state.size_bytes for state in moving) // 4,
    )


def print_check(found: Check, console: Console) -> None:
    """Show it."""
    job, experiment = found.experiment.job, found.experiment
    console.print(f"[bold]{job.name}[/]: {job.task.kind}. {experiment.reason}", highlight=False)
    console.print(
        f"rule {job.federation.rule}, {found.parameters:,} parameters trained, {job.federation.rounds} rounds of "
        f"{job.training.local_steps} local steps at sampling rate {job.training.sampling_rate:g}",
        highlight=False,
    )
    if found.noise_multiplier is None:
        console.print("[bold red]no differential privacy[/]: privacy.noise is none", highlight=False)
    else:
        console.print(
            f"noise multiplier {found.noise_multiplier:.4f}: epsilon {found.epsilon:.3f} for "
            f"{job.federation.rounds} rounds, "
            f"{found.epsilon_with_spares:.3f} with {job.privacy.spare_rounds} spare, at delta {job.privacy.delta:g}, "
            "per record, add or remove one",
            highlight=False,
        )
    console.print("[bold red]secure aggregation is off[/]: the coordinator can read single updates", highlight=False)
    console.print(
        f"to each site {size_text(found.bytes_offer)} once, then {size_text(found.bytes_round)} a round each way",
        highlight=False,
    )
    table = Table("site", "train", "test", "weight", "cut", "epsilon", "delta", box=None, pad_edge=False)
    for site in experiment.sites:
        table.add_row(
            site.name,
            str(len(site.train)),
            str(len(site.test)),
            str(experiment.roster().weights[site.name]),
            str(found.cut[site.name]),
            "none" if found.epsilon is None else f"{found.epsilon:.3f}",
            "-" if found.epsilon is None else f"{job.privacy.delta:g}",
        )
    console.print(table)


def _epsilon(job: JobConfig, noise: float | None, rounds: int) -> float | None:
    if noise is None:
        return None
    event = SampledGaussian(job.training.sampling_rate, noise, job.training.local_steps)
    return epsilon([(event, rounds)], job.privacy.delta, job.privacy.accountant)
