"""Server optimisers: steps worked out by hand, checkpoints that go on to the same bits, refusals."""

import numpy as np
import pytest
from safetensors.numpy import save

from yoriai.errors import AdapterError, CheckpointError, ConfigError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.server_opt import Adam, Damped, OptState, Yogi, server_optimizer

KINDS = ("none", "damped", "momentum", "adam", "yogi")
ADAPTIVE = ("adam", "yogi")


def update_of(*values):
    return AdapterState({"x:R": np.array([values], np.float64)})


def random_updates(count):
    draw = np.random.default_rng(0)
    return [
        AdapterState({"x:A": draw.standard_normal((2, 3)), "y:B": draw.standard_normal((4, 2))}) for _ in range(count)
    ]


def run(optimizer, state, updates, learning_rate=0.1):
    steps = []
    for update in updates:
        step, state = optimizer.step(update, state, learning_rate=learning_rate)
        steps.append(step)
    return steps, state


def test_none_is_the_update_times_the_learning_rate():
    optimizer = server_optimizer("none", momentum=0.9)
    steps, state = run(optimizer, optimizer.init(update_of(0, 0)), [update_of(2, -4)] * 2, learning_rate=0.5)
    assert [step.flatten().tolist() for step in steps] == [[1, -2], [1, -2]]
    assert state == OptState("none", steps=2)


def test_none_at_learning_rate_one_is_the_update_to_the_bit():
    optimizer, update = server_optimizer("none", momentum=0.9), random_updates(1)[0]
    assert optimizer.step(update, optimizer.init(update), learning_rate=1.0)[0] == update


def test_damped_by_hand():
    optimizer = Damped(share=0.25)
    # The first update is longest along its second column; of that direction a quarter is left, of the others all.
    first = AdapterState({"head:H": np.array([[1.0, 0.0, 0.0], [0.0, 4.0, 0.0]])})
    later = AdapterState({"head:H": np.array([[0.0, 8.0, 2.0], [3.0, 0.0, 0.0]])})
    steps, state = run(optimizer, optimizer.init(first), [first, later], learning_rate=2.0)
    np.testing.assert_allclose(steps[0].tensors["head:H"], [[2, 0, 0], [0, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(steps[1].tensors["head:H"], [[0, 4, 4], [6, 0, 0]], atol=1e-6)
    assert state == OptState("damped", steps=2, first=first)


def test_a_run_looks_for_its_longest_direction_once(monkeypatch):
    found, svd = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda matrix, **more: (found.append(matrix.shape), svd(matrix, **more))[1])
    optimizer, update = Damped(), AdapterState({"head:H": np.random.default_rng(3).normal(size=(4, 7))})
    state = optimizer.init(update)
    for _ in range(3):
        _, state = optimizer.step(update, state, learning_rate=1.0)
    assert found == [(4, 7)]


def test_a_first_update_of_zeros_damps_nothing():
    optimizer = server_optimizer("damped")
    steps, _ = run(optimizer, optimizer.init(update_of(0, 0)), [update_of(0, 0), update_of(1, 2)], learning_rate=1.0)
    assert steps[1] == update_of(1, 2)


def test_momentum_by_hand():
    optimizer = server_optimizer("momentum", momentum=0.5)
    updates = [update_of(2, -4), update_of(1, 0), update_of(0, 0)]
    steps, state = run(optimizer, optimizer.init(updates[0]), updates, learning_rate=2.0)
    # v: (2, -4), then (1 + 1, -2), then (1, -1).
    assert [step.flatten().tolist() for step in steps] == [[4, -8], [4, -4], [2, -2]]
    assert state == OptState("momentum", steps=3, first=update_of(1, -1))


def test_momentum_under_a_steady_update_grows_to_the_stated_factor():
    optimizer = server_optimizer("momentum", momentum=0.9)
    steps, _ = run(optimizer, optimizer.init(update_of(1)), [update_of(1)] * 200, learning_rate=1.0)
    assert steps[0].flatten()[0] == 1
    assert np.isclose(steps[-1].flatten()[0], 10, rtol=1e-5)


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_the_first_adaptive_step_is_the_learning_rate_with_the_updates_sign(kind):
    optimizer = server_optimizer(kind, momentum=0.9)
    (step,), _ = run(optimizer, optimizer.init(update_of(0, 0, 0)), [update_of(1e-3, -50, 0)], learning_rate=0.01)
    assert np.allclose(step.flatten(), [0.01, -0.01, 0], rtol=1e-4, atol=0)


def test_adams_second_step_by_hand():
    optimizer = Adam(beta1=0.5, beta2=0.75, epsilon=1e-12)
    steps, state = run(optimizer, optimizer.init(update_of(0)), [update_of(4), update_of(-2)], learning_rate=1.0)
    # m: 2, then 1 - 1 = 0.  v: 4, then 3 + 1 = 4.
    assert (state.first, state.second) == (update_of(0), update_of(4))
    assert steps[1].flatten().tolist() == [0]
    (third,), state = run(optimizer, state, [update_of(2)], learning_rate=1.0)
    # m = 1, over 1 - 1/8; v = 3 + 1 = 4, over 1 - 27/64.
    assert np.isclose(third.flatten()[0], (1 / (7 / 8)) / np.sqrt(4 / (37 / 64)), rtol=1e-6)
    assert state.steps == 3


def test_yogis_steps_by_hand():
    optimizer = Yogi(beta1=0.5, beta2=0.75, epsilon=1e-12)
    steps, state = run(optimizer, optimizer.init(update_of(0)), [update_of(4), update_of(2)], learning_rate=1.0)
    # m: 2, then 1 + 1 = 2, over 1 - 1/4.  v: 16, then 16 - 1 = 15, for 4 is below it.
    assert (state.first, state.second) == (update_of(2), update_of(15))
    assert np.isclose(steps[0].flatten()[0], 1, rtol=1e-6)
    assert np.isclose(steps[1].flatten()[0], (2 / (3 / 4)) / np.sqrt(15), rtol=1e-6)
    (third,), state = run(optimizer, state, [update_of(-8)], learning_rate=1.0)
    # m = 1 - 4, over 1 - 1/8; v = 15 + 16, for 64 is above it.
    assert (state.first, state.second) == (update_of(-3), update_of(31))
    assert np.isclose(third.flatten()[0], (-3 / (7 / 8)) / np.sqrt(31), rtol=1e-6)
    assert state.steps == 3


def test_yogis_v_stays_where_it_equals_the_squared_update():
    optimizer = server_optimizer("yogi", momentum=0.9)
    _, state = run(optimizer, optimizer.init(update_of(0)), [update_of(0.5), update_of(-0.5)])
    assert state.second == update_of(0.25)


def test_an_entry_of_yogi_that_moves_later_starts_from_its_own_first_square():
    optimizer = server_optimizer("yogi", momentum=0.0)
    updates = [update_of(3, 0), update_of(3, 0), update_of(3, -0.5)]
    steps, state = run(optimizer, optimizer.init(updates[0]), updates, learning_rate=0.01)
    assert [step.flatten()[1] for step in steps[:2]] == [0, 0]
    assert np.isclose(steps[2].flatten()[1], -0.01, rtol=1e-6)
    assert state.second == update_of(9, 0.25)


def test_yogis_v_forgets_a_large_update_more_slowly_than_adams():
    updates = [update_of(10)] + [update_of(0.1)] * 200
    _, adam = run(adam_like := Adam(beta2=0.99), adam_like.init(updates[0]), updates)
    _, yogi = run(yogi_like := Yogi(), yogi_like.init(updates[0]), updates)
    corrected = adam.second.flatten()[0] / (1 - 0.99**201)
    assert corrected < 1
    assert yogi.second.flatten()[0] > 99


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_adaptive_steps_do_not_depend_on_the_scale_of_the_updates(kind):
    optimizer, updates = server_optimizer(kind, momentum=0.9), random_updates(5)
    doubled = [AdapterState({name: 1024 * t for name, t in update.tensors.items()}) for update in updates]
    steps, _ = run(optimizer, optimizer.init(updates[0]), updates)
    same, _ = run(optimizer, optimizer.init(updates[0]), doubled)
    for one, other in zip(steps, same, strict=True):
        assert np.allclose(one.flatten(), other.flatten(), rtol=1e-5)


def test_momentum_is_the_first_beta_of_adam_and_yogi():
    assert server_optimizer("adam", momentum=0.7) == Adam(beta1=0.7)
    assert server_optimizer("yogi", momentum=0.7) == Yogi(beta1=0.7)


@pytest.mark.parametrize("adaptive", [Adam, Yogi])
@pytest.mark.parametrize("wrong", [{"beta2": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}, {"epsilon": float("nan")}])
def test_constants_of_adam_and_yogi_outside_their_bounds_are_refused(adaptive, wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} of the server's {adaptive.kind}"):
        adaptive(**wrong)


@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi"])
def test_another_first_moment_leaves_the_rest_and_the_old_state(kind):
    optimizer, updates = server_optimizer(kind, momentum=0.9), random_updates(3)
    _, state = run(optimizer, optimizer.init(updates[0]), updates)
    before = OptState.from_bytes(state.to_bytes())
    replaced = state.with_first(updates[0])
    assert replaced == OptState(kind, steps=3, first=updates[0], second=state.second)
    assert state == before


def test_the_next_step_goes_on_from_the_replaced_moment():
    optimizer = server_optimizer("momentum", momentum=0.5)
    state = optimizer.init(update_of(0, 0)).with_first(update_of(4, -8))
    (step,), _ = run(optimizer, state, [update_of(1, 1)], learning_rate=1.0)
    assert step.flatten().tolist() == [3, -3]


def test_a_first_moment_that_is_not_kept_cannot_be_replaced():
    with pytest.raises(AdapterError, match="none keeps no first moment"):
        OptState("none").with_first(update_of(1))


@pytest.mark.parametrize("other", [update_of(1, 2, 3), AdapterState({"y:R": np.ones((1, 2))})])
def test_a_first_moment_of_other_tensors_is_refused(other):
    with pytest.raises(AdapterError, match="tensor"):
        OptState("momentum", first=update_of(1, 2)).with_first(other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_does_not_change_the_state_it_was_given(kind):
    optimizer, updates = server_optimizer(kind, momentum=0.9), random_updates(2)
    state = optimizer.init(updates[0])
    once = optimizer.step(updates[1], state, learning_rate=0.1)
    assert optimizer.step(updates[1], state, learning_rate=0.1) == once


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_takes_the_same_steps_to_the_bit(kind):
    optimizer, updates = server_optimizer(kind, momentum=0.9), random_updates(8)
    steps, state = run(optimizer, optimizer.init(updates[0]), updates)
    _, halfway = run(optimizer, optimizer.init(updates[0]), updates[:3])
    resumed, end = run(optimizer, OptState.from_bytes(halfway.to_bytes()), updates[3:])
    assert resumed == steps[3:]
    assert end == state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_refused_before_it_reaches_the_moments(kind, value):
    optimizer = server_optimizer(kind, momentum=0.9)
    with pytest.raises(AdapterError, match="x:R"):
        optimizer.step(update_of(1, value), optimizer.init(update_of(1, 1)), learning_rate=0.1)


@pytest.mark.parametrize("kind", ["damped", "momentum", "adam", "yogi"])
def test_an_update_of_other_tensors_than_the_moments_is_refused(kind):
    optimizer = server_optimizer(kind, momentum=0.9)
    with pytest.raises(AdapterError, match="wrong shape"):
        optimizer.step(update_of(1), optimizer.init(update_of(1, 1)), learning_rate=0.1)


def test_a_learning_rate_that_is_not_finite_is_refused():
    optimizer = server_optimizer("none", momentum=0.9)
    with pytest.raises(AdapterError, match="scale"):
        optimizer.step(update_of(1), optimizer.init(update_of(1)), learning_rate=float("nan"))


def test_another_optimisers_state_is_refused():
    state = server_optimizer("adam", momentum=0.9).init(update_of(1))
    with pytest.raises(CheckpointError, match="adam"):
        server_optimizer("momentum", momentum=0.9).step(update_of(1), state, learning_rate=0.1)


def test_every_truncation_of_a_stored_state_is_refused():
    optimizer = server_optimizer("adam", momentum=0.9)
    data = optimizer.init(update_of(1, 2)).to_bytes()
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            OptState.from_bytes(data[:length])


def test_an_adapters_bytes_are_not_an_optimisers_state():
    with pytest.raises(CheckpointError, match="format"):
        OptState.from_bytes(update_of(1).to_bytes())


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"kind": "adam", "steps": "1"}, ["first/x:R"]),
        ({"kind": "yogi", "steps": "1"}, ["first/x:R"]),
        ({"kind": "yogi", "steps": "1"}, ["second/x:R"]),
        ({"kind": "none", "steps": "1"}, ["first/x:R"]),
        ({"kind": "sgd", "steps": "1"}, []),
        ({"kind": "none", "steps": "-1"}, []),
        ({"kind": "none", "steps": "one"}, []),
        ({"kind": "none"}, []),
        ({"kind": "momentum", "steps": "1"}, ["first/x:R", "third/x:R"]),
        ({"kind": "momentum", "steps": "1"}, ["firstx:R"]),
    ],
)
def test_a_stored_state_that_does_not_fit_its_kind_is_refused(metadata, names):
    common = {"format": "yoriai-server-optimizer", "version": "1"}
    data = save({name: np.ones((1, 1), np.float32) for name in names}, metadata={**common, **metadata})
    with pytest.raises(CheckpointError):
        OptState.from_bytes(data)


def test_an_unknown_optimiser_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError, match="none, damped, momentum, adam, yogi") as caught:
        server_optimizer("adamw", momentum=0.9)
    assert 'did you mean "adam"?' in str(caught.value)


@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi"])
@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_outside_zero_to_one_is_refused(kind, momentum):
    with pytest.raises(ConfigError, match="server_momentum"):
        server_optimizer(kind, momentum=momentum)
