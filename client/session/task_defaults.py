"""What a job leaves open, filled in by its task.

A setting that the job names stays as it is. Which head answers a classify task is the first of these: a head that
trains, or fixed label vectors where the job names an aggregation rule, for then an adapter is what it wants to train.
"""

from typing import Any, Final

from yoriai.config import JobConfig, override
from yoriai.config.by_task import LABEL_VECTORS, TEXTS, TEXTS_BY_RULE, TRAINED_HEAD, Settings
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.privacy.job_terms.noise import all_rounds, honest_shares
from yoriai.strategies.rule import rule_of

# The step at which a head does best falls with the noise that all rounds together leave in the mean gradient.
# In all, over the rounds: of more rounds each is shorter.
_MOST_STEPS: Final = 160.0
_LEAST_STEPS: Final = 2.5
_SMALL_SITE: Final = 300  # Units.
_STEPS_AT: Final = (1e-3, 35.0)
_STEPS_POWER: Final = -0.75


def settled(job: JobConfig, *, sites: int | None = None, units: int | None = None) -> JobConfig:
    """The job with every setting of its task; its kind and, for classify, its labels stand already.

    Settled again it stays the same.

    Args:
        sites, units: as `head_rate`. Left out, those of the fewest sites that make a round, with as many units each as
            the job says where its noise is distributed, and as small sites have where it is not.

    Raises:
        ConfigError: no noise reaches the job's epsilon.
    """
    if job.task.kind == "auto":
        return job
    if job.task.kind == "classify" and job.task.head == "auto":
        names_rule = "rule" in job.federation.model_fields_set
        job = override(job, {"task.head": "labels" if names_rule else "trained"})
    job = _with(job, _defaults(job))
    if job.trains_head:
        least, unit = job.federation.min_sites, job.training.records_per_weight
        each = unit if job.privacy.noise == "distributed" else max(unit, _SMALL_SITE)
        rate = head_rate(job, sites=sites or least, units=units or least * each)
        job = _with(job, {"federation.server_learning_rate": rate})
    return job


def _defaults(job: JobConfig) -> Settings:
    """Of the job's task. A rate that the job names, or that its rule has of its own, has none beside it."""
    if job.trains_head:
        return TRAINED_HEAD
    found = LABEL_VECTORS if job.task.kind == "classify" else TEXTS if _of_texts(job) else TEXTS_BY_RULE
    whole = tuple(rule_of(job).server_optimizers) == ("none",)
    if whole or _named(job, "federation.server_learning_rate") or _named(job, "federation.server_optimizer"):
        return {key: value for key, value in found.items() if not key.startswith("federation.server_")}
    return found


def _of_texts(job: JobConfig) -> bool:
    """Whether fixed factors are of public texts. A job that names its rule, as stored ones do, has those it had."""
    if _named(job, "lora.factors"):
        return job.lora.factors == "public"
    return not _named(job, "federation.rule")


def _with(job: JobConfig, defaults: Settings) -> JobConfig:
    """The job with those of the settings that it does not name."""
    open_ones = {key: value for key, value in defaults.items() if not _named(job, key)}
    return override(job, open_ones) if open_ones else job


def _named(job: JobConfig, key: str) -> bool:
    table, setting = key.split(".")
    section: Any = getattr(job, table)
    return table in job.model_fields_set and setting in section.model_fields_set


def head_rate(job: JobConfig, *, sites: int, units: int) -> float:
    """The coordinator's step size for a head: the longer, the less noise there is; from public numbers alone.

    With s the deviation that the noise of all rounds together leaves in one entry of a round's mean gradient:
    35 · (1000 s)^(−3/4) over the rounds, between 2.5 and 160 over them. Fitted on the work orders.

    Args:
        sites: that are to take part.
        units: of privacy that they hold together, by the roster.
    """
    steps = _MOST_STEPS
    if job.privacy.noise != "none":
        multiplier = calibrated(job, n_params=len(job.task.labels) * job.head.features, sites=sites)
        assert multiplier is not None
        shares = honest_shares(job) if job.privacy.noise == "distributed" else 1
        batch = units * job.training.sampling_rate
        noise = multiplier * job.privacy.clip_norm * (sites / shares) ** 0.5 / batch
        at, wanted = _STEPS_AT
        steps = wanted * (noise / all_rounds(job) ** 0.5 / at) ** _STEPS_POWER
    return float(f"{min(_MOST_STEPS, max(_LEAST_STEPS, steps)) / job.federation.rounds:.2g}")
