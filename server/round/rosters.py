"""The rosters of a run: the consortium's signed one, and what the run's weights must be beside it."""

from dataclasses import dataclass

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import ConfigError
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.job_terms.plain_roster import unlike_sites


@dataclass(frozen=True)
class SignedRoster:
    """The consortium's roster as the coordinator needs it: its file, and its verified members."""

    file: bytes
    directory: Directory


def check_roster(job: JobConfig, roster: wire.Roster, signed: SignedRoster | None) -> None:
    """Raise ConfigError unless a job can run with these weights and ranks."""
    if roster.ranks and job.federation.aggregation != "mean":
        raise ConfigError(
            f"federation.aggregation = {job.federation.aggregation} compares whole updates",
            found=f"lower ranks at {', '.join(sorted(roster.ranks))}",
            remedy='set federation.aggregation = "mean", or give all sites the job\'s rank',
        )
    if job.secure_aggregation.enabled:
        check_signed(signed, roster)
    if job.privacy.noise == "distributed":
        check_alike(roster)


def check_signed(signed: SignedRoster | None, roster: wire.Roster) -> None:
    """Raise ConfigError unless there is a signed roster with these very weights."""
    if signed is None:
        raise ConfigError("secure aggregation needs a signed roster", remedy="name the consortium's roster file")
    if signed.directory.roster.weights != roster.weights:
        raise ConfigError("the run's weights are not those of the signed roster", remedy="have the roster signed anew")


def check_alike(roster: wire.Roster) -> None:
    """Raise ConfigError unless all sites weigh 1 and train the job's rank: the noise of each must count alike."""
    if unlike := unlike_sites(roster):
        raise ConfigError(
            "distributed noise needs sites that are all alike",
            found=f"another weight than 1, or a lower rank, at {', '.join(unlike[:8])}",
            expected="weight 1 and the job's rank at every site",
            remedy="have such a roster signed; training.records_per_weight is then what a site has on average",
        )
