"""What a job leaves open, filled in by its task: rates, rounds, layers. docs/benchmarks/heads.md says where from.

A setting that the job names stays as it is. Which head answers a classify task is the first of these: a head that
trains, or fixed label vectors where the job names an aggregation rule, for then an adapter is what it wants to train.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from yoriai.config import JobConfig, override
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.privacy.job_terms.noise import all_rounds, expected_batch, honest_shares

Settings = Mapping[str, object]

TRAINED_HEAD: Final[Settings] = MappingProxyType(
    {
        "training.sampling_rate": 1.0,
        "federation.rounds": 20,
        "federation.server_optimizer": "none",
        "evaluation.every": 5,
    }
)
LABEL_VECTORS: Final[Settings] = MappingProxyType(
    {
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.layers": "last:4",
        "training.sampling_rate": 0.25,
        "federation.rounds": 32,
        "federation.server_learning_rate": 0.045,
        "federation.server_learning_rate_without_noise": 0.02,
        "evaluation.every": 8,
    }
)
TEXTS: Final[Settings] = MappingProxyType(
    {
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.layers": "last:4",
        "training.sampling_rate": 0.25,
        "federation.rounds": 24,
        "federation.server_learning_rate": 0.015,
        "federation.server_learning_rate_without_noise": 0.02,
        "evaluation.every": 8,
    }
)

# The step at which a head does best falls with the noise that all rounds together leave in the mean gradient.
_RATE_WITHOUT_NOISE: Final = 8.0
_LEAST_RATE: Final = 0.25
_RATE_AT: Final = (1e-3, 3.5)
_RATE_POWER: Final = -0.75


def settled(job: JobConfig) -> JobConfig:
    """The job with every setting of its task; its kind and, for classify, its labels stand already.

    Settled again it stays the same.

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
        job = _with(job, {"federation.server_learning_rate": head_rate(job)})
    return job


def _defaults(job: JobConfig) -> Settings:
    if job.task.kind == "classify":
        return TRAINED_HEAD if job.trains_head else LABEL_VECTORS
    return TEXTS


def _with(job: JobConfig, defaults: Settings) -> JobConfig:
    """The job with those of the settings that it does not name."""
    open_ones = {key: value for key, value in defaults.items() if not _named(job, key)}
    return override(job, open_ones) if open_ones else job


def _named(job: JobConfig, key: str) -> bool:
    table, setting = key.split(".")
    section: Any = getattr(job, table)
    return table in job.model_fields_set and setting in section.model_fields_set


def with_own_rate(changed: JobConfig, settled_job: JobConfig) -> JobConfig:
    """A job made from a settled one by other sizes or noise, with the rate for these, unless the rate was named.

    A rate was named where it is another than what `head_rate` says; jobs that train no head stay as they are.
    """
    if not changed.trains_head or settled_job.federation.server_learning_rate != head_rate(settled_job):
        return changed
    return override(changed, {"federation.server_learning_rate": head_rate(changed)})


def head_rate(job: JobConfig) -> float:
    """The coordinator's step size for a head: the longer, the less noise there is, by what the job itself says.

    With s the deviation that the noise of all rounds together leaves in one entry of a round's mean gradient, for as
    many sites of weight 1 as make a round: 3.5 · (1000 s)^(−3/4), between 0.25 and 8. Fitted on the work orders.
    """
    if job.privacy.noise == "none":
        return _RATE_WITHOUT_NOISE
    sites = job.federation.min_sites
    multiplier = calibrated(job, n_params=len(job.task.labels) * job.head.features, sites=sites)
    assert multiplier is not None
    shares = honest_shares(job) if job.privacy.noise == "distributed" else 1
    noise = multiplier * job.privacy.clip_norm * (sites / shares) ** 0.5 / expected_batch(job, sites)
    at, rate = _RATE_AT
    wanted = rate * (noise / all_rounds(job) ** 0.5 / at) ** _RATE_POWER
    return float(f"{min(_RATE_WITHOUT_NOISE, max(_LEAST_RATE, wanted)):.2g}")
