"""Averages over adapter versions."""

import numpy as np
import pytest

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.average import update, update_exponential


def state_of(value, fixed=0.1):
    return AdapterState({"x:A": np.array([[fixed]]), "x:B": np.array([[float(value)]])})


def test_updates_from_nothing_end_as_the_mean_of_all_states():
    average = None
    for count, value in enumerate([1, 2, 6, 11]):
        average = update(average, count, state_of(value))
    assert np.isclose(average.factor("x", "B")[0, 0], 5, rtol=1e-6)


def test_the_mean_of_one_state_is_that_state():
    assert update(None, 0, state_of(3)) == state_of(3)


def test_a_factor_that_stands_still_comes_out_to_the_bit():
    average = None
    for count in range(7):
        average = update(average, count, state_of(count, fixed=1 / 3))
    assert average.factor("x", "A") == np.float32(1 / 3)


def test_exponential_average_by_hand():
    assert update_exponential(state_of(8), state_of(4), decay=0.75).factor("x", "B") == 7


def test_decay_zero_forgets_the_past():
    assert update_exponential(state_of(8), state_of(4), decay=0.0) == state_of(4)


@pytest.mark.parametrize(("average", "count"), [(None, 1), (state_of(1), 0), (state_of(1), -1)])
def test_a_count_that_does_not_fit_the_average_is_refused(average, count):
    with pytest.raises(AdapterError, match="count"):
        update(average, count, state_of(1))


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(AdapterError, match="decay"):
        update_exponential(state_of(1), state_of(2), decay=decay)


def test_states_of_other_shapes_are_refused():
    with pytest.raises(AdapterError, match="x:B"):
        update(state_of(1), 1, AdapterState({"x:A": np.ones((1, 1)), "x:B": np.ones((2, 1))}))
