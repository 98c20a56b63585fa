"""AdapterState: immutability, flattening, digest, bytes, arithmetic."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import (
    AdapterState,
    add_scaled,
    difference,
    elementwise,
    scaled,
    weighted_mean,
    zeros_like,
)


def state_of(seed: int = 0, *, factors: str = "AB") -> AdapterState:
    """Two maps with rank 2: `x` 3 by 4, `y` 5 by 2, of random values."""
    draw = np.random.default_rng(seed)
    shapes = {"x:A": (2, 4), "x:B": (3, 2), "y:A": (2, 2), "y:B": (5, 2)}
    return AdapterState(
        {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items() if name[-1] in factors}
    )


finite = st.floats(min_value=-1e6, max_value=1e6, width=32)


def test_writing_into_the_array_given_does_not_change_the_state():
    array = np.ones((2, 2), np.float32)
    state = AdapterState({"x:A": array})
    array[0, 0] = 7
    assert state.tensors["x:A"][0, 0] == 1


def test_writing_into_a_read_only_views_base_does_not_change_the_state():
    array = np.ones((2, 2), np.float32)
    view = array[:]
    view.flags.writeable = False
    state = AdapterState({"x:A": view})
    array[0, 0] = 7
    assert state.tensors["x:A"][0, 0] == 1


def test_tensors_and_mapping_refuse_writing():
    state = state_of()
    with pytest.raises(ValueError, match="read-only"):
        state.tensors["x:A"][0, 0] = 1
    with pytest.raises(TypeError):
        state.tensors["x:A"] = np.ones((2, 4), np.float32)
    with pytest.raises(AttributeError):
        state.tensors = {}


def test_tensors_become_contiguous_float32_in_sorted_order():
    state = AdapterState({"y:B": np.ones((2, 3)).T, "x:A": np.ones((1, 1), ">f4")})
    assert list(state.tensors) == ["x:A", "y:B"]
    for tensor in state.tensors.values():
        assert tensor.dtype == np.dtype(np.float32)
        assert tensor.dtype.isnative
        assert tensor.flags.c_contiguous


@pytest.mark.parametrize("name", ["x", "x:", ":A", "x:a", "x:A:B", "x y:A", "x:A\n", "é:A"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(AdapterError, match="malformed"):
        AdapterState({name: np.ones((1, 1))})


@pytest.mark.parametrize("tensor", [np.ones(3), np.ones((0, 2)), np.ones((1, 1), np.int64), np.ones((1, 1, 1))])
def test_what_is_no_matrix_of_floats_is_refused_by_name(tensor):
    with pytest.raises(AdapterError, match=r"layers\.0:A"):
        AdapterState({"layers.0:A": tensor})


def test_an_empty_state_is_refused():
    with pytest.raises(AdapterError, match="no tensors"):
        AdapterState({})


def test_repr_shows_no_values():
    assert repr(AdapterState({"x:A": np.full((1, 1), 0.123)})) == "AdapterState(1 tensors, 4 bytes)"


def test_a_deep_copy_is_equal_and_still_read_only():
    copied = copy.deepcopy(state_of())
    assert copied == state_of()
    assert not copied.tensors["x:A"].flags.writeable


def test_flatten_is_by_sorted_name_and_row_by_row():
    state = AdapterState({"y:A": np.array([[5.0, 6.0]]), "x:B": np.array([[1.0, 2.0], [3.0, 4.0]])})
    assert state.flatten().tolist() == [1, 2, 3, 4, 5, 6]
    assert state.flatten().dtype == np.float32


@given(st.lists(finite, min_size=28, max_size=28))
def test_unflatten_is_the_inverse_of_flatten(values):
    vector = np.array(values, np.float32)
    rebuilt = state_of().unflatten(vector)
    assert rebuilt.flatten().tobytes() == vector.tobytes()
    assert {n: t.shape for n, t in rebuilt.tensors.items()} == {n: t.shape for n, t in state_of().tensors.items()}


@pytest.mark.parametrize("shape", [(27,), (29,), (28, 1)])
def test_unflatten_refuses_a_vector_of_another_shape(shape):
    with pytest.raises(AdapterError, match="wrong shape"):
        state_of().unflatten(np.zeros(shape, np.float32))


def test_select_keeps_one_factor_of_every_map():
    assert list(state_of().select(("B",)).tensors) == ["x:B", "y:B"]


def test_select_refuses_a_factor_that_is_in_no_map():
    with pytest.raises(AdapterError, match="no factor R"):
        state_of().select(("B", "R"))


def test_merged_with_takes_the_others_tensors_and_keeps_the_rest():
    other = state_of(1, factors="B")
    merged = state_of().merged_with(other)
    assert merged.select(("B",)) == other
    assert merged.select(("A",)) == state_of().select(("A",))


def test_merged_with_refuses_another_shape_by_name():
    with pytest.raises(AdapterError, match="x:B"):
        state_of().merged_with(AdapterState({"x:B": np.ones((3, 3))}))


def test_module_paths_size_and_factors():
    state = state_of()
    assert state.module_paths() == ("x", "y")
    assert state.factors() == ("A", "B")
    assert state.size_bytes == 4 * 28


def test_digest_does_not_depend_on_the_order_of_insertion():
    tensors = dict(state_of().tensors)
    assert AdapterState(dict(reversed(tensors.items()))).digest() == state_of().digest()


@given(st.integers(0, 28 * 32 - 1))
def test_digest_changes_with_any_one_bit(position):
    bits = state_of().flatten().view(np.uint32)
    bits[position // 32] ^= np.uint32(1 << position % 32)
    assert state_of().unflatten(bits.view(np.float32)).digest() != state_of().digest()


def test_digest_changes_with_a_name_and_with_a_shape():
    ones = {"x:A": np.ones((2, 3))}
    others = [{"x:B": np.ones((2, 3))}, {"x:A": np.ones((3, 2))}, {"x:A": np.ones((1, 6))}]
    assert len({AdapterState(tensors).digest() for tensors in [ones, *others]}) == 4


def test_digest_is_the_one_that_was_published():
    state = AdapterState({"x:A": np.array([[1.0, -2.5]])})
    assert state.digest() == "7a40f983f3d0b7195040eff591c09f5b2a63ef53f8f4ea19ae637d580debbaf5"


@given(st.lists(st.floats(width=32), min_size=28, max_size=28))
def test_bytes_round_trip_to_the_bit_even_for_nan(values):
    state = state_of().unflatten(np.array(values, np.float32))
    assert AdapterState.from_bytes(state.to_bytes()) == state


def test_bytes_carry_format_and_version():
    data = state_of().to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "yoriai-adapter", "version": "1"}


def test_bytes_are_the_same_in_every_process():
    script = (
        "import numpy as np; from yoriai.strategies.adapter import AdapterState;"
        "print(AdapterState({'y:A': np.ones((1, 3)), 'x:B': np.ones((2, 2))}).to_bytes().hex())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script]
    outputs = {subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(6)}
    expected = AdapterState({"y:A": np.ones((1, 3)), "x:B": np.ones((2, 2))}).to_bytes().hex()
    assert outputs == {f"{expected}\n".encode()}


def test_tensors_stand_aligned_to_eight_bytes_in_the_file():
    for name in ("x:A", "xx:A", "xxx:A"):
        data = AdapterState({name: np.ones((1, 1))}).to_bytes()
        assert int.from_bytes(data[:8], "little") % 8 == 0


def test_every_truncation_is_refused():
    data = state_of().to_bytes()
    for length in range(len(data)):
        with pytest.raises(AdapterError):
            AdapterState.from_bytes(data[:length])


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    with pytest.raises(AdapterError):
        AdapterState.from_bytes(data)


def test_trailing_bytes_are_refused():
    with pytest.raises(AdapterError):
        AdapterState.from_bytes(state_of().to_bytes() + b"\0")


@pytest.mark.parametrize("metadata", [None, {"format": "yoriai-adapter", "version": "2"}, {"version": "1"}])
def test_another_format_or_version_is_refused(metadata):
    data = save({"x:A": np.ones((1, 1), np.float32)}, metadata=metadata)
    with pytest.raises(AdapterError, match="metadata"):
        AdapterState.from_bytes(data)


@pytest.mark.parametrize(("name", "dtype"), [("x:A", np.float16), ("x:A", np.int32), ("plain", np.float32)])
def test_a_file_with_another_dtype_or_a_malformed_name_is_refused(name, dtype):
    data = save({name: np.ones((1, 1), dtype)}, metadata={"format": "yoriai-adapter", "version": "1"})
    with pytest.raises(AdapterError, match=name):
        AdapterState.from_bytes(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_tensor(value):
    tensors = {name: tensor.copy() for name, tensor in state_of().tensors.items()}
    tensors["y:A"][1, 1] = value
    with pytest.raises(AdapterError, match="y:A"):
        AdapterState(tensors).check_finite()


def test_check_finite_accepts_finite_values():
    state_of().check_finite()


def test_overflow_to_float32_is_found_by_check_finite():
    with pytest.raises(AdapterError, match="x:A"):
        AdapterState({"x:A": np.full((1, 1), 1e300)}).check_finite()


def test_product_is_b_times_a():
    state = AdapterState({"x:A": np.array([[1.0, 2.0]]), "x:B": np.array([[3.0], [4.0]])})
    assert state.product("x").tolist() == [[3, 6], [4, 8]]


def test_product_of_a_core_is_u_times_r_times_a():
    state = AdapterState({"x:A": np.array([[1.0, 2.0]]), "x:U": np.array([[3.0], [4.0]]), "x:R": np.array([[10.0]])})
    assert state.product("x").tolist() == [[30, 60], [40, 80]]


def test_product_names_the_map_whose_factors_are_missing_or_do_not_fit():
    with pytest.raises(AdapterError, match="x:B"):
        state_of(factors="A").product("x")
    with pytest.raises(AdapterError, match="factors of x"):
        AdapterState({"x:A": np.ones((2, 3)), "x:B": np.ones((3, 1))}).product("x")


def test_arithmetic_by_hand():
    a, b = AdapterState({"x:A": np.array([[1.0, 2.0]])}), AdapterState({"x:A": np.array([[10.0, -4.0]])})
    assert add_scaled(a, b, 0.5).flatten().tolist() == [6, 0]
    assert difference(a, b).flatten().tolist() == [-9, 6]
    assert scaled(a, -2.0).flatten().tolist() == [-2, -4]
    assert zeros_like(a).flatten().tolist() == [0, 0]
    assert weighted_mean({"north": (3, a), "south": (1, b)}).flatten().tolist() == [3.25, 0.5]


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: add_scaled(a, b, 1.0),
        difference,
        lambda a, b: elementwise(np.add, a, b),
        lambda a, b: weighted_mean({"north": (1, a), "south": (1, b)}),
    ],
)
def test_arithmetic_names_the_tensor_that_does_not_fit(operation):
    for pair in ((state_of(), state_of(factors="A")), (state_of(factors="A"), state_of())):
        with pytest.raises(AdapterError, match="x:B"):
            operation(*pair)
    misshapen = AdapterState({**state_of().tensors, "y:A": np.ones((2, 3))})
    with pytest.raises(AdapterError, match="y:A"):
        operation(state_of(), misshapen)


@given(st.permutations(["alpha", "Beta", "gamma", "site-10", "site-9"]))
def test_the_weighted_mean_has_the_same_bits_in_every_order_of_sites(order):
    # Large values cancel and swallow the small ones or not, by the order of addition: even in float64 it would show.
    values = {"alpha": 2.0**60, "Beta": 1.0, "gamma": -(2.0**60), "site-10": 3.0, "site-9": 5.0}
    updates = {site: (1, AdapterState({"x:A": np.full((1, 1), value)})) for site, value in values.items()}
    permuted = {site: updates[site] for site in order}
    assert weighted_mean(permuted).digest() == weighted_mean(updates).digest()


def test_the_mean_is_added_up_in_float64():
    big, small = AdapterState({"x:A": np.full((1, 1), 2.0**24)}), AdapterState({"x:A": np.ones((1, 1))})
    updates = {"a": (1, big), **{f"b{i}": (1, small) for i in range(8)}}
    assert weighted_mean(updates).flatten()[0] == np.float32((2.0**24 + 8) / 9) != np.float32(2.0**24 / 9)


@given(st.lists(st.integers(1, 255), min_size=1, max_size=12), st.lists(finite, min_size=28, max_size=28))
def test_the_mean_of_equal_states_is_that_state_to_the_bit(weights, values):
    # Adding zero makes -0.0 into 0.0, whose sum with itself is the same under every weight.
    state = state_of().unflatten(np.array(values, np.float32) + np.float32(0))
    assert weighted_mean({f"site{i}": (w, state) for i, w in enumerate(weights)}) == state


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused_by_site(weight):
    with pytest.raises(AdapterError, match="site north"):
        weighted_mean({"north": (weight, state_of())})


def test_sums_over_nothing_and_means_of_no_weight_are_refused():
    with pytest.raises(AdapterError, match="no updates"):
        weighted_mean({})
    with pytest.raises(AdapterError, match="zero"):
        weighted_mean({"north": (0, state_of())})


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_refused(scale):
    with pytest.raises(AdapterError, match="scale"):
        scaled(state_of(), scale)
    with pytest.raises(AdapterError, match="scale"):
        add_scaled(state_of(), state_of(), scale)
