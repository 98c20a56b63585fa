"""What noise the opened sum of a round carries, where each site adds the whole of it, and where they share it."""

import math
from dataclasses import dataclass

from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.privacy.job_terms.noise import DistributedNoise, honest_shares, resolve_noise
from yoriai.simulations.experiment.experiment import noise_multiplier


@dataclass(frozen=True)
class NoiseModes:
    """Standard deviation of the noise on each entry of the sum over all sites, in clip norms.

    Attributes:
        central: as it would be if one trusted party had all records and added noise once.
        local: every site adds the whole.
        distributed: every site adds a share, all sites are there.
        sites: how many there are.
        least: survivors without which a round with distributed noise is void.
        colluding: those of them that are not counted on.
    """

    central: float
    local: float
    distributed: float
    sites: int
    least: int
    colluding: int


def compare_noise(job: JobConfig, n_params: int, sites: int) -> NoiseModes | None:
    """Both modes at the job's epsilon and steps; None without privacy, for less than two sites, and where one of them
    cannot reach this epsilon: whether the job's own mode can is found out elsewhere.

    A job with local noise is compared with one whose noise is shared among all sites, none of which may be missing.
    """
    if job.privacy.noise == "none" or sites < 2:
        return None
    try:
        return _compared(job, n_params, sites)
    except ConfigError:
        return None


def _compared(job: JobConfig, n_params: int, sites: int) -> NoiseModes:
    whole = override(job, {"privacy.noise": "local"})
    shared = job if job.privacy.noise == "distributed" else _shared(job, sites)
    central = noise_multiplier(whole) or 0.0
    noise = resolve_noise(shared, noise_multiplier(shared, n_params, sites), n_params=n_params, sites=sites)
    if not isinstance(noise, DistributedNoise):
        raise ConfigError("the noise is not distributed", found=shared.privacy.noise)
    share = noise.shares
    return NoiseModes(
        central=central,
        local=math.sqrt(sites) * central,
        distributed=math.sqrt(sites * share.share_variance) / share.scale,
        sites=sites,
        least=shared.federation.min_sites,
        colluding=shared.federation.min_sites - honest_shares(shared),
    )


def noise_line(job: JobConfig, modes: NoiseModes) -> str:
    """In a sentence, the job's own mode first."""
    local = f"local {modes.local:.2f} ({modes.local / modes.central:.2f} times one trusted party's {modes.central:.2f})"
    shared = (
        f"distributed {modes.distributed:.2f} ({modes.distributed / modes.central:.2f} times; {modes.least} of "
        f"{modes.sites} sites needed, {modes.colluding} may collude)"
    )
    first, second = (shared, local) if job.privacy.noise == "distributed" else (local, shared)
    return f"noise    on the sum, in clip norms: {first}; {second}"


def _shared(job: JobConfig, sites: int) -> JobConfig:
    wanted = job.privacy.colluding
    colluding = wanted if 3 * wanted <= sites else sites - 1  # As `check_fit` has it.
    return override(
        job,
        {
            "privacy.noise": "distributed",
            "privacy.colluding": colluding,
            "federation.min_sites": sites,
            "training.local_steps": 1,
        },
    )
