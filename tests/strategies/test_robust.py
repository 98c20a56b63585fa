"""Aggregations that bear false updates: by hand, under one wild update, in any order of the sites, with too few."""

import itertools
import math

import numpy as np
import pytest

from yoriai.errors import AdapterError, ConfigError, RoundError
from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.robust import KINDS, aggregate, least_updates, norm_bounded, trimmed

ROBUST = ("median", "trimmed_mean", "krum")


def state_of(*values):
    return AdapterState({"x:A": np.array([values], np.float64)})


def updates_of(*rows, weight=1.0):
    return {f"site-{index}": (weight, state_of(*row)) for index, row in enumerate(rows)}


def aggregated(kind, updates, trim_fraction=0.1, byzantine_sites=1):
    return aggregate(kind, updates, trim_fraction=trim_fraction, byzantine_sites=byzantine_sites)


def values_of(state):
    return state.flatten().tolist()


def random_updates(count, seed=0):
    draw = np.random.default_rng(seed)
    return {
        f"site-{index}": (
            float(index + 1),
            AdapterState({"x:A": draw.standard_normal((2, 3)), "y:B": draw.standard_normal((4, 2))}),
        )
        for index in range(count)
    }


# By hand -----------------------------------------------


def test_the_mean_is_the_weighted_mean_to_the_bit():
    updates = random_updates(5)
    assert aggregated("mean", updates) == weighted_mean(updates)


def test_the_median_of_an_odd_number_is_the_middle_value_of_each_coordinate():
    updates = updates_of((5, -1), (1, 0), (2, 8))
    assert values_of(aggregated("median", updates)) == [2, 0]


def test_the_median_of_an_even_number_is_the_mean_of_the_two_middle_values():
    updates = updates_of((5, -1), (1, 0), (2, 8), (3, 4))
    assert values_of(aggregated("median", updates)) == [2.5, 2]


def test_the_trimmed_mean_by_hand():
    # 0.2 of five is one: 0 and 100 go from the first coordinate, -7 and 5 from the second.
    updates = updates_of((1, 5), (0, 4), (2, -7), (6, 1), (100, 4))
    assert values_of(aggregated("trimmed_mean", updates, trim_fraction=0.2)) == [3, 3]


@pytest.mark.parametrize(
    ("trim_fraction", "count", "cut"),
    [
        (0.1, 3, 1),
        (0.1, 10, 1),
        (0.1, 19, 1),
        (0.1, 20, 2),
        (0.4, 5, 2),
        (0.49, 3, 1),
        (0.29, 100, 29),
        (0.49, 100, 49),
    ],
)
def test_a_trimmed_mean_drops_its_share_rounded_down_but_at_least_one(trim_fraction, count, cut):
    assert trimmed(trim_fraction, count) == cut


@pytest.mark.parametrize("count", range(3, 60))
def test_a_trimmed_mean_always_leaves_something(count):
    assert 2 * trimmed(math.nextafter(0.5, 0), count) < count


def test_krum_takes_the_update_nearest_to_its_neighbours():
    # With n = 6 and f = 1 three neighbours count. On a line, at 0, 1, 2, 3, 4 and 100, the sums of the three least
    # squared distances are 14, 6, 6, 6, 14 and far more: of the equal ones the first site by name.
    updates = updates_of((0,), (1,), (2,), (3,), (4,), (100,))
    assert values_of(aggregated("krum", updates)) == [1]


def test_krum_counts_n_minus_f_minus_two_neighbours():
    # n = 7. With f = 1 four neighbours count, and 12 has the least sum: 4 + 9 + 25 + 36 = 74. With f = 2 three count,
    # and it is 3: 9 + 9 + 16 = 34. With two it would be 14, with five 7.
    updates = updates_of((0,), (3,), (6,), (7,), (12,), (14,), (15,))
    assert values_of(aggregated("krum", updates)) == [12]
    assert values_of(aggregated("krum", updates, byzantine_sites=2)) == [3]


def test_krum_gives_one_of_the_updates_to_the_bit():
    updates = random_updates(7)
    assert aggregated("krum", updates, byzantine_sites=2) in [update for _, update in updates.values()]


def test_krum_measures_distances_over_all_tensors():
    near, far = np.zeros((1, 1)), np.full((1, 1), 50.0)
    updates = {
        name: (1.0, AdapterState({"x:A": np.array([[float(a)]]), "y:B": b}))
        for name, a, b in [("a", 0, far), ("b", 0.2, near), ("c", 0.3, near), ("d", 0.5, near), ("e", 0, -far)]
    }
    assert aggregated("krum", updates) == updates["c"][1]


# One wild update ---------------------------------------


@pytest.mark.parametrize("kind", ROBUST)
@pytest.mark.parametrize("wild", [1e6, -1e6, 3e38])
@pytest.mark.parametrize("place", range(5))
def test_one_wild_update_of_five_does_not_leave_the_range_of_the_honest(kind, wild, place):
    honest = np.random.default_rng(1).standard_normal((4, 6))
    rows = np.insert(honest, place, np.full(6, wild), axis=0)
    out = aggregated(kind, updates_of(*rows)).flatten()
    assert (out >= honest.min(axis=0).astype(np.float32)).all()
    assert (out <= honest.max(axis=0).astype(np.float32)).all()


def test_one_wild_update_of_five_does_move_the_mean():
    honest = np.random.default_rng(1).standard_normal((4, 6))
    out = aggregated("mean", updates_of(*honest, np.full(6, 1e6))).flatten()
    assert (out > honest.max(axis=0)).all()


def test_two_wild_updates_of_seven_do_not_get_past_krum_that_bears_two():
    honest = np.random.default_rng(2).standard_normal((5, 6))
    updates = updates_of(np.full(6, 1e3), *honest, np.full(6, 1e3))
    assert np.abs(aggregated("krum", updates, byzantine_sites=2).flatten()).max() < 10


@pytest.mark.parametrize("kind", ROBUST)
def test_weights_above_zero_do_not_bear_on_a_robust_aggregation(kind):
    updates = random_updates(5)
    heavy = {site: (255.0 if site == "site-3" else 1.0, update) for site, (_, update) in updates.items()}
    assert aggregated(kind, heavy) == aggregated(kind, updates)


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_of_weight_zero_does_not_count_at_all(kind):
    updates = random_updates(5)
    more = {**updates, "site-15": (0.0, state_of(math.inf))}
    assert aggregated(kind, more) == aggregated(kind, updates)


# Order and equality ------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_mapping_does_not_change_a_bit(kind):
    updates = random_updates(5)
    results = {aggregated(kind, dict(order)).digest() for order in itertools.permutations(updates.items())}
    assert len(results) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_mapping_does_not_decide_between_the_two_zeros(kind):
    updates = updates_of((0.0,), (-0.0,), (-0.0,), (0.0,), (-0.0,))
    results = {aggregated(kind, dict(order)).digest() for order in itertools.permutations(updates.items())}
    assert len(results) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_updates_come_out_as_they_are(kind):
    update = random_updates(1)["site-0"][1]
    assert aggregated(kind, {f"site-{i}": (1.0 + i, update) for i in range(6)}) == update


@pytest.mark.parametrize("order", [("a", "b", "c", "d", "e"), ("e", "d", "c", "b", "a")])
def test_krum_breaks_ties_by_the_names_of_sites(order):
    corners = {"a": (3, 4), "b": (-3, -4), "c": (4, -3), "d": (-4, 3), "e": (100, 100)}
    updates = {site: (1.0, state_of(*corners[site])) for site in order}
    assert values_of(aggregated("krum", updates)) == [3, 4]


# Refusals ----------------------------------------------


@pytest.mark.parametrize(
    ("kind", "byzantine_sites", "least"), [("median", 1, 3), ("trimmed_mean", 1, 3), ("krum", 1, 5), ("krum", 3, 9)]
)
def test_too_few_updates_are_refused_with_the_number_needed(kind, byzantine_sites, least):
    assert aggregated(kind, random_updates(least), byzantine_sites=byzantine_sites)
    with pytest.raises(RoundError, match=f"{kind}; found {least - 1} of positive weight; expected at least {least};"):
        aggregated(kind, random_updates(least - 1), byzantine_sites=byzantine_sites)


@pytest.mark.parametrize("kind", KINDS)
def test_sites_of_weight_zero_alone_are_too_few(kind):
    with pytest.raises(RoundError, match="found 0 of positive weight"):
        aggregated(kind, updates_of(*[(1.0,)] * 9, weight=0.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused(kind, weight):
    with pytest.raises(AdapterError, match="weight of site site-0"):
        aggregated(kind, updates_of(*[(1.0,)] * 9, weight=weight))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_refused_with_its_site(kind, value):
    with pytest.raises(AdapterError, match=r"site site-2: tensor x:A"):
        aggregated(kind, updates_of((1,), (2,), (value,), (3,), (4,)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [state_of(1, 2), AdapterState({"y:A": np.ones((1, 1))})])
def test_updates_of_different_tensors_are_refused(kind, other):
    with pytest.raises(AdapterError, match="tensor"):
        aggregated(kind, {**updates_of((1,), (2,), (3,), (4,)), "site-4": (1.0, other)})


def test_an_unknown_aggregation_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError, match="mean, median, trimmed_mean, krum") as caught:
        aggregated("medain", random_updates(5))
    assert 'did you mean "median"?' in str(caught.value)


@pytest.mark.parametrize("trim_fraction", [0.0, -0.1, 0.5, math.nan])
def test_a_trim_fraction_outside_its_bounds_is_refused(trim_fraction):
    with pytest.raises(ConfigError, match="trim_fraction"):
        aggregated("trimmed_mean", random_updates(5), trim_fraction=trim_fraction)


def test_krum_that_is_to_bear_none_is_refused():
    with pytest.raises(ConfigError, match="byzantine_sites"):
        least_updates("krum", 0)


# Norm bound --------------------------------------------


def norm_of(state):
    return float(np.linalg.norm(state.flatten().astype(np.float64)))


def test_a_long_update_is_scaled_down_to_the_bound_over_all_tensors_together():
    update = AdapterState({"x:A": np.array([[3.0]]), "y:B": np.array([[4.0]])})
    assert np.allclose(norm_bounded(update, 2.0).flatten(), [1.2, 1.6], rtol=1e-6, atol=0)


@pytest.mark.parametrize("bound", [5.0, 7.0])
def test_an_update_within_the_bound_stays_as_it_is(bound):
    assert norm_bounded(state_of(3, 4), bound) == state_of(3, 4)


@pytest.mark.parametrize("seed", range(20))
def test_a_bounded_update_is_not_above_the_bound_so_that_a_second_pass_changes_no_bit(seed):
    draw = np.random.default_rng(seed)
    bounded = norm_bounded(state_of(*draw.standard_normal(50)), 0.3)
    assert 0.3 * (1 - 1e-6) < norm_of(bounded) <= 0.3
    assert norm_bounded(bounded, 0.3) == bounded


def test_a_norm_beyond_float32_is_bounded_too():
    assert np.isclose(norm_of(norm_bounded(state_of(3e38, 3e38), 1.0)), 1.0, rtol=1e-6)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_not_above_zero_and_finite_is_refused(bound):
    with pytest.raises(ConfigError, match="update_norm_bound"):
        norm_bounded(state_of(1), bound)


def test_an_update_that_is_not_finite_is_not_bounded():
    with pytest.raises(AdapterError, match="x:A"):
        norm_bounded(state_of(1, math.nan), 1.0)
