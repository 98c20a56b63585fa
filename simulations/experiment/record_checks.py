"""Whether records fit a job: something to train on and to measure, owners, delta, the size of a batch."""

from collections.abc import Sequence

from yoriai.client.records.units import owner_units, unit_count
from yoriai.config import JobConfig
from yoriai.errors import ConfigError, RecordError
from yoriai.privacy.job_terms.noise import BATCH_FACTOR
from yoriai.simulations.scenarios.partition import SiteRecords


def check_sites(sites: Sequence[SiteRecords]) -> None:
    """Something to train on at each site, and something to measure at all."""
    for site in sites:
        if not site.train:
            raise RecordError(f"site {site.shown} has no training records", remedy="add some, or leave the site out")
    if not any(site.test for site in sites):
        raise RecordError(
            "no site has a test record, so nothing can be measured",
            found=f"{sum(len(site.train) for site in sites)} training records at {len(sites)} sites",
            remedy="add records, or split them over fewer sites",
        )


def check_owners(job: JobConfig, sites: Sequence[SiteRecords]) -> None:
    """Every training record has an owner, where owners are protected."""
    for site in sites:
        try:
            owner_units(site.train, job.privacy)
        except RecordError as error:
            raise RecordError(
                f"site {site.shown}: {error.what}", found=error.found, expected=error.expected, remedy=error.remedy
            ) from None


def check_delta(job: JobConfig, sites: Sequence[SiteRecords]) -> None:
    """Delta must be below one over the records, or owners: above it, one of them may be published whole."""
    name, count = max(((site.shown, unit_count(site.train, job.privacy)) for site in sites), key=lambda pair: pair[1])
    bound = 1 / count
    if job.privacy.noise != "none" and job.privacy.delta >= bound:
        whose = "training records" if job.privacy.unit == "record" else "owners of training records"
        raise ConfigError(
            f"privacy.delta is not below 1 / ({whose} of site {name})",
            found=f"{job.privacy.delta:g}",
            expected=f"below {bound:.3g}",
            remedy="lower privacy.delta",
        )


def check_batch(job: JobConfig, sites: Sequence[SiteRecords]) -> None:
    """The words of the secure sum are as wide as the batches that the job announces."""
    if job.privacy.noise != "distributed":
        return
    mean = sum(unit_count(site.train, job.privacy) for site in sites) / len(sites)
    unit = job.training.records_per_weight
    if mean > BATCH_FACTOR * unit:
        raise ConfigError(
            "training.records_per_weight is too small: with distributed noise it is what a site has on average",
            found=str(unit),
            expected=f"about {mean:.0f}",
            remedy="raise it; the words of the secure sum follow it",
        )
