"""What the settings of a job usually are: one table, by which an operator is shown what is out of the usual.

Nothing is refused by it. What no job may have, the job's own settings and the site's policy rule out; between the two a
job may be honest and yet worth a question to its coordinator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from yoriai.config import JobConfig


@dataclass(frozen=True)
class Usual:
    """The usual values of one number.

    Attributes:
        least, most: both of them usual.
        why: what it may mean for the site's records to be beyond either.
    """

    least: float
    most: float
    why: str

    def objection(self, value: float) -> str:
        """What is unusual about a value, in words; empty if nothing is."""
        if self.least <= value <= self.most:
            return ""
        return f"{self.least:g} to {self.most:g} is usual; {self.why}"


_ROUNDING = "extreme scales are how a job could try to have the noise lost in rounding"
USUAL: Final[Mapping[str, Usual]] = MappingProxyType(
    {
        "privacy.epsilon": Usual(0.01, 10.0, "above it the guarantee says little about a record"),
        "privacy.delta": Usual(0.0, 1e-5, "at 1 / (records of the site) and above, a record may be published whole"),
        "noise_multiplier": Usual(0.3, 100.0, "little noise is made up for by drawing few records, or by few rounds"),
        "privacy.clip_norm": Usual(1e-3, 100.0, _ROUNDING),
        "privacy.spare_rounds": Usual(0, 10, "each one is budget that the coordinator may spend on a repeated round"),
        "training.sampling_rate": Usual(1e-4, 1.0, "near 0 nothing is learnt"),
        "training.local_steps": Usual(1, 100, "each step is one more look at the records"),
        "training.learning_rate": Usual(1e-5, 100.0, _ROUNDING),
        "federation.server_learning_rate": Usual(1e-5, 100.0, _ROUNDING),
        "federation.rounds": Usual(1, 1000, "each round is one more look at the records"),
        "lora.rank": Usual(1, 256, "a larger adapter can hold more of single records"),
        "lora.alpha": Usual(0.1, 1024.0, _ROUNDING),
        "task.max_tokens": Usual(8, 4096, "it bounds what of a record is read, and memory and time"),
        "labels": Usual(2, 200, "a list made to find out what occurs has one label, or very many"),
    }
)


def numbers_of(job: JobConfig, noise_multiplier: float | None) -> dict[str, float]:
    """The numbers of a job that the table speaks of, by their names there. Those that do not apply are left out."""
    privacy, training = job.privacy, job.training
    numbers: dict[str, float] = {
        "training.sampling_rate": training.sampling_rate,
        "training.local_steps": training.local_steps,
        "training.learning_rate": training.learning_rate,
        "federation.server_learning_rate": job.federation.server_learning_rate,
        "federation.rounds": job.federation.rounds,
        "privacy.spare_rounds": privacy.spare_rounds,
        "task.max_tokens": job.task.max_tokens,
    }
    if not job.trains_head:
        numbers |= {"lora.rank": job.lora.rank, "lora.alpha": job.lora.alpha}
    if noise_multiplier is not None:
        numbers |= {
            "privacy.epsilon": privacy.epsilon,
            "privacy.delta": privacy.delta,
            "privacy.clip_norm": privacy.clip_norm,
            "noise_multiplier": noise_multiplier,
        }
    if job.task.kind == "classify":
        numbers["labels"] = len(job.task.labels)
    return numbers


def unusual(job: JobConfig, noise_multiplier: float | None) -> dict[str, str]:
    """What is out of the usual in a job, in words, by the name of the setting; empty if nothing is."""
    found = {
        name: f"{name} = {value:g}: {objection}"
        for name, value in numbers_of(job, noise_multiplier).items()
        if (objection := USUAL[name].objection(value))
    }
    if noise_multiplier is None:
        found["privacy.noise"] = "privacy.noise = none: what single records say can be read from updates"
    if not job.secure_aggregation.enabled:
        found["secure_aggregation.enabled"] = "secure_aggregation.enabled = false: the coordinator reads single updates"
    return found
