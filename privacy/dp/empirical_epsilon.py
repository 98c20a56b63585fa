"""Lower bounds on epsilon from an attack, and estimates of it. Pure: scores and coins in, numbers out.

One-run audit (Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023). Each of m
canaries is in the data set or out of it by a fair coin of its own; the mechanism runs once; the auditor gives each
canary a score and guesses `in` for the highest and `out` for the lowest, abstaining on the rest.

Theorem 5.2 there: if the mechanism is (epsilon, delta)-differentially private under adding or removing one canary, then
for r guesses and W ~ Binomial(r, e^epsilon / (1 + e^epsilon))

    P[at least v are correct] <= P[W >= v] + 2 m delta · max over i = 1..v of P[v - i <= W < v] / i.

An epsilon for which the right side is below 1 - confidence is refuted. The bound is the least that is not.

Assumes: fair and independent coins, unknown to whoever scores; the number of guesses fixed before the scores are seen
(`plan_guesses`); one bound a run: the best of several needs its confidence shared out.
Does not show: that the mechanism is private. An attack can be weak, and r guesses never prove more than about
log(r / 3) at 95 %.

`epsilon_from_cosines` is no bound but an estimate (Andrew, Kairouz, Oh, Oprea, McMahan and Suriyakumar, "One-shot
empirical privacy estimation for federated learning", ICLR 2024): exact for the Gaussian mechanism in high dimension.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import Event

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
_Normal: TypeAlias = tuple[float, float]  # Mean and standard deviation.

# Beyond this nothing is told apart, neither by a bound, which ends near log(r), nor by a reader.
LARGEST_EPSILON = 100.0
_PLANS = 48


@dataclass(frozen=True)
class Guesses:
    """How the guesses of one run came out.

    Attributes:
        canaries: all of them, guessed on or not.
        made: guesses, half of them `in` and half `out`.
        correct: of those.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries:
            raise ConfigError(
                "the counts of an audit do not fit together",
                found=f"{self.correct} correct of {self.made} guesses on {self.canaries} canaries",
                expected="0 <= correct <= guesses <= canaries",
            )

    def __add__(self, other: "Guesses") -> "Guesses":
        """Both runs' guesses together, where no canary of one is in the other.

        Side by side the two are one mechanism that is as private as the less private of them, so that one bound, with
        all guesses and all canaries, holds against the larger of their epsilons. It is tighter than either.
        """
        return Guesses(self.canaries + other.canaries, self.made + other.made, self.correct + other.correct)

    def epsilon_lower(self, *, delta: float, confidence: float) -> float:
        """The largest epsilon that the guesses refute, by the theorem above; 0.0 if they refute none.

        Args:
            delta: of the claim that is audited, in [0, 1).
            confidence: probability, in (0, 1), that the bound is below the mechanism's epsilon.

        Raises:
            ConfigError: delta or confidence is outside its range.
        """
        if not (0.0 <= delta < 1.0 and 0.0 < confidence < 1.0):
            raise ConfigError(
                "an audit cannot use these probabilities",
                found=f"delta {delta!r}, confidence {confidence!r}",
                expected="delta in [0, 1) and confidence in (0, 1)",
            )

        def excess(epsilon: float) -> float:
            return _likelihood(epsilon, self, delta) - (1.0 - confidence)

        if self.correct == 0 or excess(0.0) >= 0.0:
            return 0.0
        if excess(LARGEST_EPSILON) < 0.0:
            return LARGEST_EPSILON
        return float(optimize.brentq(excess, 0.0, LARGEST_EPSILON, xtol=1e-6))


def _likelihood(epsilon: float, found: Guesses, delta: float) -> float:
    """The right side of the theorem, or 1 where that is less."""
    v, r = found.correct, found.made
    chance = float(special.expit(epsilon))
    # P[v - i <= W < v] for i = 1..v, summed from the top down so that small ones are not lost beside large ones.
    below = np.cumsum(stats.binom.pmf(np.arange(v - 1, -1, -1), r, chance))
    correction = float(np.max(below / np.arange(1, v + 1)))
    return min(1.0, float(stats.binom.sf(v - 1, r, chance)) + 2 * found.canaries * delta * correction)


def guess(scores: FloatArray, included: BoolArray, made: int) -> Guesses:
    """Guess `in` for the made/2 highest scores and `out` for the made/2 lowest, and count the correct ones.

    Equal scores are guessed on in the order of the canaries, which knows nothing of the coins.

    Args:
        scores: (m,), higher where a canary looks included.
        included: (m,), the coins.
        made: an even number of guesses, fixed before the scores were seen; at most m.

    Raises:
        ConfigError: shapes or the number of guesses do not fit, or a score is not a number.
    """
    if scores.shape != included.shape or scores.ndim != 1 or made % 2 or not 0 <= made <= len(scores):
        raise ConfigError(
            "these guesses cannot be made",
            found=f"{made} guesses, scores {scores.shape}, coins {included.shape}",
            expected="one score and one coin a canary, and an even number of guesses up to their number",
        )
    if np.isnan(scores).any():
        raise ConfigError("a canary's score is not a number", remedy="look at why its loss or its gradient is none")
    order = np.argsort(scores, kind="stable")
    half = made // 2
    correct = int((~included[order[:half]]).sum() + included[order[len(order) - half :]].sum())
    return Guesses(len(scores), made, correct)


def plan_guesses(canaries: int, event: Event, *, delta: float, confidence: float) -> int:
    """How many guesses to make, from public values alone: the number whose expected outcome gives the best bound.

    Expects what an ideal attack on the mechanism sees: a canary's sum over the steps is Gaussian, shifted if it is in.

    Args:
        canaries: at least 2.
        event: the whole run's.

    Raises:
        ConfigError: there are fewer than 2 canaries.
    """
    if canaries < 2:
        raise ConfigError("too few canaries for an audit", found=str(canaries), expected="at least 2")
    rate, variance = event.sampling_rate, event.noise_multiplier**2
    shift = rate * math.sqrt(event.steps / variance)
    spread = math.sqrt(1.0 + rate * (1.0 - rate) / variance)  # Of those that are in: sampling adds to the noise.

    def tail(threshold: float) -> tuple[float, float]:
        return float(stats.norm.sf(threshold)), float(stats.norm.sf((threshold - shift) / spread))

    halves = sorted({int(h) for h in np.geomspace(1, canaries // 2, _PLANS)})
    best, planned = -1.0, 2
    for half in halves:
        share = 2 * half / canaries  # P[out above] + P[in above], for coins of one half.

        def short(threshold: float, share: float = share) -> float:
            return sum(tail(threshold)) - share

        threshold = optimize.brentq(short, -60.0, 60.0 + shift + 40.0 * spread)
        correct = round(2 * half * tail(threshold)[1] / share)
        bound = Guesses(canaries, 2 * half, correct).epsilon_lower(delta=delta, confidence=confidence)
        if bound > best:
            best, planned = bound, 2 * half
    return planned


def likelihood_scores(seen: FloatArray, event: Event) -> npt.NDArray[np.float64]:
    """Log-likelihood ratio of `in` over `out` for each canary, from what each round showed of it.

    By Neyman and Pearson the best score there is for canaries that do not overlap. With every record in every step it
    orders the canaries as the plain sum of the inner products does.

    Args:
        seen: (rounds, m), inner product of a round's noised gradient sum with the canary's unit direction, in units of
            clip_norm.
        event: of one round, its local steps together.

    Returns:
        (m,).
    """
    taken = np.arange(event.steps + 1)[:, None, None]  # Steps of the round that drew the canary.
    chances = stats.binom.logpmf(taken, event.steps, event.sampling_rate)
    variance = event.steps * event.noise_multiplier**2
    exponents = chances + (2.0 * taken * seen[None] - taken**2) / (2.0 * variance)
    ratios: npt.NDArray[np.float64] = special.logsumexp(exponents, axis=0).sum(0)
    return ratios


def spread_scores(seen: FloatArray) -> npt.NDArray[np.float64]:
    """Variance over the rounds of what they showed of each canary: (rounds, m) -> (m,).

    Weak against fresh noise, and perfect against noise that repeats itself, which falls out of every difference between
    two rounds: the fault that no sum over the rounds can show.
    """
    spread: npt.NDArray[np.float64] = np.var(seen.astype(np.float64), axis=0)
    return spread


def epsilon_from_cosines(cosines: FloatArray, dimension: int, delta: float) -> float:
    """Estimate of epsilon from the cosines of a release with random directions that are all in it; no bound.

    A direction that is not in has a cosine of mean 0 and variance 1/dimension, known without a measurement; those that
    are in are taken as Gaussian too, with their own mean and variance. The estimate is the epsilon at which these two
    Gaussians are indistinguishable up to delta, in both directions.

    Args:
        cosines: (k,), k >= 2.
        dimension: of the release.
        delta: in (0, 1).

    Returns:
        At most LARGEST_EPSILON.

    Raises:
        ConfigError: fewer than 2 cosines, or delta out of range.

    Reference: Andrew et al., ICLR 2024, algorithms 1 and 2.
    """
    if len(cosines) < 2 or not 0.0 < delta < 1.0:
        raise ConfigError(
            "epsilon cannot be estimated from this",
            found=f"{len(cosines)} cosines, delta {delta!r}",
            expected="at least 2 cosines and a delta in (0, 1)",
        )
    scale = math.sqrt(dimension)  # In units of the null's deviation.
    inside = (float(np.mean(cosines)) * scale, max(float(np.std(cosines, ddof=1)) * scale, 1e-9))
    outside = (0.0, 1.0)

    def excess(epsilon: float) -> float:
        return max(_hockey_stick(epsilon, inside, outside), _hockey_stick(epsilon, outside, inside)) - delta

    if excess(0.0) <= 0.0:
        return 0.0
    if excess(LARGEST_EPSILON) > 0.0:
        return LARGEST_EPSILON
    return float(optimize.brentq(excess, 0.0, LARGEST_EPSILON, xtol=1e-6))


def _hockey_stick(epsilon: float, p: _Normal, q: _Normal) -> float:
    """P(S) - e^epsilon Q(S) for S = {log p/q > epsilon}: the delta that goes with epsilon, one way round."""
    (m, s), (n, t) = p, q
    square = 0.5 / t**2 - 0.5 / s**2
    linear = m / s**2 - n / t**2
    constant = 0.5 * (n / t) ** 2 - 0.5 * (m / s) ** 2 + math.log(t / s) - epsilon
    if abs(square) < 1e-12:
        if linear == 0.0:
            return 0.0  # Equal Gaussians.
        ends = [-constant / linear, math.inf] if linear > 0.0 else [-math.inf, -constant / linear]
        return _inside(ends, p) - math.exp(epsilon) * _inside(ends, q)
    discriminant = linear**2 - 4.0 * square * constant
    if discriminant <= 0.0:
        return 0.0  # S is empty, or everything: 1 - e^epsilon is no more.
    ends = sorted((-linear + sign * math.sqrt(discriminant)) / (2.0 * square) for sign in (-1.0, 1.0))
    if square < 0.0:
        return _inside(ends, p) - math.exp(epsilon) * _inside(ends, q)
    parts = ([-math.inf, ends[0]], [ends[1], math.inf])
    return sum(_inside(part, p) - math.exp(epsilon) * _inside(part, q) for part in parts)


def _inside(ends: list[float], normal: _Normal) -> float:
    """Probability of an interval, accurate in either tail."""
    low, high = ((end - normal[0]) / normal[1] for end in ends)
    if low > 0.0:
        return float(stats.norm.sf(low) - stats.norm.sf(high))
    return float(stats.norm.cdf(high) - stats.norm.cdf(low))


def auc(scores: FloatArray, included: BoolArray) -> float:
    """Probability that a member scores above a non-member, ties counting half: the area under the attack's curve."""
    ranks = stats.rankdata(scores)
    members, others = int(included.sum()), int((~included).sum())
    if not members or not others:
        raise ConfigError("an attack needs members and others", found=f"{members} members, {others} others")
    return float((ranks[included].sum() - members * (members + 1) / 2) / (members * others))


def true_positive_rate(scores: FloatArray, included: BoolArray, false_positive_rate: float = 0.01) -> float:
    """Share of the members above a threshold that at most this share of the others is above (Carlini et al. 2022)."""
    others = np.sort(scores[~included])[::-1]
    if not len(others) or not included.any():
        raise ConfigError("an attack needs members and others", found=f"{included.sum()} members of {len(scores)}")
    threshold = others[int(false_positive_rate * len(others))]
    return float((scores[included] > threshold).mean())
