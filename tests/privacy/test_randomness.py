"""Randomness: right distributions, never the same noise twice, secrets that do not leave."""

import copy
import math
import os
import pickle

import numpy as np
import pytest
from scipy import stats

from yoriai.privacy.dp import randomness
from yoriai.privacy.dp.randomness import RandomSource, SeededSource, SystemSource
from yoriai.privacy.dp.skellam import SkellamTable

N = 200_000
# Far below any false alarm on honest noise: these tests draw from the operating system.
SIGNIFICANCE = 1e-6


def _is_standard_gaussian(values: np.ndarray) -> bool:
    variance_fits = abs(float(np.mean(values**2)) - 1.0) < 0.02
    return variance_fits and bool(stats.kstest(values, "norm").pvalue > SIGNIFICANCE)


@pytest.fixture(params=["system", "seeded"])
def source(request: pytest.FixtureRequest) -> RandomSource:
    return SystemSource() if request.param == "system" else SeededSource(b"a test")


def test_gaussians_are_standard(source: RandomSource) -> None:
    assert _is_standard_gaussian(source.gaussian(N))


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_the_test_for_standard_gaussians_rejects_a_wrong_sigma(factor: float) -> None:
    assert not _is_standard_gaussian(factor * SeededSource(b"wrong sigma").gaussian(N))


def test_tails_of_the_gaussian_are_as_heavy_as_they_should_be() -> None:
    values = SeededSource(b"tails").gaussian(2_000_000)
    for bound in (3.0, 4.0):
        expected = len(values) * math.erfc(bound / math.sqrt(2.0))
        assert np.count_nonzero(np.abs(values) > bound) == pytest.approx(expected, abs=5.0 * math.sqrt(expected))


def test_gaussians_that_share_their_pairs_are_uncorrelated() -> None:
    values = SeededSource(b"halves").gaussian(16_384).reshape(2, -1)
    for left, right in (values, np.abs(values)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5.0 / math.sqrt(values.shape[1])


def test_each_gaussian_is_half_the_sum_of_four_box_muller_draws_of_eight_uniforms() -> None:
    """Holohan and Braghin 2021, n = 4: one draw alone could be inverted."""
    half = 8
    radius_by, angle_by = SeededSource(b"eight").uniform(8 * half).reshape(2, 4, half)
    radius, angle = np.sqrt(-2.0 * np.log(1.0 - radius_by)), 2.0 * np.pi * angle_by
    expected = np.concatenate([(radius * np.cos(angle)).sum(0), (radius * np.sin(angle)).sum(0)]) / 2.0
    np.testing.assert_allclose(SeededSource(b"eight").gaussian(2 * half), expected, rtol=1e-12)


def test_neighbouring_gaussians_are_uncorrelated(source: RandomSource) -> None:
    values = source.gaussian(N)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 6.0 / math.sqrt(N)


def test_uniforms_are_uniform_below_one_and_use_all_53_bits(source: RandomSource) -> None:
    values = source.uniform(N)
    assert values.dtype == np.float64
    assert stats.kstest(values, "uniform").pvalue > SIGNIFICANCE
    assert values.min() >= 0.0
    assert values.max() < 1.0
    lowest_bits = (values * 2.0**53).astype(np.uint64) & np.uint64(1)
    assert float(np.mean(lowest_bits)) == pytest.approx(0.5, abs=6.0 * 0.5 / math.sqrt(N))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 16_383, 16_384, 16_385, 40_001])
def test_every_count_gives_that_many_distinct_finite_values(source: RandomSource, n: int) -> None:
    for values in (source.gaussian(n), source.uniform(n)):
        assert values.shape == (n,)
        assert np.isfinite(values).all()
        assert len(np.unique(values)) == n


def test_no_noise_is_handed_out_twice_by_one_source(source: RandomSource) -> None:
    drawn = np.concatenate([source.gaussian(1000) for _ in range(5)])
    assert len(np.unique(drawn)) == len(drawn)


def test_two_system_sources_share_no_noise() -> None:
    assert not np.isin(SystemSource().gaussian(10_000), SystemSource().gaussian(10_000)).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_taken_back_to_a_snapshot_does_not_repeat_its_noise() -> None:
    """What a snapshot of its memory holds is the stream: set back to where it was, it goes on otherwise."""
    table = SkellamTable(1000)
    for draw in (lambda source: source.gaussian(1000), lambda source: source.skellam(table, 1000)):
        source = SystemSource()
        key, start = bytes(32), bytes(16)
        drawn = []
        for _ in range(2):
            source._stream = randomness._keystream(key, start)
            drawn.append(draw(source))
        assert not np.array_equal(*drawn)


def test_a_forked_process_does_not_repeat_its_parents_noise() -> None:
    source = SystemSource()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, source.gaussian(8).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 64))
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 8
    assert not np.isin(source.gaussian(8), theirs).any()


def test_a_seeded_source_repeats_itself_and_another_seed_does_not() -> None:
    first = SeededSource(b"seed").gaussian(1000)
    np.testing.assert_array_equal(first, SeededSource(b"seed").gaussian(1000))
    assert not np.isin(first, SeededSource(b"other").gaussian(1000)).any()


def test_the_seeded_stream_is_the_published_aes_256_ctr_keystream() -> None:
    # NIST SP 800-38A, F.5.5: CTR-AES256, first output block.
    from yoriai.privacy.dp.randomness import _keystream

    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    start = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    assert _keystream(key, start).update(bytes(16)).hex() == "0bdf7df1591716335e9a8b15c860c502"


def test_words_are_the_whole_stream_that_uniforms_take_53_bits_of() -> None:
    first, second = SeededSource(b"words"), SeededSource(b"words")
    words = np.concatenate([first.words(5), first.words(0), first.words(1000)])
    assert words.dtype == np.uint64
    np.testing.assert_array_equal((words >> np.uint64(11)) * 2.0**-53, second.uniform(1005))
    means = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).mean(0)
    np.testing.assert_allclose(means, 0.5, atol=6.0 * 0.5 / math.sqrt(len(words)))


def test_the_seeded_source_says_that_it_is_for_tests_only() -> None:
    assert "FOR TESTS ONLY" in (SeededSource.__doc__ or "")


def test_a_source_shows_nothing_and_is_neither_pickled_nor_copied(source: RandomSource) -> None:
    assert repr(source) == f"{type(source).__name__}(<secret>)"
    for smuggle in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="must not be pickled"):
            smuggle(source)


def test_a_negative_count_is_refused(source: RandomSource) -> None:
    with pytest.raises(ValueError, match="-1"):
        source.gaussian(-1)
    with pytest.raises(ValueError, match="-1"):
        source.words(-1)
    with pytest.raises(ValueError, match="-1"):
        source.uniform(-1)
