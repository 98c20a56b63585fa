"""What a job's noise costs and how much there is of it, from the job and public sizes."""

import math

import pytest

from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.privacy.distributed.distributed_noise import SkellamShares
from yoriai.privacy.dp.accounting import SampledGaussian, SampledSkellam, epsilon
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.privacy.job_terms.noise import DistributedNoise, NoNoise, all_rounds, resolve_noise, round_event

SIZES = {"n_params": 7168, "sites": 5}


def job(**settings: object) -> JobConfig:
    defaults: dict[str, object] = {
        "privacy.noise": "distributed",
        "federation.min_sites": 5,
        "federation.rounds": 24,
        "training.sampling_rate": 0.25,
        "training.records_per_weight": 334,
    }
    return override(JobConfig(name="j"), defaults | {key.replace("__", "."): value for key, value in settings.items()})


def noise_of(chosen: JobConfig) -> float:
    found = calibrated(chosen, **SIZES)
    assert found is not None
    return found


def event_of(chosen: JobConfig, noise: float) -> SampledSkellam:
    event = round_event(chosen, resolve_noise(chosen, noise, **SIZES))
    assert isinstance(event, SampledSkellam)
    return event


def shares_of(chosen: JobConfig, multiplier: float) -> SkellamShares:
    noise = resolve_noise(chosen, multiplier, **SIZES)
    assert isinstance(noise, DistributedNoise)
    return noise.shares


@pytest.mark.parametrize("mode", ["local", "distributed"])
@pytest.mark.parametrize("target", [1.0, 8.0])
def test_calibrated_noise_keeps_the_target_over_all_rounds_and_hardly_less_does_not(mode: str, target: float) -> None:
    chosen = job(privacy__noise=mode, privacy__epsilon=target)
    noise, rounds = noise_of(chosen), all_rounds(chosen)
    assert rounds == 25
    for factor, kept in ((1.0, True), (0.997, False)):
        event = round_event(chosen, resolve_noise(chosen, factor * noise, **SIZES))
        assert event is not None
        assert (epsilon([(event, rounds)], chosen.privacy.delta) <= target) is kept


def test_distributed_noise_is_about_a_tenth_over_central_and_not_less() -> None:
    """The accountant of Skellam noise is RDP, which asks for some per cent more than PLD."""
    for target in (8.0, 3.0, 1.0):
        central = noise_of(job(privacy__noise="local", privacy__epsilon=target))
        shared = noise_of(job(privacy__epsilon=target))
        assert 1.0 < shared / central < 1.13


@pytest.mark.parametrize(("least", "colluding"), [(5, 1), (5, 2), (5, 4), (4, 1)])
def test_the_shares_that_count_make_up_the_whole_noise(least: int, colluding: int) -> None:
    chosen = job(federation__min_sites=least, privacy__colluding=colluding)
    noise = noise_of(chosen)
    shares, event = shares_of(chosen, noise), event_of(chosen, noise)
    assert shares.honest == event.draws == least - colluding
    assert event.variance == shares.honest * shares.share_variance
    assert event.variance == pytest.approx(noise**2 * event.squared_l2, rel=1e-4)
    assert event.variance >= noise**2 * event.squared_l2
    # All five are there: what the opened sum carries beyond the noise that is counted on.
    assert math.sqrt(5 * shares.share_variance / event.variance) == pytest.approx(math.sqrt(5 / (least - colluding)))


def test_at_no_drop_out_and_one_colluder_five_sites_carry_an_eighth_more_than_central() -> None:
    shares = shares_of(job(), 1.0)
    assert math.sqrt(5 * shares.share_variance / shares.squared_l2) == pytest.approx(1.118, abs=1e-3)


def test_the_event_of_local_noise_does_not_hang_on_sizes() -> None:
    chosen = job(privacy__noise="local")
    assert round_event(chosen, resolve_noise(chosen, 1.5, n_params=0, sites=0)) == SampledGaussian(0.25, 1.5, 1)


def test_without_privacy_there_is_neither_noise_nor_event() -> None:
    chosen = job(privacy__noise="none")
    assert calibrated(chosen, **SIZES) is None
    assert resolve_noise(chosen, None, **SIZES) == NoNoise()
    assert round_event(chosen, NoNoise()) is None


@pytest.mark.parametrize("noise", [None, 0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_noise_that_is_none_or_nonsense_has_no_event(mode: str, noise: float | None) -> None:
    with pytest.raises(ConfigError, match="noise_multiplier"):
        resolve_noise(job(privacy__noise=mode), noise, **SIZES)
