"""Noise shared over sites: calibrated to the honest shares, exact modulo 2^w; a broken share shows."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from yoriai.errors import ConfigError, SpentError
from yoriai.privacy.distributed.distributed_noise import RoundedSum, SkellamShares, open_sum, skellam_shares
from yoriai.privacy.distributed.rotation import Rotation
from yoriai.privacy.dp.randomness import SeededSource, SystemSource
from yoriai.privacy.dp.skellam import LARGEST_VARIANCE, SkellamTable

SEED = bytes(range(32))
CLIP = 0.5
JOB: dict[str, Any] = {
    "n_params": 1000,
    "noise_multiplier": 0.8,
    "honest": 3,
    "sites": 5,
    "units": 40,
    "rounds": 100,
}
NOISE = skellam_shares(**JOB)
ROTATION = Rotation(SEED, 1000)


class Quiet(SeededSource):
    """Rounds as ever, and adds no noise."""

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        return np.zeros(n, np.int64)


def _clipped(units: int, n_params: int = 1000) -> np.ndarray:
    """Rows of norm CLIP, as like one another as a batch's gradients may be."""
    rows = 1.0 + np.random.default_rng(units).standard_normal((units, n_params))
    return np.asarray(CLIP * rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _integers(rows: np.ndarray, seed: bytes = b"quiet") -> np.ndarray:
    """What one site releases without noise, centred."""
    entered = RoundedSum(NOISE, ROTATION, CLIP, Quiet(seed))
    entered.add(rows)
    return _centred(entered.release(SkellamTable(NOISE.share_variance)), NOISE.word_bits)


def _centred(words: np.ndarray, bits: int) -> np.ndarray:
    signed = words.astype(np.int64)
    return np.where(signed >= 2 ** (bits - 1), signed - 2**bits, signed)


def test_the_parameters_are_those_of_the_formulas() -> None:
    assert NOISE.size == 1024
    assert NOISE.scale == 16 * 32
    assert NOISE.squared_l2 == 512**2 + 1024 // 4 + 512 + 16
    assert NOISE.l1 == math.isqrt(1024 * NOISE.squared_l2)
    assert skellam_shares(**JOB | {"n_params": 2**15}).scale == math.ceil(16 * math.sqrt(2**15))


@pytest.mark.parametrize("honest", [1, 2, 3, 5])
@pytest.mark.parametrize("noise_multiplier", [0.1, 0.8, 3.0])
def test_the_honest_shares_reach_the_noise_multiplier_and_hardly_exceed_it(
    honest: int, noise_multiplier: float
) -> None:
    noise = skellam_shares(**JOB | {"honest": honest, "noise_multiplier": noise_multiplier})
    asked = noise_multiplier**2 * noise.squared_l2
    assert noise.variance == honest * noise.share_variance
    assert asked <= noise.variance < asked + honest + 1e-6


def _log_wrap_probability(job: dict[str, Any], noise: SkellamShares, bits: int) -> float:
    """The Chernoff bound by a search of its own."""
    proxy = (job["units"] * noise.scale) ** 2 / noise.size
    distance = 2 ** (bits - 1) - job["units"]

    def exponent(log_t: float) -> float:
        t = math.exp(log_t)
        cosh_less_1 = 2.0 * math.sinh(t / 2.0) ** 2
        return job["sites"] * noise.share_variance * cosh_less_1 + proxy * t * t / 2.0 - t * distance

    least = minimize_scalar(exponent, bounds=(-25.0, 3.0), method="bounded", options={"xatol": 1e-10}).fun
    return math.log(2.0 * noise.size * job["rounds"]) + float(least)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"noise_multiplier": 30.0},
        {"units": 1},
        {"units": 20_000},
        {"n_params": 1, "noise_multiplier": 0.01, "honest": 5},
        {"n_params": 2**20, "sites": 200},
    ],
)
def test_the_words_are_the_narrowest_that_hardly_ever_wrap(changes: dict[str, Any]) -> None:
    job = JOB | changes
    noise = skellam_shares(**job)
    assert _log_wrap_probability(job, noise, noise.word_bits) <= math.log(1e-9)
    assert _log_wrap_probability(job, noise, noise.word_bits - 1) > math.log(1e-9)


def test_values_at_the_ends_of_the_range_come_back_and_the_next_one_wraps() -> None:
    noise = skellam_shares(**JOB | {"n_params": 1024})
    rotation = Rotation(SEED, 1024)
    top = 2 ** (noise.word_bits - 1)
    total = np.zeros(1024, np.uint64)
    total[:5] = [top - 1, top, 2 * top - 1, 1, 3 * top]  # The last one with a bit beyond the modulus.
    opened = open_sum(total, noise, rotation, CLIP)
    back = rotation.apply(opened[None])[0] * (noise.scale / CLIP)
    np.testing.assert_allclose(back[:6], [top - 1, -top, -1, 1, -top, 0], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_noise_the_opened_sum_is_the_clipped_sum_but_for_rounding(dtype: type) -> None:
    rows = _clipped(40).astype(dtype)
    shares = [RoundedSum(NOISE, ROTATION, CLIP, Quiet(b"site %d" % site)) for site in range(5)]
    for site, share in enumerate(shares):
        share.add(rows[8 * site : 8 * site + 3])
        share.add(rows[8 * site + 3 : 8 * site + 8])
    table = SkellamTable(NOISE.share_variance)
    total = np.sum([share.release(table) for share in shares], axis=0, dtype=np.uint32)
    error = open_sum(total, NOISE, ROTATION, CLIP) - rows.sum(0, dtype=np.float64)
    # A rounding has a variance of 1/4 at most, in integers; the mean is zero.
    step = CLIP / NOISE.scale
    assert 0.5 < np.sqrt(np.mean(error**2)) / (step * math.sqrt(40 / 6)) < math.sqrt(1.5)
    assert abs(error.mean()) < 5.0 * step * math.sqrt(40 / 4 / 1000)


@pytest.mark.parametrize("spread", [False, True])
def test_one_unit_more_moves_the_integers_by_no_more_than_the_sensitivity(spread: bool) -> None:
    rows = _clipped(6)
    if not spread:
        rows[-1] = 0.0
        rows[-1, 17] = -CLIP
    moved = [int(value) for value in _integers(rows) - _integers(rows[:-1])]
    assert 0.9 * NOISE.scale**2 < sum(value**2 for value in moved) <= NOISE.squared_l2
    assert sum(map(abs, moved)) <= NOISE.l1


def test_a_unit_that_was_not_clipped_moves_them_by_no_more_either() -> None:
    rows = _clipped(6)
    for factor in (1.01, 1.9, 50.0, 1e300, math.nan, math.inf):
        with np.errstate(all="ignore"):
            longer = np.vstack([rows, factor * rows[:1]])
        moved = [int(value) for value in _integers(longer) - _integers(rows)]
        assert sum(value**2 for value in moved) <= NOISE.squared_l2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308])
def test_a_row_that_is_not_finite_counts_as_zero_and_harms_no_other(value: float) -> None:
    rows = _clipped(4)
    bad = np.vstack([rows, rows[:1]])
    bad[-1, 3] = value
    np.testing.assert_array_equal(_integers(bad), _integers(rows))


def test_an_empty_batch_releases_its_share_of_noise() -> None:
    entered = RoundedSum(NOISE, ROTATION, CLIP, SystemSource())
    entered.add(np.empty((0, 1000), np.float32))
    centred = _centred(entered.release(SkellamTable(NOISE.share_variance)), NOISE.word_bits)
    assert np.var(centred) == pytest.approx(NOISE.share_variance, rel=0.3)


WIDE = skellam_shares(n_params=100_000, noise_multiplier=1.0, honest=3, sites=3, units=10, rounds=1)


def _has_calibrated_variance(releases: list[np.ndarray]) -> bool:
    """Of an opened sum of zero gradients: what the event charges for, within 2 %."""
    opened = open_sum(np.sum(releases, axis=0, dtype=np.uint32), WIDE, Rotation(SEED, 100_000), CLIP)
    calibrated = WIDE.squared_l2 * (CLIP / WIDE.scale) ** 2
    return abs(float(np.mean(opened**2)) / calibrated - 1.0) < 0.02


def _share(source: SeededSource, variance: int = WIDE.share_variance) -> np.ndarray:
    noise = replace(WIDE, share_variance=variance)
    return RoundedSum(noise, Rotation(SEED, 100_000), CLIP, source).release(SkellamTable(variance))


def test_honest_shares_add_up_to_the_calibrated_noise_and_a_broken_share_is_seen() -> None:
    honest = [_share(SeededSource(b"site %d" % site)) for site in range(3)]
    assert _has_calibrated_variance(honest)
    assert not _has_calibrated_variance([*honest[:2], _share(Quiet(b"none"))])
    assert not _has_calibrated_variance([*honest[:2], _share(SeededSource(b"half"), WIDE.share_variance // 4)])
    assert not _has_calibrated_variance([*honest[:2], honest[1]])


def test_noise_of_zero_gradients_is_even_over_the_coordinates() -> None:
    opened = open_sum(_share(SeededSource(b"even")), WIDE, Rotation(SEED, 100_000), CLIP)
    share = WIDE.share_variance * (CLIP / WIDE.scale) ** 2
    for part in np.array_split(opened, 4):
        assert float(np.mean(part**2)) == pytest.approx(share, rel=0.05)


def test_a_sum_is_released_once_and_takes_nothing_after() -> None:
    entered = RoundedSum(NOISE, ROTATION, CLIP, SystemSource())
    with pytest.raises(ConfigError, match="variance"):
        entered.release(SkellamTable(NOISE.share_variance + 1))
    released = entered.release(SkellamTable(NOISE.share_variance))
    assert released.dtype == np.uint32
    assert int(released.max()) < 2**NOISE.word_bits
    with pytest.raises(SpentError):
        entered.release(SkellamTable(NOISE.share_variance))
    with pytest.raises(SpentError):
        entered.add(_clipped(1))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"noise_multiplier": 0.0}, "noise multiplier"),
        ({"noise_multiplier": math.nan}, "noise multiplier"),
        ({"honest": 0}, "honest"),
        ({"honest": 6}, "at least the 6 honest"),
        ({"units": 0}, "units"),
        ({"rounds": 0}, "rounds"),
        ({"n_params": 0}, "n_params"),
        ({"noise_multiplier": 600.0}, f"to {LARGEST_VARIANCE}"),
        ({"units": 2**27}, "32 bits"),
    ],
)
def test_parameters_without_a_mechanism_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        skellam_shares(**JOB | changes)


@pytest.mark.parametrize(("n_params", "clip_norm"), [(3000, CLIP), (1000, 0.0), (1000, math.nan)])
def test_a_rotation_or_clip_norm_that_does_not_fit_is_refused(n_params: int, clip_norm: float) -> None:
    rotation = Rotation(SEED, n_params)
    with pytest.raises(ConfigError):
        RoundedSum(NOISE, rotation, clip_norm, SystemSource())
    with pytest.raises(ConfigError):
        open_sum(np.zeros(1024, np.uint32), NOISE, rotation, clip_norm)
