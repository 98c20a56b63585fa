"""The neighbour graph: sizes, the stated bounds, and draws that nobody else can steer."""

import math
from collections import Counter
from fractions import Fraction

import pytest

from tests.privacy.secagg.cohort import seeded
from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.graph import (
    CORRECTNESS_LOG2,
    MAX_SITES,
    PLANS,
    PRIVACY_LOG2,
    FailureBounds,
    draw_holders,
    failure_bounds,
    neighbours,
    plan,
    quorum,
    short_of_holders,
)

_STARTS = [33, *(largest + 1 for largest, _, _ in PLANS[:-1])]
_SIZES = sorted(
    {n for start, (end, _, _) in zip(_STARTS, PLANS, strict=True) for n in (start, (start + end) // 2, end)}
)


@pytest.mark.parametrize("n", range(2, 33))
def test_up_to_32_sites_everybody_is_everybodys_neighbour(n: int) -> None:
    assert plan(n).holders == plan(n).in_degree_limit == n - 1
    assert draw_holders(0, tuple(range(n)), seeded("a")) == tuple(range(1, n))


@pytest.mark.parametrize("n", range(2, 33))
def test_in_the_complete_graph_a_third_of_colluders_stays_below_the_threshold(n: int) -> None:
    # With one more than a third, two quorums could meet in colluders only.
    assert n // 3 < plan(n).threshold <= n - 1


@pytest.mark.parametrize("n", [2, 3, 4, 6, 33, 100, 1000])
def test_two_quorums_share_more_signers_than_there_may_be_colluders(n: int) -> None:
    assert 2 * quorum(n) - n > n // 3


def test_the_sizes_of_the_sparse_graph_are_those_that_every_party_computes_with() -> None:
    """A party with another table is in no window with the others: a changed number is a change of the protocol."""
    steps = [(n, plan(n).holders, plan(n).threshold) for n in range(33, MAX_SITES + 1)]
    last = [step for step, following in zip(steps, [*steps[1:], (0, 0, 0)], strict=True) if step[1:] != following[1:]]
    assert last == [
        (40, 19, 15), (48, 23, 18), (64, 30, 23), (80, 35, 27), (96, 41, 31), (128, 50, 37), (160, 58, 42),
        (192, 67, 47), (256, 80, 56), (384, 94, 65), (512, 104, 72), (768, 117, 81), (1024, 125, 87),
        (1536, 139, 97), (2048, 148, 104),
    ]  # fmt: skip


@pytest.mark.parametrize("n", _SIZES)
def test_the_three_bounds_hold_at_both_ends_and_the_middle_of_every_step(n: int) -> None:
    bounds = failure_bounds(n, plan(n).holders, plan(n).threshold)
    assert bounds.colluders <= PRIVACY_LOG2
    assert bounds.disconnected <= PRIVACY_LOG2
    assert bounds.too_few_alive <= CORRECTNESS_LOG2


@pytest.mark.parametrize("step", [p for p in PLANS if 128 <= p[0] <= 512])
def test_an_eighth_fewer_holders_would_miss_a_bound(step: tuple[int, int, int]) -> None:
    n, holders = step[0], step[1] * 7 // 8

    def holds(b: FailureBounds) -> bool:
        return b.disconnected <= PRIVACY_LOG2 and b.too_few_alive <= CORRECTNESS_LOG2

    assert not any(holds(failure_bounds(n, holders, t)) for t in range(holders // 2, holders + 1))


def test_bounds_one_and_two_equal_sums_of_exact_fractions() -> None:
    n, m, t = 100, 50, 37
    colluding, dropped = n // 3, 10

    def chance(marked: int, x: int) -> float:
        return math.comb(marked, x) * math.comb(n - 1 - marked, m - x) / math.comb(n - 1, m)

    bounds = failure_bounds(n, m, 30)
    exact = (n - colluding) * sum(chance(colluding, x) for x in range(30, m + 1))
    assert bounds.colluders == pytest.approx(math.log2(exact), abs=1e-6)
    few = n * sum(chance(n - 1 - dropped, x) for x in range(t + 8))
    assert failure_bounds(n, m, t + 8).too_few_alive == pytest.approx(math.log2(few), abs=1e-6)


@pytest.mark.parametrize(("n", "m", "t"), [(12, 2, 2), (15, 3, 3), (40, 4, 4), (40, 19, 15), (48, 23, 18)])
def test_bound_three_equals_a_sum_of_exact_fractions(n: int, m: int, t: int) -> None:
    colluding = n // 3
    honest = n - colluding

    def avoids(x: int) -> Fraction:
        return Fraction(math.comb(n - 1 - x, m), math.comb(n - 1, m))

    def few_holders(s: int) -> Fraction:
        ways = sum(
            math.comb(colluding, x) * math.comb(n - 1 - colluding, m - x) for x in range(max(0, t - s + 1), m + 1)
        )
        return honest * Fraction(ways, math.comb(n - 1, m))

    def apart(s: int) -> Fraction:
        total = Fraction(0)
        for d in range(n - quorum(n) + 1):
            rest = honest - s - d
            if rest >= s:
                total += math.comb(honest - s, d) * avoids(rest) ** s * avoids(s) ** rest
        return math.comb(honest, s) * total

    exact = sum(min(few_holders(s), apart(s)) for s in range(1, honest // 2 + 1))
    assert failure_bounds(n, m, t).disconnected == pytest.approx(math.log2(exact), abs=1e-9)


@pytest.mark.parametrize("n", _SIZES)
def test_an_honest_site_is_hardly_ever_chosen_by_more_than_the_limit(n: int) -> None:
    m, limit = plan(n).holders, plan(n).in_degree_limit
    if limit < n - 1:
        # Chernoff: P[Bin(n - 1, m / (n - 1)) > 2m] <= exp(-m / 3).
        share = m / (n - 1)
        tail = math.fsum(
            math.exp(
                math.lgamma(n) - math.lgamma(x + 1) - math.lgamma(n - x) + x * math.log(share)
                + (n - 1 - x) * math.log1p(-share)
            )
            for x in range(limit + 1, n)
        )  # fmt: skip
        assert math.log2(n * tail + 1e-300) <= CORRECTNESS_LOG2


def test_draws_are_uniform_without_replacement() -> None:
    ids = tuple(range(40))
    entropy, draws = seeded("uniform"), 600
    seen: Counter[int] = Counter()
    for _ in range(draws):
        drawn = draw_holders(5, ids, entropy)
        assert len(set(drawn)) == plan(40).holders
        assert 5 not in drawn
        seen.update(drawn)
    share = plan(40).holders / 39
    chi_squared = sum((count - draws * share) ** 2 / (draws * share * (1 - share)) for count in seen.values())
    assert len(seen) == 39
    assert chi_squared < 39 + 5 * math.sqrt(2 * 39)


def test_a_value_that_would_favour_some_sites_is_drawn_again() -> None:
    """Of 2^32 values one is too many for three sites: the highest."""
    asked = []

    def highest_first(size: int) -> bytes:
        asked.append(size)
        return b"\xff" * size if len(asked) == 1 else bytes(size)

    draw_holders(0, (0, 1, 2, 3), highest_first)
    assert asked == [4] * (1 + 3)


def test_draws_depend_on_the_sites_own_entropy_only() -> None:
    ids = tuple(range(100))
    assert draw_holders(0, ids, seeded("a")) == draw_holders(0, ids, seeded("a"))
    assert draw_holders(0, ids, seeded("a")) != draw_holders(0, ids, seeded("b"))


def test_an_edge_counts_whichever_end_drew_it() -> None:
    graph = {0: frozenset({1}), 1: frozenset({2}), 2: frozenset({1})}
    assert [neighbours(site, graph) for site in graph] == [{1}, {0, 2}, {1}]


def test_members_short_of_holders_are_named() -> None:
    graph = {0: frozenset({1, 2}), 1: frozenset({0, 2}), 2: frozenset({0, 3}), 3: frozenset({0, 1})}
    assert short_of_holders({0, 1, 2}, graph, 2) == (2,)


@pytest.mark.parametrize("n", [0, 1, 2049])
def test_impossible_sizes_are_refused(n: int) -> None:
    with pytest.raises(ProtocolError):
        plan(n)
