"""The rules: starts, hand-computed rounds, order of sites, distance of the combined product from the mean product."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoriai.errors import AdapterError, ConfigError
from yoriai.strategies.adapter import AdapterState, add_scaled, difference, weighted_mean
from yoriai.strategies.rule import built_in_rules, get_rule, rule_names
from yoriai.strategies.server_opt import OF_ADAPTERS

MAPS = {"layers.0.q": (6, 8), "layers.0.v": (4, 8), "layers.1.q": (8, 5)}
RANK = 3
RULES = ("core", "fedavg", "fedex", "fedsvd", "ffa", "flora", "rolora")
SUM_RULES = ("core", "fedavg", "fedsvd", "ffa", "rolora")
PLAIN_RULES = ("core", "fedavg", "ffa", "rolora")  # Those that add the mean update to the factors, and do no more.
EXACT_RULES = ("core", "fedex", "fedsvd", "ffa", "flora", "rolora")
DENSE_RULES = ("fedex", "flora")


def base_factors(maps=MAPS, rank=RANK):
    """U_r S_r and V_rᵀ of a random weight for each map."""
    draw = np.random.default_rng(7)
    pairs = {}
    for path, shape in maps.items():
        u, s, v_t = np.linalg.svd(draw.standard_normal(shape), full_matrices=False)
        pairs[path] = (u[:, :rank] * s[:rank], v_t[:rank])
    return pairs


def started(name, seed=0):
    return get_rule(name).initial(MAPS, RANK, seed, base_factors())


known = cache(get_rule)  # Which reads the installed packages each time.


@cache
def midway(name):
    """An adapter some rounds on, where nothing is zero but flora's B."""
    state = started(name)
    for round_index in range(2):
        updates = {f"site{i}": (1, random_update(name, state, 99 + i, round_index)) for i in range(2)}
        state = round_of(name, state, updates, round_index)
    return state


def random_update(name, current, seed, round_index=0):
    trained = current.select(known(name).trainable(round_index))
    vector = np.random.default_rng(seed).standard_normal(trained.flatten().shape)
    return trained.unflatten(0.3 * vector)


def round_of(name, current, updates, round_index=0):
    rule = known(name)
    if rule.sum_suffices:
        return rule.combine(current, weighted_mean(updates), round_index)
    return rule.combine_each(current, updates, round_index)


def mean_of_products(current, updates):
    """By path: the weighted mean of the products that the sites hold after training."""
    total = sum(weight for weight, _ in updates.values())
    own = [(w, current.merged_with(add_scaled(current.select(u.factors()), u, 1.0))) for w, u in updates.values()]
    return {path: sum(w * adapter.product(path) for w, adapter in own) / total for path in MAPS}


def distance(state, products):
    """Relative, over all maps."""
    squares = sum(np.sum((state.product(path) - products[path]) ** 2) for path in MAPS)
    return np.sqrt(squares / sum(np.sum(products[path] ** 2) for path in MAPS))


def test_the_table_has_every_rule_under_its_own_name():
    assert rule_names() == RULES
    assert [get_rule(name).name for name in rule_names()] == list(RULES)
    assert [rule.name for rule in built_in_rules()] == list(RULES)


def test_an_unknown_rule_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError, match="core, fedavg, fedex, fedsvd, ffa, flora, rolora") as caught:
        get_rule("fedAvgg")
    assert 'did you mean "fedavg"?' in str(caught.value)


def test_an_unknown_rule_like_no_other_gets_no_suggestion():
    with pytest.raises(ConfigError) as caught:
        get_rule("zzz")
    assert "did you mean" not in str(caught.value)


A, B, R, AB, ABW = ("A",), ("B",), ("R",), ("A", "B"), ("A", "B", "W")


@pytest.mark.parametrize(
    ("name", "trained", "moving"),
    [
        ("core", [R, R, R], R),
        ("fedavg", [AB, AB, AB], AB),
        ("fedex", [AB, AB, AB], ABW),
        ("fedsvd", [B, B, B], AB),
        ("ffa", [B, B, B], B),
        ("flora", [AB, AB, AB], ABW),
        ("rolora", [B, A, B], AB),
    ],
)
def test_each_rule_trains_and_moves_its_factors(name, trained, moving):
    assert [get_rule(name).trainable(i) for i in range(3)] == trained
    assert get_rule(name).moving == moving


def test_server_optimizers_are_those_whose_steps_the_rule_can_take():
    kinds = {name: get_rule(name).server_optimizers for name in RULES}
    assert kinds == {
        **dict.fromkeys(PLAIN_RULES, OF_ADAPTERS),
        **dict.fromkeys(DENSE_RULES, ("none",)),
        "fedsvd": ("none", "momentum"),
    }
    assert [name for name in RULES if get_rule(name).sum_suffices] == list(SUM_RULES)


@pytest.mark.parametrize("name", RULES)
def test_a_start_holds_the_rules_factors_for_every_map(name):
    start = started(name)
    assert start.factors() == get_rule(name).factors
    assert start.module_paths() == tuple(sorted(MAPS))
    for path, (out_features, in_features) in MAPS.items():
        shapes = {"A": (RANK, in_features), "B": (out_features, RANK), "U": (out_features, RANK), "R": (RANK, RANK)}
        shapes["W"] = (out_features, in_features)
        for factor in start.factors():
            assert start.factor(path, factor).shape == shapes[factor]


@pytest.mark.parametrize("name", RULES)
def test_a_start_leaves_the_base_model_as_it_is(name):
    for path in MAPS:
        assert not started(name).product(path).any()


def test_the_start_from_a_seed_is_the_same_bits_on_every_machine():
    # Computed by a second implementation: Philox 4x64-10 and the digest in plain Python integers.
    assert started("ffa", seed=3).digest() == "56d69b268478c78b57cf50f6d60000fd2ce33a8e7b65cb3aab2e35f578241944"
    for name in ("fedavg", "rolora"):
        assert started(name, seed=3) == started("ffa", seed=3)
    for name in DENSE_RULES:
        assert started(name, seed=3).select(AB) == started("ffa", seed=3)


def test_the_start_of_a_map_depends_on_seed_and_path_and_on_no_other_map():
    def first(maps, seed):
        return get_rule("ffa").initial(maps, RANK, seed, None).factor("layers.0.q", "A").tobytes()

    assert first(MAPS, 0) == first({"layers.0.q": (6, 8)}, 0)
    assert first(MAPS, 0) != first(MAPS, 1)
    same_shape = get_rule("ffa").initial({"a": (8, 8), "b": (8, 8)}, RANK, 0, None)
    assert same_shape.factor("a", "A").tobytes() != same_shape.factor("b", "A").tobytes()


def test_a_starts_kaiming_uniform():
    a = get_rule("fedavg").initial({"x": (400, 400)}, 200, 0, None).factor("x", "A").astype(np.float64)
    bound = 1 / np.sqrt(400)
    assert np.abs(a).max() <= bound
    assert np.abs(a).max() > 0.999 * bound
    assert abs(a.mean()) < 0.01 * bound
    assert np.isclose(a.var(), bound**2 / 3, rtol=0.02)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_outside_what_a_map_has_is_refused_and_names_the_map(name, rank):
    maps = {"wide": (4, 9)} if rank else {"wide": (4, 9), "wider": (5, 9)}
    with pytest.raises(AdapterError, match="the map wide of 4 by 9"):
        get_rule(name).initial(maps, rank, 0, base_factors(maps, min(rank, 4)))


@pytest.mark.parametrize("name", RULES)
def test_a_start_without_maps_is_refused(name):
    with pytest.raises(AdapterError, match="no linear map"):
        get_rule(name).initial({}, RANK, 0, {})


def test_core_starts_from_the_base_factors_given():
    start, pairs = started("core"), base_factors()
    for path in MAPS:
        u_s, v_t = pairs[path]
        assert np.array_equal(start.factor(path, "U"), u_s.astype(np.float32))
        assert np.array_equal(start.factor(path, "A"), v_t.astype(np.float32))


def test_a_core_of_c_times_identity_raises_the_top_directions_by_the_share_c():
    start = started("core")
    update = AdapterState({f"{path}:R": 0.25 * np.eye(RANK) for path in MAPS})
    u_s, v_t = base_factors()["layers.0.q"]
    product = get_rule("core").combine(start, update, 0).product("layers.0.q")
    assert np.allclose(product, 0.25 * u_s @ v_t, rtol=0, atol=1e-6)


def test_core_without_base_factors_is_refused():
    with pytest.raises(AdapterError, match="core rule"):
        get_rule("core").initial(MAPS, RANK, 0, None)


def test_core_with_base_factors_missing_swapped_or_not_finite_is_refused_and_names_the_map():
    pairs, path = base_factors(), "layers.0.v"
    u_s, v_t = pairs[path]
    without = {other: pair for other, pair in pairs.items() if other != path}
    for broken in (without, {**pairs, path: (v_t, u_s)}, {**pairs, path: (u_s * np.nan, v_t)}):
        with pytest.raises(AdapterError, match=path):
            get_rule("core").initial(MAPS, RANK, 0, broken)


# Two sites, weights 1 and 3, a map of 2 by 2 and rank 1 (rank 2 for core), all numbers worked out by hand.


def test_fedavg_by_hand():
    current = AdapterState({"x:A": np.array([[1.0, 2.0]]), "x:B": np.array([[0.0], [4.0]])})
    north = AdapterState({"x:A": np.array([[4.0, 0.0]]), "x:B": np.array([[8.0], [-4.0]])})
    south = AdapterState({"x:A": np.array([[0.0, 4.0]]), "x:B": np.array([[0.0], [4.0]])})
    combined = round_of("fedavg", current, {"north": (1, north), "south": (3, south)})
    assert combined.factor("x", "A").tolist() == [[2, 5]]
    assert combined.factor("x", "B").tolist() == [[2], [6]]
    assert combined.product("x").tolist() == [[4, 10], [12, 30]]
    # The mean of the sites' own products is (1·[8; 0]·[5, 2] + 3·[0; 8]·[1, 6]) / 4, which is something else.
    mean_product = [[10, 4], [6, 36]]
    own = [add_scaled(current, update, 1.0).product("x") for update in (north, south)]
    assert ((own[0] + 3 * own[1]) / 4).tolist() == mean_product


def test_ffa_by_hand():
    current = AdapterState({"x:A": np.array([[1.0, 2.0]]), "x:B": np.array([[0.0], [4.0]])})
    north, south = AdapterState({"x:B": np.array([[8.0], [-4.0]])}), AdapterState({"x:B": np.array([[0.0], [4.0]])})
    combined = round_of("ffa", current, {"north": (1, north), "south": (3, south)})
    assert combined.factor("x", "A").tolist() == [[1, 2]]
    assert combined.factor("x", "B").tolist() == [[2], [6]]
    assert combined.product("x").tolist() == [[2, 4], [6, 12]]


def test_core_by_hand():
    current = AdapterState(
        {
            "x:A": np.array([[0.0, 1.0], [1.0, 0.0]]),
            "x:U": np.array([[2.0, 0.0], [0.0, 1.0]]),
            "x:R": np.array([[1.0, 0.0], [0.0, 1.0]]),
        }
    )
    north = AdapterState({"x:R": np.array([[4.0, 0.0], [8.0, 0.0]])})
    south = AdapterState({"x:R": np.array([[0.0, 4.0], [0.0, -4.0]])})
    combined = round_of("core", current, {"north": (1, north), "south": (3, south)})
    assert combined.factor("x", "R").tolist() == [[2, 3], [2, -2]]
    assert combined.select(("A", "U")) == current.select(("A", "U"))
    peft = get_rule("core").to_peft(combined)
    assert peft.factor("x", "A").tolist() == [[0, 1], [1, 0]]
    assert peft.factor("x", "B").tolist() == [[4, 6], [2, -2]]
    assert combined.product("x").tolist() == [[6, 4], [-2, 2]]


def test_rolora_by_hand():
    current = AdapterState({"x:A": np.array([[1.0, 2.0]]), "x:B": np.array([[0.0], [4.0]])})
    north, south = AdapterState({"x:B": np.array([[8.0], [-4.0]])}), AdapterState({"x:B": np.array([[0.0], [4.0]])})
    even = round_of("rolora", current, {"north": (1, north), "south": (3, south)}, 0)
    # B + (1·[8; -4] + 3·[0; 4]) / 4 = [2; 6], A as it was.
    assert even.factor("x", "B").tolist() == [[2], [6]]
    assert even.factor("x", "A").tolist() == [[1, 2]]
    north, south = AdapterState({"x:A": np.array([[4.0, 0.0]])}), AdapterState({"x:A": np.array([[0.0, 4.0]])})
    odd = round_of("rolora", even, {"north": (1, north), "south": (3, south)}, 1)
    # A + (1·[4, 0] + 3·[0, 4]) / 4 = [2, 5], B as it was.
    assert odd.factor("x", "B").tolist() == [[2], [6]]
    assert odd.product("x").tolist() == [[4, 10], [12, 30]]


def test_fedsvd_by_hand():
    current = AdapterState({"x:A": np.array([[0.6, 0.8]]), "x:B": np.array([[1.0], [0.0]])})
    north, south = AdapterState({"x:B": np.array([[-16.0], [4.0]])}), AdapterState({"x:B": np.array([[0.0], [4.0]])})
    combined = round_of("fedsvd", current, {"north": (1, north), "south": (3, south)})
    # B̄ = [1; 0] + (1·[-16; 4] + 3·[0; 4]) / 4 = [-3; 4] of norm 5. B̄·A = [-0.6; 0.8]·5·[0.6, 0.8]: of rank one, so the
    # SVD is the same but for signs, and the largest entry of A is positive already.
    assert np.allclose(combined.factor("x", "A"), [[0.6, 0.8]], rtol=0, atol=1e-7)
    assert np.allclose(combined.factor("x", "B"), [[-3], [4]], rtol=0, atol=1e-6)


def test_fedsvd_turns_to_the_principal_directions_by_hand():
    current = AdapterState({"x:A": np.eye(2), "x:B": np.zeros((2, 2))})
    update = AdapterState({"x:B": np.array([[0.0, 3.0], [-1.0, 0.0]])})
    combined = round_of("fedsvd", current, {"north": (1, update)})
    # B̄·A = [0, 3; -1, 0] reads the second feature with strength 3, the first with 1: A swaps its rows, B its columns.
    assert np.allclose(combined.factor("x", "A"), [[0, 1], [1, 0]], rtol=0, atol=1e-7)
    assert np.allclose(combined.factor("x", "B"), [[3, 0], [0, -1]], rtol=0, atol=1e-6)


DENSE_START = AdapterState(
    {"x:A": np.array([[1.0, 2.0]]), "x:B": np.array([[0.0], [4.0]]), "x:W": np.array([[1.0, 0.0], [0.0, 1.0]])}
)
DENSE_UPDATES = {
    "north": (1, AdapterState({"x:A": np.array([[4.0, 0.0]]), "x:B": np.array([[8.0], [-4.0]])})),
    "south": (3, AdapterState({"x:A": np.array([[0.0, 4.0]]), "x:B": np.array([[0.0], [4.0]])})),
}
# The sites hold [8; 0]·[5, 2] = [40, 16; 0, 0] and [0; 8]·[1, 6] = [0, 0; 8, 48]; their mean is (north + 3·south) / 4.
DENSE_MEAN = np.array([[10, 4], [6, 36]])


def test_flora_by_hand():
    combined = round_of("flora", DENSE_START, DENSE_UPDATES)
    assert combined.factor("x", "W").tolist() == (np.eye(2) + DENSE_MEAN).tolist()
    assert combined.factor("x", "B").tolist() == [[0], [0]]
    assert combined.product("x").tolist() == [[11, 4], [6, 37]]


def test_fedex_by_hand():
    combined = round_of("fedex", DENSE_START, DENSE_UPDATES)
    # fedavg's B̄·Ā is [2; 6]·[2, 5] = [4, 10; 12, 30]; W takes what it lacks of the mean, [6, -6; -6, 6].
    assert combined.factor("x", "A").tolist() == [[2, 5]]
    assert combined.factor("x", "B").tolist() == [[2], [6]]
    assert combined.factor("x", "W").tolist() == [[7, -6], [-6, 7]]
    assert combined.product("x").tolist() == (np.eye(2) + DENSE_MEAN).tolist()


@pytest.mark.parametrize("name", RULES)
@given(order=st.permutations(range(5)))
def test_the_order_of_sites_does_not_change_a_bit(name, order):
    current = midway(name)
    updates = {f"site{i}": (i + 1, random_update(name, current, i)) for i in range(5)}
    permuted = {f"site{i}": updates[f"site{i}"] for i in order}
    assert round_of(name, current, permuted).digest() == round_of(name, current, updates).digest()


@pytest.mark.parametrize("name", SUM_RULES)
@given(weights=st.lists(st.integers(1, 255), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_equal_updates_give_what_one_site_has_by_itself_to_the_bit(name, weights, seed):
    current = midway(name)
    update = random_update(name, current, seed)
    alone = known(name).combine(current, update, 0)
    assert round_of(name, current, {f"site{i}": (w, update) for i, w in enumerate(weights)}) == alone


@pytest.mark.parametrize("name", RULES)
@given(weights=st.lists(st.integers(1, 255), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_equal_updates_give_the_product_that_each_site_trained(name, weights, seed):
    current = midway(name)
    updates = {f"site{i}": (w, random_update(name, current, seed)) for i, w in enumerate(weights)}
    trained = mean_of_products(current, {"alone": (1, random_update(name, current, seed))})
    assert distance(round_of(name, current, updates), trained) < 1e-6


@pytest.mark.parametrize("name", PLAIN_RULES)
def test_plain_rules_leave_the_fixed_factors_to_the_bit(name):
    current = midway(name)
    for round_index in range(2):
        trained = get_rule(name).trainable(round_index)
        fixed = tuple(set(get_rule(name).factors) - set(trained))
        update = random_update(name, current, 1, round_index)
        combined = round_of(name, current, {"north": (1, update)}, round_index)
        assert combined == current.merged_with(add_scaled(current.select(trained), update, 1.0))
        if fixed:
            assert combined.select(fixed) == current.select(fixed)
        assert difference(combined, current).select(trained).flatten().all()


@pytest.mark.parametrize("name", RULES)
def test_a_site_of_weight_zero_does_not_change_a_bit(name):
    current = midway(name)
    updates = {f"site{i}": (i, random_update(name, current, i)) for i in range(3)}
    without = {site: updates[site] for site in ("site1", "site2")}
    assert round_of(name, current, updates) == round_of(name, current, without)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("weights", "fault"), [((0, 0), "all weights"), ((2, -1), "site1"), ((1, np.nan), "site1"), ((1, np.inf), "site1")]
)
def test_weights_that_make_no_mean_are_refused(name, weights, fault):
    current = midway(name)
    updates = {f"site{i}": (w, random_update(name, current, i)) for i, w in enumerate(weights)}
    with pytest.raises(AdapterError, match=fault):
        round_of(name, current, updates)


@pytest.mark.parametrize("name", RULES)
def test_a_round_without_updates_is_refused(name):
    with pytest.raises(AdapterError, match="no updates"):
        round_of(name, midway(name), {})


def product_error(name, round_index):
    """Relative distance, over all maps, of the combined product from the weighted mean of the sites' own products."""
    current = midway(name)
    updates = {f"site{i}": (i + 1, random_update(name, current, i, round_index)) for i in range(5)}
    return distance(round_of(name, current, updates, round_index), mean_of_products(current, updates))


@pytest.mark.parametrize("round_index", [0, 1])
@pytest.mark.parametrize("name", EXACT_RULES)
def test_the_combined_product_is_the_mean_of_the_sites_products(name, round_index):
    assert product_error(name, round_index) < 1e-6


def test_fedavgs_combined_product_is_far_from_the_mean_of_the_sites_products():
    assert product_error("fedavg", 0) > 0.1


def test_fedavg_misses_what_fedex_holds_on_the_same_updates():
    current = started("fedex")
    updates = {f"site{i}": (i + 1, random_update("fedex", current, i)) for i in range(5)}
    wanted = mean_of_products(current, updates)
    combined, averaged = round_of("fedex", current, updates), round_of("fedavg", current.select(AB), updates)
    assert combined.select(AB) == averaged
    assert distance(combined, wanted) < 1e-6
    assert distance(averaged, wanted) > 0.1


@pytest.mark.parametrize("name", DENSE_RULES)
def test_sites_of_lower_rank_that_pad_with_zeros_are_averaged_exactly(name):
    current, updates = midway(name), {}
    for rank in (1, 2, 3):
        held = {"A": np.arange(RANK)[:, None] < rank, "B": np.arange(RANK) < rank}
        update = random_update(name, current, rank).tensors
        padded = AdapterState({tensor: values * held[tensor[-1]] for tensor, values in update.items()})
        updates[f"site{rank}"] = (rank, padded)
    assert distance(round_of(name, current, updates), mean_of_products(current, updates)) < 1e-6


@pytest.mark.parametrize("name", DENSE_RULES)
@given(order=st.permutations(range(3)))
def test_the_order_of_sites_does_not_change_a_bit_where_sums_depend_on_it(name, order):
    current = AdapterState({"x:A": np.ones((1, 2)), "x:B": np.zeros((2, 1)), "x:W": np.zeros((2, 2))})
    zero = np.zeros((1, 2))
    # In float64 2⁶⁰ + 1 − 2⁶⁰ is 0, and 2⁶⁰ − 2⁶⁰ + 1 is 1.
    updates = {
        f"site{i}": (1, AdapterState({"x:A": zero, "x:B": np.full((2, 1), b)}))
        for i, b in enumerate((2.0**60, 1.0, -(2.0**60)))
    }
    permuted = {f"site{i}": updates[f"site{i}"] for i in order}
    assert round_of(name, current, permuted) == round_of(name, current, updates)


def test_floras_next_start_follows_from_the_last_one_and_from_nothing_else():
    start = started("flora")
    one, other = (round_of("flora", start, {"north": (1, random_update("flora", start, i))}) for i in range(2))
    assert one.select(A) == other.select(A) != start.select(A)
    again = round_of("flora", one, {"north": (1, random_update("flora", one, 0))})
    assert again.select(A) not in (one.select(A), start.select(A))
    for path, (_, in_features) in MAPS.items():
        assert 0 < np.abs(one.factor(path, "A")).max() <= 1 / np.sqrt(in_features)


def test_a_site_refuses_a_flora_round_that_does_not_start_at_zero():
    start, rule = started("flora"), get_rule("flora")
    rule.verify(start, midway("flora"))
    with pytest.raises(AdapterError, match=r"map layers\.0\.q is not zero"):
        rule.verify(start, start.merged_with(random_update("flora", start, 0)))


@pytest.mark.parametrize("name", [name for name in RULES if name != "flora"])
def test_a_site_takes_every_adapter_that_the_rule_makes(name):
    get_rule(name).verify(started(name), started(name))
    get_rule(name).verify(started(name), midway(name))


@pytest.mark.parametrize("name", PLAIN_RULES)
def test_a_plain_rules_moment_is_carried_as_it_is(name):
    start = started(name)
    moment = random_update(name, start, 0)
    assert get_rule(name).carried(moment, start, midway(name)) == moment


@pytest.mark.parametrize("name", RULES)
def test_an_update_with_more_or_fewer_tensors_than_are_trained_is_refused(name):
    current = midway(name)
    update = random_update(name, current, 1)
    fewer = AdapterState(dict(list(update.tensors.items())[:-1]))
    more = AdapterState({**update.tensors, "layers.9.q:B": np.ones((2, 2))})
    for wrong in (fewer, more):
        with pytest.raises(AdapterError, match="in one adapter state and not in the other"):
            round_of(name, current, {"north": (1, wrong)})


@pytest.mark.parametrize("name", ["core", "fedsvd", "ffa", "rolora"])
def test_an_update_of_a_fixed_factor_is_refused(name):
    current = midway(name)
    with pytest.raises(AdapterError, match=":A"):
        get_rule(name).combine(current, current, 0)


@pytest.mark.parametrize("name", RULES)
def test_peft_gets_a_and_b_alone_with_the_same_product(name):
    state = midway(name)
    peft = get_rule(name).to_peft(state)
    assert peft.factors() == AB
    assert distance(peft, {path: state.product(path) for path in MAPS}) < 1e-6


@pytest.mark.parametrize("name", DENSE_RULES)
def test_peft_gets_the_rank_that_each_map_needs(name):
    rule, maps = get_rule(name), {"small": (4, 5), "still": (9, 9), "wide": (130, 40)}
    start = rule.initial(maps, 2, 0)
    updates = {f"site{i}": (1, random_update(name, start, i)) for i in range(2)}
    combined = dict(rule.combine_each(start, updates, 0).tensors)
    own = [
        start.merged_with(add_scaled(start.select(AB), update, 1.0)).product("wide") for _, update in updates.values()
    ]
    assert np.allclose(AdapterState(combined).product("wide"), sum(own) / 2, rtol=0, atol=1e-5)
    combined["still:W"] = start.factor("still", "W")
    peft = rule.to_peft(AdapterState(combined))
    # Two sites of rank 2 make a product of rank 4; where W is zero the factors stay as they are.
    assert {path: len(peft.factor(path, "A")) for path in maps} == {"small": 4, "still": 2, "wide": 4}
    assert peft.factor("still", "A").tobytes() == combined["still:A"].tobytes()


def test_a_dense_remainder_of_another_shape_is_refused():
    state = AdapterState({"x:A": np.ones((1, 2)), "x:B": np.ones((2, 1)), "x:W": np.ones((1, 2))})
    with pytest.raises(AdapterError, match="x:W has the wrong shape"):
        state.product("x")
