"""A job that goes on from a version: the version's adapter is its first one, where base, task and shape are the same.

The version's file says what was trained and on which base; its signatures are the sites' and the server's to verify
(`version_bundle.py`; the server takes only a job that goes on from a version of its own). Here only the adapter is held
against the statement, so that what was cut short or mixed up is found where the base is.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from yoriai import wire
from yoriai.base_digest import difference
from yoriai.config import JobConfig, override
from yoriai.errors import AdapterError, ConfigError, WireError
from yoriai.privacy.statements.version_statement import unverified_version
from yoriai.strategies.adapter import AdapterState

# What says which tensors there are and what they mean. Rounds, rates, privacy and sites may change on the way.
_SAME: Final = ("task.kind", "task.labels", "task.template", "task.head", "head", "lora")


@dataclass(frozen=True)
class Start:
    """The version that a job goes on from: its job, its base's digest and its adapter."""

    job: JobConfig
    base_digest: str
    adapter: AdapterState


def read_start(data: bytes) -> Start:
    """The version in a file of `yoriai server export-version`. No signature is verified.

    Raises:
        ConfigError: it is no such file, or of another version of Yoriai.
        AdapterError: the adapter is not the one that the statement names.
    """
    try:
        file = wire.decode(data)
        if not isinstance(file, wire.VersionFile):
            raise ValueError
        job = JobConfig.model_validate_json(json.dumps(file.job))
    except (WireError, ValueError, ValidationError):
        raise ConfigError(
            "this is no version's file, or one of another Yoriai",
            expected="what `yoriai server export-version` has written",
            remedy="have the version exported again",
        ) from None
    said, adapter = unverified_version(file.statement.encode()), AdapterState.from_bytes(file.payload)
    if adapter.digest() != said.adapter_digest:
        raise AdapterError("the version's adapter is not the one of its statement", remedy="have it exported again")
    return Start(job, said.base_digest, adapter)


def going_on(job: JobConfig, start: Start) -> JobConfig:
    """The job as it goes on from a version: with the version's name, and the public texts that conditioned a head.

    Raises:
        ConfigError: it trains something else than the version, with every setting that differs; or it names another
            version.
    """
    digest = start.adapter.digest()
    if job.base.start not in (None, digest):
        raise ConfigError("base.start is another version", found=job.base.start[:16], expected=digest[:16])
    mine, theirs = (_settings(one) for one in (job, start.job))
    unlike = [name for name in mine if mine[name] != theirs[name]]
    if unlike:
        raise ConfigError(
            "the job cannot go on from the version: it trains something else",
            found=", ".join(unlike),
            expected="the settings of the version's job",
            remedy="begin with `yoriai job init JOB.toml --from FILE`, or anew, without base.start",
        )
    public = {"public": start.job.public} if job.trains_head else {}
    return override(job, {"base.start": digest, **public})


def check_same_base(base_digest: str, start: Start) -> None:
    """Raise ConfigError unless the version was trained on the base with this digest."""
    if unlike := difference(base_digest, start.base_digest):
        raise ConfigError(
            f"the job cannot go on from the version: the base has another {unlike.what}",
            found=unlike.found[:16],
            expected=unlike.expected[:16],
            remedy="name the version's base in base.model",
        )


def job_from(start: Start) -> JobConfig:
    """A job with the settings of the version's, which goes on from it."""
    listed = {"public.digests": ()} if start.job.public.texts is not None else {}
    return override(start.job, {"base.start": start.adapter.digest(), **listed})


def _settings(job: JobConfig) -> dict[str, Any]:
    document = job.model_dump(mode="json", by_alias=True)
    found = {"rule or head": job.trained_by}
    left_out = "lora" if job.trains_head else "head"
    for name in (name for name in _SAME if name != left_out):
        value: Any = document
        for part in name.split("."):
            value = value[part]
        found[name] = value
    return found
