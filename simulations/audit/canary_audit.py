"""`yoriai audit`: attacks on the project's own training, and what they prove about the epsilon that it claims.

    white-box         canaries that are gradients: some through the job's rounds, others through one step on every
                      record with the noise of the same epsilon; one bound for both
    probes            the same releases searched for faults: many guesses, noise that repeats or is too little
    control           the full step, with the noise left out and the clip kept: the attack must win
    random directions an estimate of epsilon from one release, in place of a bound
    black-box         records of a wrong label, judged by their loss; and again without privacy
    membership        how well a loss threshold finds the members among the records as they are

Every number of guesses is fixed before any score is seen.
"""

import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yoriai.client.base.base_model import choose_device, load_base, wrap_base
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, override
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.dp.empirical_epsilon import (
    Guesses,
    epsilon_from_cosines,
    guess,
    likelihood_scores,
    plan_guesses,
    spread_scores,
)
from yoriai.privacy.dp.randomness import RandomSource, SystemSource
from yoriai.simulations.audit import attack_records
from yoriai.simulations.audit.attack import Carrier, Dirac, Directions, Noiseless, RandomDirections, attack, for_attack
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.machine import machine, versions
from yoriai.simulations.experiment.observers import Observer, Silent
from yoriai.simulations.scenarios.tiny import tiny_llama, tiny_tokenizer

TINY = "tiny"
# An adapter with room for 5,000 canaries that do not overlap, on a base of 4 layers and width 32.
TINY_SETTINGS: dict[str, object] = {
    "base.model": TINY,
    "federation.rule": "core",
    "lora.rank": 16,
    "lora.alpha": 16.0,
    "lora.layers": "all",
}

# What the bound of the control must exceed, or the audit has no teeth.
LEAST_CONTROL = 4.0

_PRIVACY: dict[str, dict[str, object]] = {"with_privacy": {}, "without_privacy": {"privacy.noise": "none"}}
# Standard errors by which the noise that canaries outside saw may differ from what was charged.
_DOUBT = 5.0


@dataclass(frozen=True)
class AuditPlan:
    """What an audit is to do.

    Attributes:
        canaries: gradients, white-box.
        directions: random ones, for the estimate.
        records: candidates, black-box; 0 leaves that part out.
        carriers: real records that the white-box canaries ride beside.
        hostile: the gradients' part at settings and factors that only a hostile coordinator would choose.
        source: of coins, directions, sampling and noise; a seeded one is for tests only.
    """

    canaries: int = 5000
    directions: int = 500
    records: int = 400
    carriers: int = 8
    hostile: bool = False
    confidence: float = 0.95
    source: RandomSource = field(default_factory=SystemSource)


def base_for(job: JobConfig, observer: Observer | None = None) -> ModelSession:
    """A session on the job's base, or on random weights where the job names `tiny`."""
    device = choose_device(job.speed.device)
    if job.base.model == TINY:
        tokenizer = tiny_tokenizer()
        return ModelSession(wrap_base(TINY, tiny_llama(tokenizer), tokenizer, device=device), job.speed)
    told = observer or Silent()
    told.advance("loading the base model", 0, 0)
    base = load_base(
        job.base.model,
        device=device,
        expected_digest=job.base.digest,
        progress=lambda what, done, total: told.advance(f"base model: {what}", done, total),
    )
    return ModelSession(base, job.speed)


def audit(
    experiment: Experiment, session: ModelSession, asked: AuditPlan, observer: Observer | None = None
) -> dict[str, Any]:
    """Attack the job and return the findings as plain values for JSON.

    `refuted` says that something contradicts the ledger: a bound above its epsilon, or too little noise. Without
    `control_holds` the audit would not have noticed.

    Raises:
        ConfigError: the job claims no privacy, or has too few coordinates for that many canaries.
        YoriaiError: as a training.
    """
    observer, started = observer or Silent(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="yoriai-audit-") as folder:
        found = _gradients(experiment, session, asked, Path(folder), observer)
        if asked.records:
            found |= _records(experiment, session, asked, Path(folder), observer)
    white, control = found["white_box"], found.pop("control")
    black, membership = found.get("black_box"), found.get("membership")
    trainings = (white["job_rounds"], white["full_step"])
    ledger = max(part["epsilon_ledger"] for part in trainings)
    probes = [probe for part in trainings for probe in (part, *part["probes"].values())] + [
        p for p in (white, black) if p
    ]
    refuted = _refuted(probes, ledger, experiment.job.privacy.delta, asked.confidence)
    return {
        "epsilon_ledger": ledger,
        "epsilon_lower_white_box": white["job_rounds"]["epsilon_lower"],
        "epsilon_lower_black_box": black["epsilon_lower"] if black else None,
        "confidence": asked.confidence,
        "tpr_at_1pct_fpr": membership["with_privacy"]["tpr_at_1pct_fpr"] if membership else None,
        "control": control,
        "refuted": refuted or any(part["noise_refuted"] for part in trainings),
        "control_holds": control["epsilon_lower_white_box"] > max(LEAST_CONTROL, white["epsilon_lower"]),
        **found,
        "settings": _settings(experiment.job, asked, session),
        "machine": machine(),
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 1),
    }


def _gradients(
    experiment: Experiment, session: ModelSession, asked: AuditPlan, folder: Path, observer: Observer
) -> dict[str, Any]:
    """White-box, its control, and the estimate from random directions."""
    smallest = min(experiment.sites, key=lambda site: len(site.train))

    def carrier(what: str, *, full_batch: bool = False) -> Carrier:
        observer.say(f"audit    {what}")
        return Carrier(
            for_attack(experiment.job, full_batch=full_batch, hostile=asked.hostile),
            session,
            smallest.train[: asked.carriers],
            folder,
            lambda done, total: observer.advance("rounds", done, total),
            asked.hostile,
        )

    rides = carrier(f"white-box, {asked.canaries} canaries through the job's rounds")
    directions = Dirac(asked.canaries, rides.dimension, asked.source)
    rounds, guessed = _white_box(rides, directions, asked)
    step, guessed_of_step = _white_box(
        carrier("white-box, one step on every record", full_batch=True), directions, asked
    )
    return {
        "white_box": {**_judged(guessed + guessed_of_step, rides, asked), "job_rounds": rounds, "full_step": step},
        "control": _control(carrier("control: noise off, clip on", full_batch=True), directions, asked),
        "random_directions": _random_directions(carrier(f"{asked.directions} random directions"), asked),
    }


def _white_box(rides: Carrier, directions: Directions, asked: AuditPlan) -> tuple[dict[str, Any], Guesses]:
    """One training, and what it says of epsilon and of the noise."""
    event, delta = rides.event, rides.job.privacy.delta
    made = plan_guesses(len(directions), event, delta=delta, confidence=asked.confidence)
    included = asked.source.uniform(len(directions)) < 0.5
    seen = attack(rides, directions, included, asked.source)
    scores = likelihood_scores(seen.products, rides.round_event)
    found = guess(scores, included, made)
    # So few guesses as are best for an honest trainer cannot prove a gross fault; half of the canaries can.
    many = guess(scores, included, _half(directions))
    repeated = guess(spread_scores(seen.products), included, _half(directions))
    values = {
        "epsilon_ledger": seen.epsilon_ledger,
        **_judged(found, rides, asked),
        "trained_dimension": seen.dimension,
        "sampling_rate": event.sampling_rate,
        "steps": event.steps,
        "noise_multiplier": event.noise_multiplier,
        **_noise(seen.products[:, ~included], rides.round_event),
        "probes": {"many_guesses": _judged(many, rides, asked), "repeated_noise": _judged(repeated, rides, asked)},
    }
    return values, found


def _noise(outside: np.ndarray, event: Event) -> dict[str, Any]:
    """The noise as canaries outside saw it, (rounds, canaries): how much there is, and whether it is fresh each round.

    What they see is that noise and next to nothing of the real records, so a shortfall or a correlation beyond
    `_DOUBT` standard errors is a fault.
    """
    measured = float(outside.std() / math.sqrt(event.steps))
    least = event.noise_multiplier * (1.0 - _DOUBT / math.sqrt(2.0 * outside.size))
    alike = np.corrcoef(outside)[np.triu_indices(len(outside), 1)] if len(outside) > 1 else np.zeros(1)
    correlation = float(np.abs(alike).max())
    return {
        "noise_multiplier_measured": measured,
        "noise_correlation": correlation,
        "noise_refuted": measured < least or correlation > _DOUBT / math.sqrt(outside.shape[1]),
    }


def _control(rides: Carrier, directions: Directions, asked: AuditPlan) -> dict[str, Any]:
    """The same attack where the noise is zero, with as many guesses as the probe that would prove it."""
    included = asked.source.uniform(len(directions)) < 0.5
    seen = attack(rides, directions, included, Noiseless(asked.source))
    found = guess(likelihood_scores(seen.products, rides.round_event), included, _half(directions))
    judged = _judged(found, rides, asked)
    clip_norm = rides.job.privacy.clip_norm
    return {
        "epsilon_lower_white_box": judged.pop("epsilon_lower"),
        "noise_multiplier": 0.0,
        "clip_norm": clip_norm,
        **judged,
    }


def _random_directions(rides: Carrier, asked: AuditPlan) -> dict[str, Any]:
    """Directions that are all in: nearly free, and an estimate."""
    directions = RandomDirections(asked.directions, rides.dimension, asked.source)
    seen = attack(rides, directions, np.ones(len(directions), np.bool_), asked.source)
    return {
        "directions": len(directions),
        "cosine_mean": float(seen.cosines.mean()),
        "cosine_deviation": float(seen.cosines.std(ddof=1)),
        "null_deviation": float(seen.dimension**-0.5),
        "epsilon_estimate": epsilon_from_cosines(seen.cosines, seen.dimension, rides.job.privacy.delta),
    }


def _half(directions: Directions) -> int:
    """Guesses on half of the canaries, an even number."""
    return 2 * (len(directions) // 4)


def _refuted(probes: list[dict[str, Any]], ledger: float, delta: float, confidence: float) -> bool:
    """Whether any bound is above the ledger's epsilon, the chance of a false alarm shared out over all of them."""
    each = 1.0 - (1.0 - confidence) / len(probes)
    guesses = (Guesses(probe["canaries"], probe["guesses"], probe["correct"]) for probe in probes)
    return any(found.epsilon_lower(delta=delta, confidence=each) > ledger for found in guesses)


def _judged(found: Guesses, rides: Carrier, asked: AuditPlan) -> dict[str, Any]:
    """Guesses, and the epsilon that they refute."""
    return {
        "epsilon_lower": found.epsilon_lower(delta=rides.job.privacy.delta, confidence=asked.confidence),
        "canaries": found.canaries,
        "guesses": found.made,
        "correct": found.correct,
    }


def _records(
    experiment: Experiment, session: ModelSession, asked: AuditPlan, folder: Path, observer: Observer
) -> dict[str, Any]:
    """Black-box and membership, each with the job's privacy and without any."""
    job = experiment.job
    found = attack_records.candidates(job, experiment.sites, asked.records, asked.source)
    rides = Carrier(for_attack(job), session, (), folder)
    canaries = int(found.canary.sum())
    made = plan_guesses(canaries, rides.event, delta=job.privacy.delta, confidence=asked.confidence)
    before = attack_records.losses_before(job, session, found)
    black, members = {}, {}
    for name, settings in _PRIVACY.items():
        observer.say(f"audit    black-box, {len(found.records)} records, {name.replace('_', ' ')}")
        private = override(job, settings)
        measured = attack_records.losses(private, session, found, folder / name, observer, before=before)
        gained = (measured.before - measured.after)[found.canary]
        black[name] = _judged(guess(gained, found.included[found.canary], made), rides, asked)
        black[name]["epsilon_ledger"] = measured.epsilon_ledger
        members[name] = attack_records.membership(measured, found)
    without = black["without_privacy"]
    return {"black_box": {**black["with_privacy"], "without_privacy": without}, "membership": members}


def _settings(job: JobConfig, asked: AuditPlan, session: ModelSession) -> dict[str, Any]:
    return {
        "job": job.name,
        "base": session.base.name,
        "rule": job.trained_by,
        "epsilon": job.privacy.epsilon,
        "delta": job.privacy.delta,
        "noise": job.privacy.noise,
        "unit": "record, add or remove one",
        "sampling_rate": job.training.sampling_rate,
        "rounds": job.federation.rounds,
        "spare_rounds": job.privacy.spare_rounds,
        "clip_norm": job.privacy.clip_norm,
        "carriers": asked.carriers,
        "hostile": asked.hostile,
    }
