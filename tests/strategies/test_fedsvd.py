"""fedsvd: the turned basis, what a site can check of it, the carried moment, and its equivalence to ffa."""

import numpy as np
import pytest

from yoriai.errors import AdapterError
from yoriai.strategies import fedsvd
from yoriai.strategies.adapter import AdapterState, add_scaled, scaled, weighted_mean, zeros_like
from yoriai.strategies.rule import get_rule

RULE = get_rule("fedsvd")
MAPS = {"q": (7, 9), "v": (5, 9)}
RANK = 3


def started():
    return RULE.initial(MAPS, RANK, 0)


def random_update(state, seed):
    trained = state.select(("B",))
    return trained.unflatten(np.random.default_rng(seed).standard_normal(trained.flatten().shape))


def turned(rounds=1):
    state = started()
    for seed in range(rounds):
        state = RULE.combine(state, random_update(state, seed), seed)
    return state


def with_a(state, path, a):
    return state.merged_with(AdapterState({f"{path}:A": a}))


def test_the_start_has_orthonormal_rows_in_the_row_space_of_ffas():
    start, ffa = started(), get_rule("ffa").initial(MAPS, RANK, 0)
    for path in MAPS:
        a, kaiming = start.factor(path, "A").astype(np.float64), ffa.factor(path, "A").astype(np.float64)
        assert np.allclose(a @ a.T, np.eye(RANK), rtol=0, atol=1e-6)
        assert np.allclose(kaiming @ a.T @ a, kaiming, rtol=0, atol=1e-6)
        # The QR whose diagonal is positive: row i of the start reads row i of ffa's with a positive weight.
        assert (np.diag(kaiming @ a.T) > 0).all()


def test_a_round_makes_a_the_right_singular_vectors_and_b_the_left_ones_with_the_values():
    state = started()
    update = random_update(state, 5)
    before, after = state.merged_with(update), RULE.combine(state, update, 0)
    for path in MAPS:
        u, s, v_t = np.linalg.svd(before.product(path))
        signs = np.sign(np.sum(after.factor(path, "A") * v_t[:RANK], axis=1))
        assert np.allclose(after.factor(path, "A"), signs[:, None] * v_t[:RANK], rtol=0, atol=1e-6)
        assert np.allclose(after.factor(path, "B"), u[:, :RANK] * s[:RANK] * signs, rtol=0, atol=1e-5)


def test_the_largest_entry_of_each_row_is_positive():
    state = turned()
    for path in MAPS:
        a = state.factor(path, "A")
        assert (np.take_along_axis(a, np.abs(a).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_a_without_orthonormal_rows_is_turned_all_the_same():
    state = with_a(started(), "q", np.random.default_rng(1).standard_normal((RANK, 9)))
    update = random_update(state, 2)
    product = state.merged_with(update).product("q")
    combined = RULE.combine(state, update, 0)
    a = combined.factor("q", "A").astype(np.float64)
    assert np.allclose(combined.product("q"), product, rtol=0, atol=1e-5)
    assert np.allclose(a @ a.T, np.eye(RANK), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_map_whose_b_lacks_rank_keeps_its_a_and_takes_b_to_the_bit_while_others_turn(rank):
    state = turned()
    kept = random_update(state, 3).factor("q", "B").copy()
    kept[:, rank:] = 0
    update = add_scaled(random_update(state, 3), state.select(("B",)), 0.0)
    update = update.merged_with(AdapterState({"q:B": kept - state.factor("q", "B")}))
    moved = add_scaled(state.select(("B",)), update, 1.0)
    combined = RULE.combine(state, update, 1)
    assert combined.factor("q", "A").tobytes() == state.factor("q", "A").tobytes()
    assert combined.factor("q", "B").tobytes() == moved.factor("q", "B").tobytes()
    assert combined.factor("v", "A").tobytes() != state.factor("v", "A").tobytes()


def test_the_threshold_of_rank_lies_at_a_millionth_of_the_largest_singular_value():
    state = AdapterState({"x:A": np.eye(2), "x:B": np.zeros((3, 2))})
    for smallest, turns in ((2e-6, True), (5e-7, False)):
        update = AdapterState({"x:B": np.array([[0, 1], [smallest, 0], [0, 0]])})
        combined = RULE.combine(state, update, 0)
        assert (combined.factor("x", "A")[0, 1] == 1) is np.bool_(turns)


def test_a_change_of_basis_that_loses_the_product_is_an_error(monkeypatch):
    eigh = np.linalg.eigh

    def wrong(matrix):
        squares, vectors = eigh(matrix)
        return squares, vectors * (1 + 2e-5)

    monkeypatch.setattr(fedsvd.np.linalg, "eigh", wrong)
    with pytest.raises(AdapterError, match="the map q did not survive"):
        turned()


def test_an_update_that_is_not_finite_is_an_error_and_no_failed_decomposition():
    state = started()
    with pytest.raises(AdapterError, match="q:B holds values that are not finite"):
        RULE.combine(state, scaled(random_update(state, 0), 1e300), 0)


def test_a_moment_is_the_same_direction_of_the_product_in_the_new_basis():
    before = turned()
    after = RULE.combine(before, random_update(before, 9), 1)
    moment = random_update(before, 4)
    carried = RULE.carried(moment, before, after)
    for path in MAPS:
        old = moment.factor(path, "B") @ before.factor(path, "A")
        assert np.allclose(carried.factor(path, "B") @ after.factor(path, "A"), old, rtol=0, atol=1e-5)
        assert not np.allclose(carried.factor(path, "B"), moment.factor(path, "B"), rtol=0, atol=1e-2)


def test_a_moment_keeps_its_bits_where_the_basis_stands():
    state = turned()
    moment = random_update(state, 4)
    assert RULE.carried(moment, state, state) == moment


def test_a_site_takes_every_adapter_of_a_long_job():
    start, state = started(), started()
    for seed in range(200):
        state = RULE.combine(state, random_update(state, seed), seed)
        RULE.verify(start, state)


def test_a_site_refuses_rows_that_are_not_orthonormal():
    start, state = started(), turned()
    wrong = with_a(state, "v", state.factor("v", "A") * np.float32(1 + 2e-5))
    with pytest.raises(AdapterError, match="A of this round of the map v against orthonormal rows"):
        RULE.verify(start, wrong)
    with pytest.raises(AdapterError, match="A as offered of the map v against orthonormal rows"):
        RULE.verify(wrong, state)


def test_a_site_refuses_an_orthonormal_a_outside_the_row_space_of_the_offer():
    start, state = started(), turned()
    a = state.factor("q", "A").astype(np.float64)
    outside = np.linalg.svd(a)[2][RANK]  # A unit row at right angles to all of A's.
    angle = 3e-5
    tilted = np.concatenate([a[:1] * np.cos(angle) + outside * np.sin(angle), a[1:]])
    with pytest.raises(AdapterError, match="the map q against the row space"):
        RULE.verify(start, with_a(state, "q", tilted))


def test_a_site_refuses_an_a_of_another_shape_or_that_is_not_finite_or_of_another_map():
    start = started()
    tensors = dict(start.tensors)
    for wrong in (np.eye(2, 9), np.full((RANK, 9), np.nan)):
        with pytest.raises(AdapterError, match="q"):
            RULE.verify(start, AdapterState({**tensors, "q:A": wrong}))
    with pytest.raises(AdapterError, match="z:A"):
        RULE.verify(start, AdapterState({**tensors, "z:A": np.eye(RANK, 9), "z:B": np.ones((4, RANK))}))


class Toy:
    """Three sites that each fit the product to a matrix of their own, by SGD on B with momentum at the coordinator.

    A loss of half the squared distance has the gradient (B·A − T)·Aᵀ by B. Each site takes some steps, clips its update
    over all maps together in L2, and adds noise that is Gaussian and isotropic: drawn once as a (out, in) direction
    within the common row space and read in each rule's own basis, which is the same law.
    """

    beta, site_rate, server_rate, clip_norm, steps = 0.8, 0.3, 0.7, 1.5, 3

    def __init__(self):
        draw = np.random.default_rng(11)
        self.targets = [{path: 2 * draw.standard_normal(shape) for path, shape in MAPS.items()} for _ in range(3)]

    def update(self, state, targets, noise):
        own = state
        for _ in range(self.steps):
            gradient = {
                f"{path}:B": (own.product(path) - targets[path]) @ own.factor(path, "A").T.astype(np.float64)
                for path in MAPS
            }
            own = own.merged_with(add_scaled(own.select(("B",)), AdapterState(gradient), -self.site_rate))
        change = add_scaled(own.select(("B",)), state.select(("B",)), -1.0)
        clipped = scaled(change, min(1.0, self.clip_norm / float(np.linalg.norm(change.flatten()))))
        in_basis = {f"{path}:B": noise[path] @ state.factor(path, "A").T for path in MAPS}
        return add_scaled(clipped, AdapterState(in_basis), 1.0)

    def products(self, rule, state, rounds=6, step=lambda v: v):
        """By round: the products of all maps, and whether the last round still moved them."""
        draw, velocity, seen = np.random.default_rng(12), zeros_like(state.select(("B",))), []
        for round_index in range(rounds):
            updates = {}
            for site, targets in enumerate(self.targets):
                noise = {path: 0.2 * draw.standard_normal(shape) for path, shape in MAPS.items()}
                updates[f"site{site}"] = (site + 1, self.update(state, targets, noise))
            velocity = add_scaled(weighted_mean(updates), velocity, self.beta)
            after = rule.combine(state, scaled(step(velocity), self.server_rate), round_index)
            velocity, state = rule.carried(velocity, state, after), after
            seen.append(np.concatenate([state.product(path).ravel() for path in MAPS]))
        return seen


def relative(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def test_under_momentum_sgd_with_clipping_and_noise_fedsvd_is_ffa_from_the_same_orthonormal_start():
    toy, start = Toy(), started()
    turning, standing = toy.products(RULE, start), toy.products(get_rule("ffa"), start)
    assert max(relative(one, other) for one, other in zip(turning, standing, strict=True)) < 1e-5
    # It would hold of two rules that do nothing, so: the product moves in every round, and the basis turns.
    assert min(relative(one, other) for one, other in zip(standing[1:], standing, strict=False)) > 0.05
    assert relative(turned(2).factor("q", "A"), start.factor("q", "A")) > 0.5


def test_without_the_carried_moment_fedsvd_leaves_ffas_trajectory(monkeypatch):
    toy, start = Toy(), started()
    monkeypatch.setattr(type(RULE), "carried", lambda self, moment, before, after: moment)
    assert relative(toy.products(RULE, start)[-1], toy.products(get_rule("ffa"), start)[-1]) > 0.05


def test_steps_that_scale_each_entry_by_itself_depend_on_the_basis_and_are_refused():
    toy, start = Toy(), started()

    def by_entry(velocity):
        return velocity.unflatten(np.sign(velocity.flatten()))

    turning = toy.products(RULE, start, step=by_entry)
    standing = toy.products(get_rule("ffa"), start, step=by_entry)
    assert relative(turning[-1], standing[-1]) > 0.05
    assert RULE.server_optimizers == ("none", "momentum")
