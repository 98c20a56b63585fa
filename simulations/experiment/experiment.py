"""What is to be simulated: a job with nothing left open, the sites' records, and where they come from."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yoriai import wire
from yoriai.client.records.columns import Reading
from yoriai.client.records.records import read_site
from yoriai.client.records.units import unit_count
from yoriai.client.session.task_defaults import settled
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import Accountant, Event, effective_accountant
from yoriai.privacy.identity.roster import MAX_WEIGHT
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.privacy.job_terms.noise import all_rounds, resolve_noise, round_event
from yoriai.simulations.experiment.record_checks import check_batch, check_delta, check_owners, check_sites
from yoriai.simulations.report.report import Data
from yoriai.simulations.scenarios import DEFAULT, get_scenario
from yoriai.simulations.scenarios.partition import (
    Record,
    SiteRecords,
    check_labels_alike,
    infer_task_kind,
    label_set,
    partition,
    read_records,
    read_sites,
    split,
)
from yoriai.simulations.scenarios.site_names import identifier, site_names
from yoriai.strategies.fit import check_fit

_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class DataSource:
    """Where the records come from: records of one's own, or a ready scenario where there is no path.

    Attributes:
        path: a folder with a folder a site, or one file to split over `sites`.
        sites, partition: how many sites one file is split over, and how; None stands for `iid`, and for as many sites
            as the field of a `by:FIELD` has values.
        prompt_field, response_field: columns or keys that hold prompt and response, as in `Reading`.
        seed: of the partition and of the split.
        scenario: a key of `scenarios.SCENARIOS`; does not go with a path.
        encoding: of the files, as in `Reading`.
        test_fraction: share of a site's records that only measure, for one file and for sites of a folder that have no
            test file; None is a fifth of one file, and none of a folder's.
        alike: the path is one site's own folder, which stands for so many sites like it; 0: it is a folder of sites.
    """

    path: Path | None = None
    sites: int | None = None
    partition: str | None = None
    prompt_field: str = ""
    response_field: str = ""
    seed: int = 0
    scenario: str = DEFAULT
    encoding: str = ""
    test_fraction: float | None = None
    alike: int = 0


@dataclass(frozen=True)
class Experiment:
    """A job whose kind, template and labels are settled, and the sites that it runs on.

    Attributes:
        reason: why the task is of its kind, in a sentence.
        labels_from_records: whether the label set was read off the records of all sites, which a real federation
            cannot do.
    """

    job: JobConfig
    sites: tuple[SiteRecords, ...]
    data: Data
    reason: str
    labels_from_records: bool

    def roster(self) -> wire.Roster:
        """Weights by training.records_per_weight, in records or owners, so that exact counts stay at the sites.

        With distributed noise every site's is 1, for their shares must count alike.
        """
        if self.job.privacy.noise == "distributed":
            return wire.Roster(serial=1, weights={site.name: 1 for site in self.sites})
        unit, counts = self.job.training.records_per_weight, self.unit_counts()
        weights = {name: max(1, round(count / unit)) for name, count in counts.items()}
        if max(weights.values()) > MAX_WEIGHT:
            needed = math.ceil(max(counts.values()) / MAX_WEIGHT)
            raise ConfigError(
                "training.records_per_weight is too small for the largest site",
                found=str(unit),
                expected=f"at least {needed}, so that no weight is above {MAX_WEIGHT}",
                remedy="raise it",
            )
        return wire.Roster(serial=1, weights=weights)

    def shown(self, name: str) -> str:
        """What the user calls the site of this identifier; the identifier of one that is not here."""
        return next((site.shown for site in self.sites if site.name == name), name)

    def unit_counts(self) -> dict[str, int]:
        """Units of privacy in each site's training records: the records, or their owners."""
        return {site.name: unit_count(site.train, self.job.privacy) for site in self.sites}

    def records_digest(self) -> str:
        """SHA-256 (hex) over all sites' records, to see whether they changed since a run began."""
        digest = hashlib.sha256()
        for site in self.sites:
            for part in (site.train, site.test):
                digest.update(f"{site.name} {len(part)}\n".encode())
                for r in part:
                    digest.update(repr((r.prompt, r.response, r.text, r.messages, r.owner)).encode("utf-8", "replace"))
        return digest.hexdigest()


def resolve(job: JobConfig | None, source: DataSource, settings: Mapping[str, object] | None = None) -> Experiment:
    """Read the records and settle what the job leaves open.

    Args:
        job: None takes the scenario's job, or defaults for records of one's own.
        settings: overrides by dotted key, applied last.

    Raises:
        ConfigError: a setting is wrong, or does not go with the records.
        RecordError: the records cannot be read.
        AssetError: a scenario's records cannot be fetched.
    """
    sites, data = _read(source)
    check_sites(sites)
    if job is None:
        job = get_scenario(source.scenario).job() if source.path is None else _job_for(source.path, sites)
        job = _sized(_overridden(job, settings or {}), sites, frozenset(settings or {}))
    else:
        named = {
            f"{table}.{key}" for table in ("federation", "training") for key in getattr(job, table).model_fields_set
        }
        job = _sized(_overridden(job, settings or {}), sites, frozenset({*named, *(settings or {})}))
    check_fit(job)  # An unknown rule is one of its faults.
    check_owners(job, sites)
    check_delta(job, sites)
    check_batch(job, sites)
    if len(sites) < job.federation.min_sites:
        raise ConfigError(
            "federation.min_sites is above the number of sites",
            found=f"{len(sites)} sites",
            expected=f"at least {job.federation.min_sites}",
            remedy="lower it or add sites",
        )
    job, reason, labels_from_records = _settle_task(job, sites)
    found = Experiment(job, sites, data, reason, labels_from_records)
    units = sum(found.roster().weights.values()) * job.training.records_per_weight
    job = settled(job, sites=len(sites), units=units)
    check_fit(job)
    return replace(found, job=job)


def noise_multiplier(job: JobConfig, n_params: int = 0, sites: int = 0) -> float | None:
    """The least noise with which all rounds, the spare ones too, stay within the job's epsilon.

    None without privacy. Sizes are those of `noise.calibrated`, and bear on distributed noise only.
    """
    return calibrated(job, n_params=n_params, sites=sites)


def event_of(job: JobConfig, noise_multiplier: float | None, n_params: int = 0, sites: int = 0) -> Event | None:
    """What one round costs at a noise; None without privacy."""
    return round_event(job, resolve_noise(job, noise_multiplier, n_params=n_params, sites=sites))


def accountant_of(job: JobConfig, event: Event | None) -> Accountant | None:
    """The accountant that speaks of the whole job, its spare rounds included; None without privacy."""
    if event is None:
        return None
    return effective_accountant([(event, all_rounds(job))], job.privacy.delta, job.privacy.accountant)


def _read(source: DataSource) -> tuple[tuple[SiteRecords, ...], Data]:
    if source.path is None:
        if source != DataSource(seed=source.seed, scenario=source.scenario):
            raise ConfigError(
                "--sites, --partition, --test-fraction, --encoding and the names of fields go with records of your own",
                remedy="name them with --data",
            )
        ready = get_scenario(source.scenario)
        return ready.sites(source.seed), Data(title=ready.title, licence=ready.licence, source=ready.source)
    if source.scenario != DEFAULT:
        raise ConfigError(
            f"the scenario {source.scenario} brings its own records",
            found=f"{source.path} as well",
            remedy="leave one of them out",
        )
    own = Data(title=source.path.name or str(source.path), licence="the user's own", source=str(source.path))
    reading = Reading(source.encoding, source.prompt_field, source.response_field)
    if source.test_fraction is not None and not 0 < source.test_fraction < 1:
        raise ConfigError("--test-fraction is no share", found=f"{source.test_fraction:g}", expected="between 0 and 1")
    if source.path.is_dir():
        if source.sites is not None or source.partition is not None:
            raise ConfigError(
                "--sites and --partition split one file, and --data is a folder of sites", remedy="leave them out"
            )
        if source.alike:
            one = read_site(source.path.resolve().name, source.path, reading)
            return _renamed([replace(one, name=f"{one.name}-{n + 1}") for n in range(source.alike)]), own
        return _renamed(_folder_of_sites(source.path, reading, source)), own
    records = read_records(source.path, reading)
    return _renamed(_partitioned(records, source)), own


def _folder_of_sites(path: Path, reading: Reading, source: DataSource) -> tuple[SiteRecords, ...]:
    """The sites of a folder; those without test records give up a share of the others, where that was asked for."""
    fraction = source.test_fraction
    sites = read_sites(path, reading, tests_may_lack=fraction is not None)
    if fraction is None:
        return sites
    if all(site.test for site in sites):
        raise ConfigError("--test-fraction: every site has a test file", remedy="leave it out")
    return tuple(
        site if site.test else SiteRecords(site.name, *split(site.train, fraction, source.seed)) for site in sites
    )


def _renamed(sites: Sequence[SiteRecords]) -> tuple[SiteRecords, ...]:
    """The sites, sorted, under identifiers that files and rosters can have; what the user called them is kept."""
    names = site_names(site.name for site in sites)
    named = [
        replace(site, name=inside, given_name=shown if shown != inside else "")
        for site in sites
        for inside, shown in [names[site.name]]
    ]
    return tuple(sorted(named, key=lambda site: site.name))


def _partitioned(records: Sequence[Record], source: DataSource) -> tuple[SiteRecords, ...]:
    """The records of one file dealt out to sites, and split into train and test at each."""
    how = source.partition or "iid"
    by_field = how.startswith("by:")
    if source.sites is None and not by_field:
        raise ConfigError(
            f"{source.path} is one file",
            expected="a folder with a folder a site",
            remedy="split the file with --sites N",
        )
    fraction = source.test_fraction or _TEST_FRACTION
    parts = partition(records, source.sites or 0, how, source.seed)
    return tuple(SiteRecords(value, *split(own, fraction, source.seed)) for value, own in parts.items())


def _overridden(job: JobConfig, settings: Mapping[str, object]) -> JobConfig:
    """The job with these settings; an epsilon for a job without noise asks for some."""
    noise = {"privacy.noise": "local"} if "privacy.epsilon" in settings and job.privacy.noise == "none" else {}
    return override(job, {**noise, **settings})


def _sized(job: JobConfig, sites: Sequence[SiteRecords], named: Collection[str]) -> JobConfig:
    """Defaults for distributed noise among these sites, where nothing else was named: no one is missing, and all
    stand for the mean number."""
    if job.privacy.noise != "distributed":
        return job
    units = sum(unit_count(site.train, job.privacy) for site in sites)
    mean = max(1, round(units / len(sites)))
    defaults = {"federation.min_sites": len(sites), "training.records_per_weight": mean}
    return override(job, {key: value for key, value in defaults.items() if key not in named})


def _job_for(path: Path, sites: tuple[SiteRecords, ...]) -> JobConfig:
    """Defaults for records without a job file, with a weight unit that fits the largest site."""
    largest = max(len(site.train) for site in sites)
    unit = max(1, math.ceil(largest / MAX_WEIGHT), min([10, *(len(site.train) for site in sites)]))
    return override(JobConfig(name=identifier(path.stem) or "unnamed"), {"training.records_per_weight": unit})


def _settle_task(job: JobConfig, sites: tuple[SiteRecords, ...]) -> tuple[JobConfig, str, bool]:
    records = [record for site in sites for record in site.train]
    if job.task.kind == "auto":
        kind, reason = infer_task_kind(records)
        job = override(job, {"task.kind": kind})
    else:
        reason = "The job says so."
    if job.task.kind != "classify" or job.task.labels:
        return job, reason, False
    records += [record for site in sites for record in site.test]
    labels = label_set(records)
    check_labels_alike(records)
    return override(job, {"task.labels": list(labels)}), reason, True
