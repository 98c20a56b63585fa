"""Skellam noise: the distribution that is charged for and no other, down to the last bits of the table."""

import math
from bisect import bisect_right
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
import pytest
from scipy import special, stats

from yoriai.errors import ConfigError
from yoriai.privacy.dp.events import SAMPLER_ERROR
from yoriai.privacy.dp.randomness import SeededSource, SystemSource
from yoriai.privacy.dp.skellam import LARGEST_VARIANCE, SkellamTable

N = 100_000
# Far below any false alarm on honest noise.
SIGNIFICANCE = 1e-6
DEVIATION_6000 = 6000**2

table = lru_cache(SkellamTable)


class Scripted:
    """Hands out the words of one list, in order."""

    def __init__(self, *words: int) -> None:
        self._words = list(words)

    def words(self, n: int) -> np.ndarray:
        taken, self._words = self._words[:n], self._words[n:]
        assert len(taken) == n
        return np.array(taken, dtype=np.uint64)


def _cumulative(of: SkellamTable) -> list[int]:
    """2**127 P(|X| <= k), as the table has it."""
    return [int(high) << 64 | int(low) for high, low in zip(of.high, of.low, strict=True)]


def _pmf(variance: int, k: np.ndarray) -> np.ndarray:
    return np.asarray(stats.skellam.pmf(k, variance / 2, variance / 2))


def _has_pmf(drawn: np.ndarray, variance: int) -> bool:
    """Chi-squared over the values that are expected at least ten times, and two bins for the rest."""
    values = np.arange(-20 * math.isqrt(variance) - 20, 20 * math.isqrt(variance) + 21)
    expected = len(drawn) * _pmf(variance, values)
    common = np.flatnonzero(expected >= 10)
    low, high = values[common[0]], values[common[-1]]
    counts = np.bincount(np.clip(drawn, low - 1, high + 1) - (low - 1), minlength=high - low + 3)
    wanted = np.concatenate([[expected[: common[0]].sum()], expected[common], [expected[common[-1] + 1 :].sum()]])
    return bool(stats.chisquare(counts, wanted * counts.sum() / wanted.sum()).pvalue > SIGNIFICANCE)


def _has_variance(drawn: np.ndarray, variance: float) -> bool:
    return abs(float(np.mean(drawn.astype(np.float64) ** 2)) / variance - 1.0) < 0.02


@pytest.mark.parametrize("variance", [1, 2, 9, 250])
def test_draws_have_the_exact_probabilities(variance: int) -> None:
    drawn = table(variance).draw(SeededSource(b"pmf"), N)
    assert drawn.dtype == np.int64
    assert _has_pmf(drawn, variance)


@pytest.mark.parametrize("variance", [6, 240])
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_the_test_of_probabilities_rejects_a_wrong_variance(variance: int, factor: float) -> None:
    assert not _has_pmf(table(round(factor * variance)).draw(SeededSource(b"wrong"), N), variance)


@pytest.mark.parametrize("variance", [9, 250, DEVIATION_6000, LARGEST_VARIANCE // 64])
def test_moments_are_those_of_the_variance_and_of_no_other(variance: int) -> None:
    drawn = table(variance).draw(SeededSource(b"moments"), N)
    assert _has_variance(drawn, variance)
    assert not _has_variance(drawn, variance * 2 / 3)
    assert not _has_variance(drawn, variance * 3 / 2)
    assert abs(float(drawn.mean())) < 5.0 * math.sqrt(variance / N)
    # Excess kurtosis 1 / V; the estimate's deviation is about sqrt(24 / N).
    assert abs(float(stats.kurtosis(drawn)) - 1.0 / variance) < 0.12


def test_a_wide_skellam_is_a_gaussian_to_the_eye() -> None:
    source = SeededSource(b"wide")
    drawn = table(DEVIATION_6000).draw(source, N) + source.uniform(N) - 0.5
    assert stats.kstest(drawn / 6000.0, "norm").pvalue > SIGNIFICANCE
    assert stats.kstest(drawn / 6000.0 * math.sqrt(2 / 3), "norm").pvalue < SIGNIFICANCE


def test_a_sum_of_shares_is_noise_of_the_summed_variance() -> None:
    source = SystemSource()
    total = np.sum([table(4).draw(source, N) for _ in range(3)], axis=0)
    assert _has_pmf(total, 12)
    assert not _has_pmf(total, 8)


def _exact(variance: int, last: int) -> list[Decimal]:
    """exp(-V) I_k(V), k = 0 to last, by the power series of the Bessel function."""
    half = Decimal(variance) / 2
    probabilities = []
    for k in range(last + 1):
        term = half**k / math.factorial(k)
        total, m = Decimal(0), 0
        while term > total * Decimal("1e-90"):
            total += term
            m += 1
            term *= half * half / (m * (m + k))
        probabilities.append(total * Decimal(-variance).exp())
    return probabilities


@pytest.mark.parametrize("variance", [1, 5, 40])
def test_a_table_is_the_true_distribution_within_the_stated_error(variance: int) -> None:
    cumulative = _cumulative(table(variance))
    with localcontext() as context:
        context.prec = 100
        folded = [p if k == 0 else 2 * p for k, p in enumerate(_exact(variance, len(cumulative) - 1))]
        given = [Decimal(b - a) / 2**127 for a, b in zip([0, *cumulative[:-1]], cumulative, strict=True)]
        beyond = 1 - sum(folded)
        assert Decimal(0) <= beyond < Decimal(2) ** -124
        distance = (sum(abs(a - b) for a, b in zip(folded, given, strict=True)) + beyond) / 2
        assert distance < Decimal(SAMPLER_ERROR) / 8


@pytest.mark.parametrize("variance", [10**4, DEVIATION_6000, LARGEST_VARIANCE // 64])
def test_wide_tables_agree_with_the_bessel_function(variance: int) -> None:
    cumulative = _cumulative(table(variance))
    assert cumulative[-1] == 2**127
    for k in (1, math.isqrt(variance), 6 * math.isqrt(variance)):
        given = (cumulative[k] - cumulative[k - 1]) / 2**128
        assert given == pytest.approx(special.ive(k, variance), rel=1e-9)


def test_every_border_of_a_table_decides_as_the_exact_number_does() -> None:
    """Needles at, below and above the high word of each entry; the further 64 bits below, at and above the low one."""
    tried, cumulative = table(7), _cumulative(table(7))
    for at in range(len(cumulative) - 1):
        high, low = int(tried.high[at]), int(tried.low[at])
        for needle in {high - 1, high, min(high + 1, 2**63 - 1)}:
            for further in {max(low - 1, 0), low, min(low + 1, 2**64 - 1)}:
                expected = bisect_right(cumulative, needle << 64 | further)
                for sign in (0, 1):
                    drawn = tried.draw(Scripted(needle << 1 | sign, further), 1)
                    assert drawn[0] == (-expected if sign else expected)


def test_ties_among_many_draws_take_their_own_further_words() -> None:
    tried = table(7)
    tied = [int(tried.high[at]) << 1 for at in (0, 1, 2)]
    below, border = int(tried.low[0]) - 1, int(tried.low[1])
    drawn = tried.draw(Scripted(tied[0], 0, tied[1], tied[2], below, border, 0), 4)
    np.testing.assert_array_equal(drawn, [0, 0, 2, 2])


def test_the_largest_and_least_words_are_draws_too() -> None:
    last = len(table(7).high) - 1
    drawn = table(7).draw(Scripted(2**64 - 1, 0, 1, 2**64 - 1), 3)
    np.testing.assert_array_equal(drawn, [-last, 0, 0])


def test_both_signs_come_equally_often() -> None:
    drawn = table(DEVIATION_6000).draw(SeededSource(b"signs"), N)
    assert abs(int(np.sign(drawn).sum())) < 5.0 * math.sqrt(N)


@pytest.mark.parametrize("n", [0, 1, 65_535, 65_536, 65_537, 140_001])
def test_every_count_is_drawn(n: int) -> None:
    drawn = SystemSource().skellam(table(DEVIATION_6000), n)
    assert drawn.shape == (n,)
    assert n < 2 or abs(np.corrcoef(drawn[: n // 2], drawn[n // 2 : 2 * (n // 2)])[0, 1]) < 6.0 / math.sqrt(n // 2)


def test_a_source_draws_what_the_table_draws_from_it() -> None:
    np.testing.assert_array_equal(
        SeededSource(b"same").skellam(table(9), 1000), table(9).draw(SeededSource(b"same"), 1000)
    )


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        table(9).draw(SeededSource(b""), -1)


@pytest.mark.parametrize("variance", [0, -4, LARGEST_VARIANCE + 1, 2.5, True])
def test_a_variance_without_a_table_is_refused_with_a_remedy(variance: int) -> None:
    with pytest.raises(ConfigError, match="lower the scale"):
        SkellamTable(variance)


def test_the_stated_error_is_reached_by_no_table() -> None:
    """The sum of the docstring's terms, with the entries of the largest table."""
    entries = len(table(LARGEST_VARIANCE).high)
    assert 2.0**-125 + 2 * entries * 2.0**-126 + entries * 2.0**-127 + entries * 2.0**-176 < SAMPLER_ERROR
