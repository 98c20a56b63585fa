"""The audit's arithmetic: closed forms, known mechanisms, and the ideal attack on a Gaussian."""

import math

import numpy as np
import pytest
from scipy import stats

from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import SampledGaussian, calibrate
from yoriai.privacy.dp.empirical_epsilon import (
    LARGEST_EPSILON,
    Guesses,
    auc,
    epsilon_from_cosines,
    guess,
    likelihood_scores,
    plan_guesses,
    spread_scores,
    true_positive_rate,
)

DELTA, CONFIDENCE = 1e-5, 0.95


def bound(correct: int, made: int = 100, canaries: int = 1000, delta: float = DELTA) -> float:
    return Guesses(canaries, made, correct).epsilon_lower(delta=delta, confidence=CONFIDENCE)


@pytest.mark.parametrize("made", [10, 100, 1000])
def test_all_guesses_correct_without_delta_give_the_closed_form(made: int) -> None:
    """(e^epsilon / (1 + e^epsilon))^r = 1 - confidence."""
    chance = (1 - CONFIDENCE) ** (1 / made)
    expected = math.log(chance / (1 - chance))
    assert bound(made, made, delta=0.0) == pytest.approx(expected, abs=1e-5)


def test_one_guess_with_delta_gives_the_closed_form() -> None:
    """r = v = 1: P[W >= 1] + 2 m delta P[W = 0], a straight line in the chance."""
    canaries, delta, confidence = 10, 0.001, 0.2
    slack = 2 * canaries * delta
    chance = ((1 - confidence) - slack) / (1 - slack)
    found = Guesses(canaries, 1, 1).epsilon_lower(delta=delta, confidence=confidence)
    assert found == pytest.approx(math.log(chance / (1 - chance)), abs=1e-5)


def test_the_correction_is_that_of_a_loop_over_the_theorem() -> None:
    """At the bound, the theorem's right side is one minus the confidence."""
    found = bound(90)
    chance = 1 / (1 + math.exp(-found))
    w = stats.binom(100, chance)
    worst = max(sum(w.pmf(k) for k in range(90 - i, 90)) / i for i in range(1, 91))
    assert w.sf(89) + 2 * 1000 * DELTA * worst == pytest.approx(1 - CONFIDENCE, rel=1e-3)


def test_more_correct_guesses_never_lower_the_bound() -> None:
    found = [bound(correct) for correct in range(101)]
    assert found == sorted(found)
    assert found[50] == 0.0
    assert found[-1] > 2.0


def test_a_larger_delta_or_confidence_lowers_the_bound() -> None:
    assert bound(95, delta=1e-4) < bound(95, delta=1e-6) < bound(95, delta=0.0)
    guesses = Guesses(1000, 100, 95)
    assert guesses.epsilon_lower(delta=DELTA, confidence=0.99) < guesses.epsilon_lower(delta=DELTA, confidence=0.9)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_overestimated_no_oftener_than_the_confidence_allows(epsilon: float) -> None:
    """The tight case: every guess is right with exactly e^epsilon / (1 + e^epsilon)."""
    trials, made = 4000, 200
    chance = 1 / (1 + math.exp(-epsilon))
    counts = np.random.default_rng(7).binomial(made, chance, trials)
    values, times = np.unique(counts, return_counts=True)
    bounds = np.array([bound(int(v), made, made, delta=0.0) for v in values])
    above = times[bounds > epsilon].sum() / trials
    assert above <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert above >= 0.005  # A bound that is never above the truth gives more away than it must.


@pytest.mark.parametrize(("canaries", "expected"), [(1000, 1.5), (5000, 1.97)])
def test_an_ideal_attack_on_one_gaussian_step_averages_what_is_known(canaries: int, expected: float) -> None:
    noise = calibrate(epsilon=4.0, delta=DELTA, sampling_rate=1.0, steps=1)
    event, generator, found = SampledGaussian(1.0, noise), np.random.default_rng(3), []
    made = plan_guesses(canaries, event, delta=DELTA, confidence=CONFIDENCE)
    for _ in range(60):
        included = generator.random(canaries) < 0.5
        seen = included + noise * generator.normal(size=(1, canaries))
        scores = likelihood_scores(seen, event)
        found.append(guess(scores, included, made).epsilon_lower(delta=DELTA, confidence=CONFIDENCE))
    assert np.mean(found) == pytest.approx(expected, abs=0.15)
    assert max(found) < 4.0


def test_the_likelihood_score_beats_the_sum_where_records_are_sampled() -> None:
    event, generator = SampledGaussian(0.1, 0.6), np.random.default_rng(5)
    included = generator.random(4000) < 0.5
    seen = (generator.random((20, 4000)) < 0.1) * included + 0.6 * generator.normal(size=(20, 4000))
    assert auc(likelihood_scores(seen, event), included) > auc(seen.sum(0), included) + 0.01


def test_the_likelihood_score_of_one_step_is_the_log_of_the_density_ratio() -> None:
    event, x = SampledGaussian(0.3, 0.8), np.array([[-0.4, 0.2, 1.7]])
    inside = 0.3 * stats.norm(1, 0.8).pdf(x[0]) + 0.7 * stats.norm(0, 0.8).pdf(x[0])
    np.testing.assert_allclose(likelihood_scores(x, event), np.log(inside / stats.norm(0, 0.8).pdf(x[0])), rtol=1e-9)


def test_the_spread_score_finds_what_repeated_noise_hides_from_the_sum() -> None:
    generator = np.random.default_rng(6)
    included = generator.random(500) < 0.5
    noise = np.tile(10 * generator.normal(size=500), (20, 1))
    seen = (generator.random((20, 500)) < 0.25) * included + noise
    assert auc(spread_scores(seen), included) > 0.99
    assert auc(seen.sum(0), included) < 0.7


def test_guesses_fall_on_the_highest_and_the_lowest() -> None:
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    included = np.array([True, False, False, True, True, True])
    assert guess(scores, included, 2) == Guesses(6, 2, 1)
    assert guess(scores, included, 4) == Guesses(6, 4, 2)


@pytest.mark.parametrize("made", [3, 8, -2])
def test_guesses_that_cannot_be_made_are_refused(made: int) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        guess(np.zeros(6), np.zeros(6, np.bool_), made)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a number"):
        guess(np.array([0.0, math.nan]), np.array([True, False]), 2)


def test_counts_and_probabilities_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit together"):
        Guesses(10, 5, 6)
    with pytest.raises(ConfigError, match="probabilities"):
        Guesses(10, 5, 5).epsilon_lower(delta=1.0, confidence=0.95)
    with pytest.raises(ConfigError, match="too few canaries"):
        plan_guesses(1, SampledGaussian(1.0, 1.0), delta=DELTA, confidence=CONFIDENCE)


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_random_directions_estimate_the_epsilon_of_one_gaussian_step(epsilon: float) -> None:
    noise, dimension = calibrate(epsilon=epsilon, delta=DELTA, sampling_rate=1.0, steps=1), 20_000
    generator, count = np.random.default_rng(8), 300
    directions = generator.normal(size=(count, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    release = directions.sum(0) + noise * generator.normal(size=dimension)
    cosines = directions @ release / np.linalg.norm(release)
    assert epsilon_from_cosines(cosines, dimension, DELTA) == pytest.approx(epsilon, rel=0.2)


def test_the_estimate_agrees_with_the_accountant_where_only_the_means_differ() -> None:
    """Cosines of exactly the null's deviation, shifted by one over the noise multiplier."""
    noise, dimension = calibrate(epsilon=2.0, delta=DELTA, sampling_rate=1.0, steps=1), 10_000
    grid = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    cosines = (grid / grid.std(ddof=1) + 1 / noise) / math.sqrt(dimension)
    assert epsilon_from_cosines(cosines, dimension, DELTA) == pytest.approx(2.0, rel=0.01)


def test_directions_that_left_no_trace_estimate_nearly_nothing_and_plain_ones_all() -> None:
    grid = stats.norm.ppf((np.arange(4000) + 0.5) / 4000) / 100
    assert epsilon_from_cosines(grid, 10_000, DELTA) < 0.1
    assert epsilon_from_cosines(np.full(10, 0.9), 10_000, DELTA) == LARGEST_EPSILON
    with pytest.raises(ConfigError, match="cannot be estimated"):
        epsilon_from_cosines(np.array([0.1]), 100, DELTA)


def test_area_and_rate_of_an_attack_are_those_of_a_count_by_hand() -> None:
    included = np.array([True, True, False, False, False])
    scores = np.array([3.0, 1.0, 2.0, 1.0, 0.0])
    assert auc(scores, included) == pytest.approx((3 + 1.5) / 6)
    assert true_positive_rate(scores, included, 0.01) == 0.5
    assert true_positive_rate(scores, included, 0.34) == 0.5
    assert true_positive_rate(scores, included, 0.67) == 1.0
