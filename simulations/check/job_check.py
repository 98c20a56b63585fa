"""`yoriai job check`: what a job will do, spend, move and take. One step is timed; nothing that is trained is kept.

Nothing here needs the base: what only it can tell comes with the `Findings`, which an earlier check may have left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoriai.client.records.records import is_site
from yoriai.config import JobConfig, PolicySection, override
from yoriai.privacy.dp.accounting import Accountant, Event, epsilon
from yoriai.privacy.dp.wording import epsilon_text, terms
from yoriai.privacy.job_terms.noise import all_rounds
from yoriai.privacy.ledger.book import Book, Policy
from yoriai.privacy.ledger.rule import BudgetRule
from yoriai.simulations.check.estimate import Estimate, estimate
from yoriai.simulations.check.findings import Findings
from yoriai.simulations.check.kept_findings import findings_of
from yoriai.simulations.check.lengths import SiteLengths, distribution
from yoriai.simulations.check.noise_modes import NoiseModes, compare_noise, noise_line
from yoriai.simulations.check.size_lines import estimate_lines, length_lines
from yoriai.simulations.check.traffic import Traffic, traffic
from yoriai.simulations.experiment.description import describe
from yoriai.simulations.experiment.experiment import (
    DataSource,
    Experiment,
    accountant_of,
    event_of,
    noise_multiplier,
    resolve,
)
from yoriai.simulations.experiment.observers import Observer, Silent
from yoriai.simulations.report.html import size_text
from yoriai.strategies.rule import largest_update, rule_of


@dataclass(frozen=True)
class Check:
    """What `check` found out.

    Attributes:
        n_params: entries that a site sends in a round, at most.
        modes: what noise the opened sum would carry in each mode; None without privacy.
        accountant: what added these up; None without privacy.
        epsilon: of all rounds without the spare ones; None without privacy.
        epsilon_with_spares: of all rounds and spare ones.
        jobs_that_fit: such jobs in the budget of a site with the default policy; None without privacy.
        alike: sites that one site's own records stood for; 0 where each had its own.
    """

    experiment: Experiment
    findings: Findings
    n_params: int
    noise_multiplier: float | None
    modes: NoiseModes | None
    accountant: Accountant | None
    epsilon: float | None
    epsilon_with_spares: float | None
    jobs_that_fit: int | None
    traffic: Traffic
    estimate: Estimate
    alike: int = 0

    @property
    def site_lengths(self) -> dict[str, SiteLengths]:
        """Of each site's records, by the site's name; of one site where all are alike."""
        sites = self.experiment.sites[: 1 if self.alike else None]
        return {site.name: lengths for site, lengths in zip(sites, self.findings.lengths, strict=False)}


def check(
    job: JobConfig,
    source: DataSource,
    settings: Mapping[str, object] | None = None,
    observer: Observer | None = None,
    *,
    keep: bool = False,
    anew: bool = False,
) -> Check:
    """Validate job and records together.

    Args:
        keep, anew: as `findings_of`.

    Raises:
        YoriaiError: the first thing that would stop a run, with its remedy.
    """
    observer = observer or Silent()
    observer.advance("reading the records", 0, 0)
    if source.path is not None and is_site(source.path):  # One has no other site's records at a site.
        source = replace(source, alike=max(2, override(job, settings or {}).federation.min_sites))
    experiment = resolve(job, source, settings)
    job = experiment.job
    findings = findings_of(experiment, observer, keep=keep, anew=anew)
    observer.advance("adding up the privacy", 0, 0)
    adapter, sites = findings.blank_adapter(), len(experiment.sites)
    n_params = largest_update(rule_of(job), adapter)
    noise = noise_multiplier(job, n_params, sites)
    event = event_of(job, noise, n_params, sites)
    return Check(
        experiment=experiment,
        findings=findings,
        n_params=n_params,
        noise_multiplier=noise,
        modes=compare_noise(job, n_params, sites),
        accountant=accountant_of(job, event),
        epsilon=_epsilon(job, event, job.federation.rounds),
        epsilon_with_spares=_epsilon(job, event, all_rounds(job)),
        jobs_that_fit=None if event is None else _default_rule(job).jobs_that_fit(Book(), event, all_rounds(job)),
        traffic=traffic(experiment, findings.base_digest, adapter, noise),
        alike=source.alike,
        estimate=estimate(job, findings),
    )


def print_check(found: Check, console: Console) -> None:
    """Show it."""
    job, experiment = found.experiment.job, found.experiment
    training, federation = job.training, job.federation
    moved = found.traffic
    lines = [
        *map(Text, describe(experiment, found.findings.base_digest, sum(found.findings.cut))),
        *([Text(f"sites    one site's own records, checked as {found.alike} sites alike")] if found.alike else []),
        *length_lines(found.site_lengths, found.findings.limit),
        Text(
            f"training {job.trained_by}, {found.n_params:,} parameters, {federation.rounds} rounds of "
            f"{training.local_steps} local step{'s' * (training.local_steps > 1)}, sampling rate "
            f"{training.sampling_rate:g}"
        ),
        _privacy_line(found),
        *([] if found.jobs_that_fit is None else [_budget_line(job, found.jobs_that_fit)]),
        *([] if found.modes is None else [Text(noise_line(job, found.modes))]),
        Text(
            f"traffic  to each site {size_text(moved.bytes_offer)} once; each round {size_text(moved.bytes_down)} "
            f"down and {size_text(moved.bytes_up)} up"
        ),
        _secure_line(found),
        *estimate_lines(found.estimate),
    ]
    for line in lines:
        console.print(line, highlight=False)
    console.print()
    console.print(_table(found))


def _secure_line(found: Check) -> Text:
    moved = found.traffic
    if moved.word_bits is None:
        return Text("secure aggregation is off: the coordinator can read single updates", style="bold red")
    if found.experiment.job.privacy.noise == "distributed":
        return Text(
            f"masking  whole numbers in words of {moved.word_bits} bits, {moved.entries:,} of them (the next power of "
            f"two); {moved.word_bits / 8:g} bytes each; keys and shares come on top"
        )
    bits, weight = found.experiment.job.secure_aggregation.bits, sum(found.experiment.roster().weights.values())
    return Text(
        f"masking  {bits} bits a value in words of {moved.word_bits} bits (weights add up to {weight}), "
        f"{moved.word_bits / 8:g} bytes a parameter; keys and shares come on top"
    )


def _privacy_line(found: Check) -> Text:
    job = found.experiment.job
    if found.noise_multiplier is None:
        return Text("no differential privacy: privacy.noise is none", style="bold red")
    return Text(
        f"privacy  noise multiplier {found.noise_multiplier:.4f}: epsilon {epsilon_text(found.epsilon, 3)} for "
        f"{job.federation.rounds} rounds, {epsilon_text(found.epsilon_with_spares, 3)} with {job.privacy.spare_rounds} "
        f"spare, at delta {job.privacy.delta:g}, {terms(job.privacy.unit, found.accountant)}"
    )


def _default_rule(job: JobConfig) -> BudgetRule:
    """What counts at a site that left its policy as it comes, but for the unit, which job and site agree on."""
    policy = PolicySection()
    return BudgetRule(Policy(policy.epsilon_budget, policy.delta, unit=job.privacy.unit))


def _budget_line(job: JobConfig, jobs: int) -> Text:
    policy = PolicySection()
    text = f"budget   {jobs} such job{'s' * (jobs != 1)} fit the default budget of a site, epsilon "
    text += f"{policy.epsilon_budget:g} at delta {policy.delta:g}"
    few = jobs < policy.planned_jobs
    return Text(text + f"; it is meant for {policy.planned_jobs}" * few, style="bold yellow" if few else "")


def _table(found: Check) -> Table:
    experiment, weights = found.experiment, found.experiment.roster().weights
    table = Table(box=None, pad_edge=False)
    table.add_column("site", overflow="fold")
    by_owner = experiment.job.privacy.unit == "owner"
    owners = experiment.unit_counts()
    for heading in ("train", *(["owners"] if by_owner else []), "test", "weight", "cut", "epsilon", "delta"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("median", "90 %", "longest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for site, lengths, cut in zip(experiment.sites, found.site_lengths.values(), found.findings.cut, strict=False):
        tokens = distribution(lengths.every, found.findings.limit)
        table.add_row(
            Text(site.shown),
            str(len(site.train)),
            *([str(owners[site.name])] if by_owner else []),
            str(len(site.test)),
            str(weights[site.name]),
            str(cut),
            epsilon_text(found.epsilon, 3),
            "-" if found.epsilon is None else f"{experiment.job.privacy.delta:g}",
            *(str(length) for length in (tokens.median, tokens.ninetieth, tokens.longest)),
        )
    return table


def _epsilon(job: JobConfig, event: Event | None, rounds: int) -> float | None:
    if event is None:
        return None
    return epsilon([(event, rounds)], job.privacy.delta, job.privacy.accountant)
