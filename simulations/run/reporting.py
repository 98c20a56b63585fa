"""From what a run left behind to its report."""

import datetime
import math
import resource
import sys
from collections import Counter
from dataclasses import dataclass, field

import yoriai
from yoriai.client.model.measure import Tally
from yoriai.client.records.units import owner_name
from yoriai.client.session.model_session import ModelSession
from yoriai.privacy.dp.wording import adjacency
from yoriai.privacy.job_terms.noise import honest_shares
from yoriai.server.round.manifest import RoundRecord
from yoriai.simulations.experiment.description import base_of
from yoriai.simulations.experiment.experiment import Experiment, accountant_of, event_of
from yoriai.simulations.report.report import (
    PERSONAL,
    TRAININGS,
    AdapterReport,
    Privacy,
    Refusal,
    Report,
    RoundReport,
    Sample,
    Score,
    SiteReport,
    Task,
)
from yoriai.simulations.run.measuring import Measurements, TestBench, paired, score, together
from yoriai.simulations.run.pairing import against, changed
from yoriai.simulations.run.personal_adapters import Personal
from yoriai.simulations.run.simulated_federation import Outcome
from yoriai.strategies.rule import largest_update, rule_of

_METRICS = {
    "classify": ("accuracy", "macro_f1", "loss"),
    "instruct": ("exact_match", "token_f1", "chrf", "loss", "bits_per_byte"),
    "lm": ("bits_per_byte", "loss"),
}


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        seconds, site_seconds: over all sessions of the run.
        cut: records longer than the task allows, by site.
        personal: what the sites' own adapters came to.
        samples: answers side by side; empty where they are left out.
    """

    kept: Measurements
    bench: TestBench
    seconds: dict[str, float]
    site_seconds: dict[str, float]
    cut: dict[str, int]
    engine: str
    personal: Personal = field(default_factory=Personal)
    samples: tuple[Sample, ...] = ()


def build_report(
    experiment: Experiment,
    session: ModelSession,
    outcome: Outcome,
    measured: Measured,
    *,
    created: datetime.datetime,
) -> Report:
    """The whole report of a finished run."""
    job, kept = experiment.job, measured.kept
    return Report(
        name=job.name,
        created=created.isoformat(),
        yoriai_version=yoriai.__version__,
        status="partial" if outcome.checkpoint.ended_early else "done",
        engine=measured.engine,
        task=Task(
            kind=job.task.kind,  # type: ignore[arg-type]
            reason=experiment.reason,
            labels=job.task.labels,
            metrics=_METRICS[job.task.kind],
        ),
        base=base_of(session.base.name, session.base.digest),
        data=experiment.data,
        job=job.model_dump(mode="json", by_alias=True),
        privacy=_privacy(experiment, outcome),
        overall=_overall(experiment, measured),
        paired=paired(_all(kept, "base"), _all(kept, "federated")),
        paired_personal=paired(_all(kept, "federated"), _all(kept, PERSONAL)) if PERSONAL in kept else None,
        against=against(measured.bench, kept),
        sites=tuple(_site(experiment, outcome, measured, name) for name in sorted(experiment.roster().weights)),
        rounds=tuple(_round(record, experiment, outcome, measured) for record in outcome.checkpoint.rounds),
        seconds=_seconds(measured),
        peak_memory_mb=peak_memory_mb(),
        adapter=_adapter(experiment, outcome),
        notes=(*_notes(experiment, outcome, measured.cut), *_personal_notes(experiment, measured)),
        samples=measured.samples,
    )


def _privacy(experiment: Experiment, outcome: Outcome) -> Privacy:
    job = experiment.job
    steps = job.federation.rounds * job.training.local_steps
    masked = job.secure_aggregation.enabled
    if job.privacy.noise == "none":
        return Privacy(
            noise="none",
            sampling_rate=job.training.sampling_rate,
            steps=steps,
            unit=job.privacy.unit,
            adjacency=adjacency(job.privacy.unit),
            secure_aggregation=masked,
        )
    shares = job.privacy.noise == "distributed"
    n_params = largest_update(rule_of(job), outcome.checkpoint.adapter)
    event = event_of(job, outcome.noise_multiplier, n_params, len(experiment.sites))
    return Privacy(
        noise=job.privacy.noise,
        honest_shares=honest_shares(job) if shares else None,
        colluding=job.privacy.colluding if shares else None,
        epsilon_target=job.privacy.epsilon,
        delta=job.privacy.delta,
        noise_multiplier=outcome.noise_multiplier,
        unit=job.privacy.unit,
        adjacency=adjacency(job.privacy.unit),
        clip_norm=job.privacy.clip_norm,
        sampling_rate=job.training.sampling_rate,
        steps=steps,
        accountant=accountant_of(job, event),
        secure_aggregation=masked,
    )


def _overall(experiment: Experiment, measured: Measured) -> dict[str, Score]:
    kind = experiment.job.task.kind
    scores: dict[str, Score] = {}
    for training in TRAININGS:
        if training == "majority" and kind == "classify":
            scores[training] = score(measured.bench.overall_majority(), kind)
        elif training in measured.kept:
            scores[training] = score(_all(measured.kept, training), kind)
    if PERSONAL in measured.kept:
        scores[PERSONAL] = score(_all(measured.kept, PERSONAL), kind)
    return scores


def _site(experiment: Experiment, outcome: Outcome, measured: Measured, name: str) -> SiteReport:
    job, kept, kind = experiment.job, measured.kept, experiment.job.task.kind
    records = next(site for site in experiment.sites if site.name == name)
    majorities = measured.bench.majorities() if kind == "classify" else {}
    scores: dict[str, Score] = {
        str(training): score(kept[training].get(name), kind)
        for training in TRAININGS
        if training != "majority" and training in kept
    }
    rounds = outcome.checkpoint.rounds
    spent, own = measured.personal.epsilon.get(name), kept[PERSONAL].get(name) if PERSONAL in kept else None
    return SiteReport(
        name=records.shown,
        identifier=name if records.given_name else None,
        train_records=len(records.train),
        test_records=len(records.test),
        owners=experiment.unit_counts()[name] if job.privacy.unit == "owner" else None,
        weight=experiment.roster().weights[name],
        epsilon=outcome.epsilon.get(name) if spent is None else spent.job,
        delta=job.privacy.delta if name in outcome.epsilon else None,
        bytes_up=sum(record.bytes_up.get(name, 0) for record in rounds),
        bytes_down=sum(record.bytes_down.get(name, 0) for record in rounds),
        seconds=round(measured.site_seconds.get(name, 0.0), 3),
        majority=score(majorities[name], kind) if name in majorities else None,
        paired=paired(kept["base"].get(name), kept["federated"].get(name)),
        changes=changed(kept["base"], kept["federated"], [name]),
        personal=None if own is None else score(own, kind),
        paired_personal=paired(kept["federated"].get(name), own),
        epsilon_personal=None if spent is None else spent.personal,
        epsilon_together=None if spent is None else spent.together,
        accountant_together=None if spent is None else spent.accountant,
        **scores,
    )


def _round(record: RoundRecord, experiment: Experiment, outcome: Outcome, measured: Measured) -> RoundReport:
    number = record.round_index + 1
    is_last = number == len(outcome.checkpoint.rounds)
    tallies = measured.kept["federated"] if is_last else measured.kept.by_round().get(number)
    total = together(tallies) if tallies else None
    loss = None if total is None or math.isnan(total.loss) else total.loss
    return RoundReport(
        round=number,
        sites=tuple(map(experiment.shown, record.answered)),
        refused=tuple(Refusal(site=experiment.shown(site), reason=reason) for site, reason in record.refused),
        loss=loss,
        accuracy=None if total is None else total.accuracy,
        epsilon=_epsilon_after(outcome, number),
        update_norm=record.update_norm,
        clipped=record.clipped,
        voided=len(record.voided),
        seconds=record.seconds,
        bytes_up=sum(record.bytes_up.values()),
        bytes_down=sum(record.bytes_down.values()),
    )


def _epsilon_after(outcome: Outcome, number: int) -> float | None:
    """The largest epsilon of any site after that many charges, where the ledgers' spending names it."""
    found = [epsilon for points in outcome.spending.values() for charges, epsilon in points if charges == number]
    return max(found) if found else None


def _all(kept: Measurements, training: str) -> Tally:
    """All sites' counts; where a site has no adapter of its own, the shared one answers there."""
    return together({**kept["federated"], **kept[PERSONAL]} if training == PERSONAL else kept[training])


def _seconds(measured: Measured) -> dict[str, float]:
    """The parts, and the overhead of coordinator and engine: training's wall time that no site accounts for."""
    seconds = {name: round(value, 3) for name, value in measured.seconds.items()}
    if measured.site_seconds:
        inside = sum(measured.site_seconds.values())
        seconds["sites"] = round(inside, 3)
        seconds["overhead"] = round(max(0.0, measured.seconds.get("train", 0.0) - inside), 3)
    return seconds


def _adapter(experiment: Experiment, outcome: Outcome) -> AdapterReport:
    job, adapter = experiment.job, outcome.checkpoint.adapter
    rule = rule_of(job)
    trained = adapter.select({factor for index in range(2) for factor in rule.trainable(index)})
    return AdapterReport(
        path="adapter",
        digest=adapter.digest(),
        rule=rule.name,
        rank=job.lora.rank,
        parameters_trained=trained.n_params,
        bytes=adapter.size_bytes,
    )


def _notes(experiment: Experiment, outcome: Outcome, cut: dict[str, int]) -> tuple[str, ...]:
    notes, ended = [], outcome.checkpoint
    if ended.ended_early:
        rounds = experiment.job.federation.rounds
        notes.append(f"Ended early after {ended.next_round} of {rounds} rounds: {ended.ended_early}.")
    if experiment.labels_from_records:
        notes.append(
            "The label set was read off all sites' records, which a real federation cannot do: list task.labels."
        )
    if any(cut.values()):
        listed = ", ".join(f"{experiment.shown(name)} {count}" for name, count in cut.items() if count)
        notes.append(f"Records longer than {experiment.job.task.max_tokens} tokens were cut: {listed}.")
    if experiment.job.privacy.unit == "owner":
        notes.append(_owners_note(experiment))
    small = [site.shown for site in experiment.sites if 0 < len(site.test) < 30]
    if small:
        notes.append(f"Too few test records for a judgement by itself: {', '.join(small)}.")
    notes += [
        f"Site {experiment.shown(site)} did not take part: {reason}" for site, reason in sorted(outcome.refused.items())
    ]
    return tuple(notes)


def _owners_note(experiment: Experiment) -> str:
    """What the unit does not cover: whoever stands at several sites."""
    sites = Counter(owner for site in experiment.sites for owner in {owner_name(record) for record in site.train})
    several = sum(count > 1 for count in sites.values())
    found = f"{several} of {len(sites)} owners have" if several else "no owner has"
    return (
        "Owners are protected at each site by itself: the costs of one whose records lie at several sites add up. "
        f"Here {found} training records at more than one."
    )


def _personal_notes(experiment: Experiment, measured: Measured) -> list[str]:
    """Who goes on with the shared adapter, and why."""
    return [
        f"Site {experiment.shown(site)} has no personal adapter and answers with the shared one: {reason}"
        for site, reason in sorted(measured.personal.without.items())
    ]


def peak_memory_mb() -> float:
    """Largest resident size of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)
