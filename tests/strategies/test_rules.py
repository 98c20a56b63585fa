"""The rules: starts, hand-computed rounds, order of sites, distance of the combined product from the mean product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoriai.errors import AdapterError, ConfigError
from yoriai.strategies.adapter import AdapterState, add_scaled, difference, weighted_mean
from yoriai.strategies.rule import get_rule, rule_names

MAPS = {"layers.0.q": (6, 8), "layers.0.v": (4, 8), "layers.1.q": (8, 5)}
RANK = 3
RULES = ("core", "fedavg", "ffa")


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


def midway(name):
    """An adapter some rounds on, where no factor is zero."""
    rule, start = get_rule(name), started(name)
    return rule.combine(start, random_update(name, start, 99), 0)


def random_update(name, current, seed, round_index=0):
    trained = current.select(get_rule(name).trainable(round_index))
    vector = np.random.default_rng(seed).standard_normal(trained.flatten().shape)
    return trained.unflatten(0.3 * vector)


def round_of(name, current, updates, round_index=0):
    return get_rule(name).combine(current, weighted_mean(updates), round_index)


def test_the_table_has_every_rule_under_its_own_name():
    assert rule_names() == RULES
    assert [get_rule(name).name for name in rule_names()] == list(RULES)


def test_an_unknown_rule_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError, match="core, fedavg, ffa") as caught:
        get_rule("fedAvgg")
    assert 'did you mean "fedavg"?' in str(caught.value)


def test_an_unknown_rule_like_no_other_gets_no_suggestion():
    with pytest.raises(ConfigError) as caught:
        get_rule("zzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(("name", "trained"), [("core", ("R",)), ("fedavg", ("A", "B")), ("ffa", ("B",))])
def test_each_rule_trains_its_factors_in_every_round(name, trained):
    assert [get_rule(name).trainable(i) for i in range(3)] == [trained] * 3


@pytest.mark.parametrize("name", RULES)
def test_a_start_holds_the_rules_factors_for_every_map(name):
    start = started(name)
    assert start.factors() == get_rule(name).factors
    assert start.module_paths() == tuple(sorted(MAPS))
    for path, (out_features, in_features) in MAPS.items():
        shapes = {"A": (RANK, in_features), "B": (out_features, RANK), "U": (out_features, RANK), "R": (RANK, RANK)}
        for factor in start.factors():
            assert start.factor(path, factor).shape == shapes[factor]


@pytest.mark.parametrize("name", RULES)
def test_a_start_leaves_the_base_model_as_it_is(name):
    for path in MAPS:
        assert not started(name).product(path).any()


def test_the_start_from_a_seed_is_the_same_bits_on_every_machine():
    # Computed by a second implementation: Philox 4x64-10 and the digest in plain Python integers.
    assert started("ffa", seed=3).digest() == "56d69b268478c78b57cf50f6d60000fd2ce33a8e7b65cb3aab2e35f578241944"
    assert started("fedavg", seed=3).digest() == started("ffa", seed=3).digest()


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


@pytest.mark.parametrize("name", RULES)
@given(order=st.permutations(range(5)))
def test_the_order_of_sites_does_not_change_a_bit(name, order):
    current = midway(name)
    updates = {f"site{i}": (i + 1, random_update(name, current, i)) for i in range(5)}
    permuted = {f"site{i}": updates[f"site{i}"] for i in order}
    assert round_of(name, current, permuted).digest() == round_of(name, current, updates).digest()


@pytest.mark.parametrize("name", RULES)
@given(weights=st.lists(st.integers(1, 255), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_equal_updates_give_what_one_site_has_by_itself(name, weights, seed):
    current = midway(name)
    update = random_update(name, current, seed)
    alone = get_rule(name).combine(current, update, 0)
    assert round_of(name, current, {f"site{i}": (w, update) for i, w in enumerate(weights)}) == alone
    # The site's own adapter is the sum of its trained factors and its update, beside the fixed factors.
    trained = add_scaled(current.select(update.factors()), update, 1.0)
    assert alone == current.merged_with(trained)


@pytest.mark.parametrize("name", RULES)
def test_a_round_leaves_the_fixed_factors_to_the_bit(name):
    current = midway(name)
    fixed = tuple(set(get_rule(name).factors) - set(get_rule(name).trainable(0)))
    combined = round_of(name, current, {"north": (1, random_update(name, current, 1))})
    if fixed:
        assert combined.select(fixed) == current.select(fixed)
    assert difference(combined, current).select(get_rule(name).trainable(0)).flatten().all()


def product_error(name):
    """Relative distance, over all maps, of the combined product from the weighted mean of the sites' own products."""
    rule, current = get_rule(name), midway(name)
    updates = {f"site{i}": (i + 1, random_update(name, current, i)) for i in range(5)}
    combined, total = round_of(name, current, updates), sum(weight for weight, _ in updates.values())
    distance, size = 0.0, 0.0
    for path in MAPS:
        own = [(weight, rule.combine(current, update, 0).product(path)) for weight, update in updates.values()]
        mean_product = sum(weight * product for weight, product in own) / total
        distance += np.sum((combined.product(path) - mean_product) ** 2)
        size += np.sum(mean_product**2)
    return np.sqrt(distance / size)


@pytest.mark.parametrize("name", ["core", "ffa"])
def test_the_combined_product_is_the_mean_of_the_sites_products(name):
    assert product_error(name) < 1e-6


def test_fedavgs_combined_product_is_not_the_mean_of_the_sites_products():
    assert product_error("fedavg") > 1e-2


@pytest.mark.parametrize("name", RULES)
def test_an_update_with_more_or_fewer_tensors_than_are_trained_is_refused(name):
    current = midway(name)
    update = random_update(name, current, 1)
    fewer = AdapterState(dict(list(update.tensors.items())[:-1]))
    more = AdapterState({**update.tensors, "layers.9.q:B": np.ones((2, 2))})
    for wrong in (fewer, more):
        with pytest.raises(AdapterError, match="in one adapter state and not in the other"):
            get_rule(name).combine(current, wrong, 0)


@pytest.mark.parametrize("name", ["core", "ffa"])
def test_an_update_of_a_fixed_factor_is_refused(name):
    current = midway(name)
    with pytest.raises(AdapterError, match=":A"):
        get_rule(name).combine(current, current, 0)


@pytest.mark.parametrize("name", RULES)
def test_peft_gets_a_and_b_alone_with_the_same_product(name):
    state = midway(name)
    peft = get_rule(name).to_peft(state)
    assert peft.factors() == ("A", "B")
    for path in MAPS:
        assert np.allclose(peft.product(path), state.product(path), rtol=0, atol=1e-6)
