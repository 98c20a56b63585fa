"""The least noise that keeps what a job promises."""

from yoriai.config import JobConfig
from yoriai.privacy.dp.accounting import calibrate, calibrate_skellam
from yoriai.privacy.job_terms.noise import all_rounds, distributed_noise


def calibrated(job: JobConfig, *, n_params: int, sites: int) -> float | None:
    """The least noise multiplier with which all rounds, the spare ones too, stay within the job's epsilon.

    None without privacy.

    Args: as `resolve_noise`.

    Raises:
        ConfigError: no noise reaches it.
    """
    privacy, rate = job.privacy, job.training.sampling_rate
    if privacy.noise == "none":
        return None
    if privacy.noise == "local":
        return calibrate(
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            sampling_rate=rate,
            steps=all_rounds(job) * job.training.local_steps,
            accountant=privacy.accountant,
        )
    return calibrate_skellam(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=rate,
        steps=all_rounds(job),
        event_for=lambda multiplier: distributed_noise(job, multiplier, n_params=n_params, sites=sites).event(rate),
    )
