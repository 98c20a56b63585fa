"""A job as it is handed to a server: complete, with the base model's digest and its first adapter.

It is made where the base model is (`yoriai job prepare`), because a server has none: the first adapter's fixed factors
may come from the base's weights. One file in the envelope of `wire.py`, which names its version.
"""

import json
from dataclasses import dataclass

from pydantic import ValidationError

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import ConfigError, WireError


@dataclass(frozen=True)
class PreparedJob:
    """A job that can be run.

    Attributes:
        job: with task kind and labels filled in.
        base_digest: SHA-256 of the base model, hexadecimal.
        adapter: the first adapter's bytes, fixed factors included.
        noise_multiplier: None without privacy, and as long as the job has met no roster: the noise may depend on how
            many sites there are.
    """

    job: JobConfig
    base_digest: str
    adapter: bytes
    noise_multiplier: float | None = None

    def as_message(self) -> wire.PreparedJobFile:
        """The file's content."""
        job = self.job.model_dump(mode="json", by_alias=True)
        return wire.PreparedJobFile(
            run_id="",
            job=job,
            base_digest=self.base_digest,
            noise_multiplier=self.noise_multiplier,
            payload=self.adapter,
        )


def read_prepared(data: bytes) -> PreparedJob:
    """The job in a file of `yoriai job prepare`.

    Raises:
        ConfigError: it is no such file, or of another version.
    """
    try:
        message = wire.decode(data)
    except WireError as error:
        raise ConfigError(
            "this is no prepared job", found=str(error), remedy="make it anew: yoriai job prepare JOB.toml"
        ) from None
    if not isinstance(message, wire.PreparedJobFile):
        raise ConfigError("this is no prepared job", found=f"a message of kind {message.kind}")
    try:
        job = JobConfig.model_validate_json(json.dumps(message.job))
    except ValidationError:
        raise ConfigError(
            "the prepared job was made by another version of Yoriai", remedy="make it anew: yoriai job prepare JOB.toml"
        ) from None
    return PreparedJob(job, message.base_digest, message.payload, message.noise_multiplier)


def check_complete(job: JobConfig) -> None:
    """Raise ConfigError if task kind or labels are left to the records."""
    if job.task.kind == "auto":
        raise ConfigError(
            "task.kind = auto looks at the records, and a server has none",
            expected="lm, instruct or classify",
            remedy="say what the sites' records teach",
        )
    if job.task.kind == "classify" and not job.task.labels:
        raise ConfigError(
            "task.labels is empty, and a server has no records to find labels in",
            remedy="list every label, in the order that all sites shall have",
        )


def not_in_deployments(job: JobConfig) -> list[str]:
    """Lines on settings that the job names and that a server leaves out of account."""
    if "every" in job.evaluation.model_fields_set and job.evaluation.every:
        return [
            f"note: evaluation.every = {job.evaluation.every} counts in simulations alone; of a job on a server each "
            "site measures the last adapter, for itself"
        ]
    return []
