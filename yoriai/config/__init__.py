"""Job, site and server files: read from TOML, checked, changed, written. Nothing here imports torch, numpy or flwr."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from yoriai.base_digest import of_weights
from yoriai.config.by_task import BY_TASK
from yoriai.config.faults import KeyPath, all_faults, dotted, faults_of, schema_fault, syntax_error
from yoriai.config.kpi import KpiSection
from yoriai.config.models import (
    DeadlinesSection,
    EvaluationSection,
    FederationSection,
    GateSection,
    JobConfig,
    PersonalSection,
    PrivacySection,
    SecureAggregationSection,
    SpeedSection,
)
from yoriai.config.server import ServerConfig
from yoriai.config.site import (
    LedgerSection,
    ModelSection,
    PolicySection,
    RecordsSection,
    RouteSection,
    ServerSection,
    ServeSection,
    SiteConfig,
)
from yoriai.config.text import file_place, template_of
from yoriai.config.training import (
    BaseSection,
    HeadSection,
    LoraSection,
    PublicSection,
    TaskSection,
    TrainingSection,
)
from yoriai.config.types import is_text_encoding
from yoriai.errors import ConfigError, YoriaiError

__all__ = [
    "BaseSection",
    "DeadlinesSection",
    "EvaluationSection",
    "FederationSection",
    "GateSection",
    "HeadSection",
    "JobConfig",
    "KpiSection",
    "LedgerSection",
    "LoraSection",
    "ModelSection",
    "PersonalSection",
    "PolicySection",
    "PrivacySection",
    "PublicSection",
    "RecordsSection",
    "RouteSection",
    "SecureAggregationSection",
    "ServeSection",
    "ServerConfig",
    "ServerSection",
    "SiteConfig",
    "SpeedSection",
    "TaskSection",
    "TrainingSection",
    "is_text_encoding",
    "job_digest",
    "job_digests",
    "job_json_schema",
    "job_template",
    "job_to_toml",
    "load_job",
    "load_server",
    "load_site",
    "override",
    "parse_job",
    "parse_server",
    "parse_site",
    "server_of",
    "server_to_toml",
    "site_of",
    "site_to_toml",
]


_File = TypeVar("_File", JobConfig, ServerConfig, SiteConfig)


def load_job(path: str | Path) -> JobConfig:
    """Read a job file. Raises ConfigError with every fault in it."""
    return parse_job(_read(path), source=str(path))


def load_site(path: str | Path) -> SiteConfig:
    """Read a site file. Raises ConfigError with every fault in it."""
    return _parse(SiteConfig, _read(path), str(path))


def load_server(path: str | Path) -> ServerConfig:
    """Read a server file. Raises ConfigError with every fault in it."""
    return _parse(ServerConfig, _read(path), str(path))


def parse_job(text: str, source: str = "job") -> JobConfig:
    """Read a job from TOML text; `source` names the text in messages. Raises ConfigError with every fault in it."""
    return _parse(JobConfig, text, source)


def parse_site(text: str, source: str = "site") -> SiteConfig:
    """Read a site from TOML text; `source` names the text in messages. Raises ConfigError with every fault in it."""
    return _parse(SiteConfig, text, source)


def parse_server(text: str, source: str = "server") -> ServerConfig:
    """Read a server from TOML text; `source` names the text in messages. Raises ConfigError with every fault in it."""
    return _parse(ServerConfig, text, source)


def job_to_toml(job: JobConfig) -> str:
    """The job as TOML with every setting written out; `parse_job` gives back an equal job."""
    return tomli_w.dumps(job.model_dump(by_alias=True, exclude_none=True))


def job_template(settings: Mapping[str, object] | None = None) -> str:
    """A complete job file with every default and what it means; `parse_job` reads it.

    What the task decides where it is not named stands there switched off.

    Args:
        settings: values by dotted key that are not the defaults; none of them is one that the task decides.

    Raises:
        ConfigError: with every fault among the settings.
    """
    job = override(JobConfig(name="my-job"), settings or {})
    return template_of(JobConfig, job.model_dump(by_alias=True), left_open=BY_TASK)


def site_to_toml(site: SiteConfig) -> str:
    """The site as a file with every setting written out and explained; `parse_site` gives back an equal site."""
    return template_of(SiteConfig, site.model_dump(by_alias=True))


def server_to_toml(server: ServerConfig) -> str:
    """The server as a file with every setting written out and explained; `parse_server` gives back an equal server."""
    return template_of(ServerConfig, server.model_dump(by_alias=True))


def site_of(settings: Mapping[str, object], places: Mapping[str, str]) -> SiteConfig:
    """A site from some of its settings; the others have their defaults.

    Args:
        settings: values by dotted key, such as `{"name": "north", "policy.epsilon_budget": 4.0}`.
        places: what a message calls a setting, such as `--epsilon-budget`, by the same keys.

    Raises:
        ConfigError: with every fault among the settings.
    """
    return _of(SiteConfig, settings, places)


def server_of(settings: Mapping[str, object], places: Mapping[str, str]) -> ServerConfig:
    """A server from some of its settings, as `site_of`.

    Raises:
        ConfigError: with every fault among the settings.
    """
    return _of(ServerConfig, settings, places)


def _of(model: type[_File], settings: Mapping[str, object], places: Mapping[str, str]) -> _File:
    data: dict[str, Any] = {}
    for key, value in settings.items():
        *tables, last = key.split(".")
        table = data
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise all_faults("settings", faults_of(error, model, lambda path: (0, _called(path, places)))) from None


def _called(path: KeyPath, places: Mapping[str, str]) -> str:
    setting = tuple(part for part in path if isinstance(part, str))  # An item of a list is called by its list's name.
    return places.get(dotted(setting), f"setting {dotted(path)}")


def job_json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file, for editors."""
    schema = JobConfig.model_json_schema(by_alias=True)
    # In Python the schema version has a default; in a file it must stand.
    schema["required"] = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def job_digest(job: JobConfig, base_digest: str) -> str:
    """SHA-256 (hex) over the base and all that bears on the result: not [speed], [deadlines], [gate] and [kpi]."""
    settings = job.model_dump(mode="json", by_alias=True, exclude={"speed", "deadlines", "gate", "kpi"})
    # What bears on nothing is left out: jobs of before these settings were there keep their digest.
    if not job.is_conditioned:
        settings.pop("public")
    if not job.trains_head:
        settings.pop("head")
        settings["task"].pop("head")
    if job.lora.factors == "svd":
        settings["lora"].pop("factors")
    return hashlib.sha256(json.dumps([base_digest, settings], sort_keys=True).encode()).hexdigest()


def job_digests(job: JobConfig, base_digest: str) -> tuple[str, ...]:
    """What a stored run of the job may go by: its digest, and that of versions that named a base by its weights."""
    return job_digest(job, base_digest), job_digest(job, of_weights(base_digest))


def override(job: JobConfig, settings: Mapping[str, object]) -> JobConfig:
    """A copy of the job with some settings changed; the whole job is checked again.

    Args:
        job: the job to start from; it stays as it is.
        settings: new values by dotted key, such as `{"privacy.epsilon": 4.0}`; None leaves an optional setting out.

    Raises:
        ConfigError: with every fault among the settings.
    """
    data = job.model_dump(by_alias=True, exclude_unset=True)  # What the job leaves open stays so.
    for key, value in settings.items():
        *tables, last = key.split(".")
        table = data
        for name in tables:
            inner = table.get(name)
            table[name] = dict(inner) if isinstance(inner, Mapping) else {}
            table = table[name]
        table[last] = value.model_dump(by_alias=True) if isinstance(value, BaseModel) else value
    try:
        return JobConfig.model_validate(data)
    except ValidationError as error:
        faults = faults_of(error, JobConfig, lambda path: (0, f"setting {dotted(path)}"))
        raise all_faults("settings", faults) from None


def _read(path: str | Path) -> str:
    """The file's text; a byte-order mark, as some editors write it, is dropped."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fault = ConfigError(f"{path} line {line}: this is not UTF-8 text", remedy="save the file as UTF-8")
    except OSError as error:
        fault = ConfigError(f"{path} cannot be read", found=error.strerror or "an input error", remedy="check the path")
    raise all_faults(str(path), [fault])


def _parse(model: type[_File], text: str, source: str) -> _File:
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Beside its own error tomllib lets through int()'s, for too many digits, and gives up on deep nesting.
        raise syntax_error(source, text, error) from None
    faults: list[YoriaiError] = []
    if "schema" not in data:
        faults.append(schema_fault(f"{source} line 1: schema"))
    try:
        parsed = model.model_validate(data)
    except ValidationError as error:
        faults += faults_of(error, model, file_place(source, text))
    if faults:
        raise all_faults(source, faults)
    return parsed
