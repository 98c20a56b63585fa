"""What is to be simulated: a job with nothing left open, the sites' records, and where they come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yoriai import wire
from yoriai.client.data import SiteRecords, infer_task_kind, label_set, partition, read_records, read_sites, split
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError, RecordError
from yoriai.privacy.accounting import calibrate
from yoriai.simulations.report import Data
from yoriai.simulations.scenarios import excavators
from yoriai.strategies.rule import get_rule

_TEST_FRACTION = 0.2
_LARGEST_WEIGHT = 255


@dataclass(frozen=True)
class DataSource:
    """Where the records come from; None throughout is the default scenario.

    Attributes:
        path: a folder with a folder a site, or one file to split over `sites`.
        sites, partition: how many sites one file is split over, and how.
        prompt_field, response_field: columns or keys that hold prompt and response.
        seed: of the partition and of the split.
    """

    path: Path | None = None
    sites: int | None = None
    partition: str = "iid"
    prompt_field: str = "prompt"
    response_field: str = "response"
    seed: int = 0


@dataclass(frozen=True)
class Experiment:
    """A job whose kind, template and labels are settled, and the sites that it runs on.

    Attributes:
        reason: why the task is of its kind, in a sentence.
        labels_from_records: whether the label set was read off the training records of all sites, which a real
            federation cannot do.
    """

    job: JobConfig
    sites: tuple[SiteRecords, ...]
    data: Data
    reason: str
    labels_from_records: bool

    def roster(self) -> wire.Roster:
        """Weights in units of training.records_per_weight, so that exact counts stay at the sites."""
        unit = self.job.training.records_per_weight
        weights = {site.name: max(1, round(len(site.train) / unit)) for site in self.sites}
        if max(weights.values()) > _LARGEST_WEIGHT:
            needed = math.ceil(max(len(site.train) for site in self.sites) / _LARGEST_WEIGHT)
            raise ConfigError(
                "training.records_per_weight is too small for the largest site",
                found=str(unit),
                expected=f"at least {needed}, so that no weight is above {_LARGEST_WEIGHT}",
                remedy="raise it",
            )
        return wire.Roster(serial=1, weights=weights)


def resolve(job: JobConfig | None, source: DataSource, settings: Mapping[str, object] | None = None) -> Experiment:
    """Read the records and settle what the job leaves open.

    Args:
        job: None takes the scenario's job, or defaults for records of one's own.
        settings: overrides by dotted key, applied last.

    Raises:
        ConfigError: a setting is wrong, or does not go with the records.
        RecordError: the records cannot be read.
        AssetError: the default scenario's records cannot be fetched.
    """
    sites, data = _read(source)
    if job is None:
        job = excavators.default_job() if source.path is None else _job_for(source.path, sites)
    job = override(job, settings or {})
    get_rule(job.federation.rule)  # Raises for an unknown name before anything is loaded.
    if len(sites) < job.federation.min_sites:
        raise ConfigError(
            "federation.min_sites is above the number of sites",
            found=f"{len(sites)} sites",
            expected=f"at least {job.federation.min_sites}",
            remedy="lower it or add sites",
        )
    job, reason, labels_from_records = _settle_task(job, sites)
    return Experiment(job, sites, data, reason, labels_from_records)


def noise_multiplier(job: JobConfig) -> float | None:
    """The least noise with which all rounds, the spare ones too, stay within the job's epsilon.

    None without privacy.
    """
    if job.privacy.noise == "none":
        return None
    return calibrate(
        epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        sampling_rate=job.training.sampling_rate,
        steps=(job.federation.rounds + job.privacy.spare_rounds) * job.training.local_steps,
        accountant=job.privacy.accountant,
    )


def _read(source: DataSource) -> tuple[tuple[SiteRecords, ...], Data]:
    if source.path is None:
        if source.sites is not None:
            raise ConfigError("--sites splits one file", remedy="name the file with --data")
        title = Data(title=excavators.TITLE, licence=excavators.LICENCE, source=excavators.SOURCE)
        return excavators.excavators(source.seed), title
    own = Data(title=source.path.name, licence="the user's own", source=str(source.path))
    fields = {"prompt_field": source.prompt_field, "response_field": source.response_field}
    if source.path.is_dir():
        if source.sites is not None:
            raise ConfigError("--sites splits one file, and --data is a folder of sites", remedy="leave --sites out")
        return read_sites(source.path, **fields), own
    if source.sites is None:
        raise ConfigError(
            f"{source.path} is one file",
            expected="a folder with a folder a site",
            remedy="split the file with --sites N",
        )
    parts = partition(read_records(source.path, **fields), source.sites, source.partition, source.seed)
    sites = []
    for name, records in sorted(parts.items()):
        train, test = split(records, _TEST_FRACTION, source.seed)
        sites.append(SiteRecords(name, train, test))
    return tuple(sites), own


def _job_for(path: Path, sites: tuple[SiteRecords, ...]) -> JobConfig:
    """Defaults for records without a job file, with a weight unit that fits the largest site."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem).strip("._-") or "job"
    largest = max(len(site.train) for site in sites)
    unit = max(1, math.ceil(largest / _LARGEST_WEIGHT), min([10, *(len(site.train) for site in sites)]))
    return override(JobConfig(name=name[:64]), {"training.records_per_weight": unit})


def _settle_task(job: JobConfig, sites: tuple[SiteRecords, ...]) -> tuple[JobConfig, str, bool]:
    records = [record for site in sites for record in site.train]
    if not records:
        raise RecordError("no site has a training record", remedy="put records into the sites' folders")
    if job.task.kind == "auto":
        kind, reason = infer_task_kind(records)
        job = override(job, {"task.kind": kind})
    else:
        reason = "The job says so."
    if job.task.kind != "classify" or job.task.labels:
        return job, reason, False
    labels = label_set(records)
    return override(job, {"task.labels": list(labels)}), reason, True
