"""The public rotation: orthonormal, undone exactly enough, and the same signs on every machine."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from yoriai.errors import ConfigError
from yoriai.privacy.distributed.rotation import Rotation, padded_size

SEED = bytes(range(32))


@settings(deadline=None, max_examples=40)
@given(n_params=st.integers(1, 700), seed=st.binary(min_size=32, max_size=32))
def test_the_rotation_keeps_every_inner_product_and_is_undone(n_params: int, seed: bytes) -> None:
    rotation = Rotation(seed, n_params)
    rows = np.random.default_rng(n_params).standard_normal((3, n_params))
    rotated = rotation.apply(rows)
    assert rotated.shape == (3, rotation.size)
    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, atol=1e-10)
    np.testing.assert_allclose(rotation.invert(rotated[1]), rows[1], atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 8, 16, 32, 512])
def test_the_rotation_is_signs_and_then_the_hadamard_matrix(size: int) -> None:
    rotation = Rotation(SEED, size)
    expected = hadamard(size) @ np.diag(rotation._signs) / np.sqrt(size)
    np.testing.assert_allclose(rotation.apply(np.eye(size)).T, expected, atol=1e-13)


def test_a_vector_larger_than_one_piece_is_transformed_as_a_whole() -> None:
    size, place = 1 << 18, 123_456
    spike = np.zeros((1, size), dtype=np.float32)
    spike[0, place] = 1.0
    rotation = Rotation(SEED, size)
    rotated = rotation.apply(spike)[0]
    parities = np.bitwise_count(np.arange(size) & place) & 1
    np.testing.assert_allclose(rotated * np.sqrt(size), rotation._signs[place] * (1 - 2 * parities.astype(int)))
    np.testing.assert_allclose(rotation.invert(rotated), spike[0], atol=1e-12)


def test_no_row_changes_the_last_bits_of_another() -> None:
    rows = np.random.default_rng(1).standard_normal((5, 300))
    rotation = Rotation(SEED, 300)
    together = rotation.apply(rows)
    for index in range(5):
        np.testing.assert_array_equal(together[index], rotation.apply(rows[index : index + 1])[0])


def test_the_signs_are_those_of_every_other_machine() -> None:
    signs = Rotation(SEED, 1003)._signs
    assert set(signs.tolist()) == {-1, 1}
    assert sha256(signs.tobytes()).hexdigest() == "891cc5280c84c633c2f6e88e431912e8bee9af88182b90346032a645a59a7d44"


def test_another_seed_gives_other_signs_half_of_them() -> None:
    first, second = Rotation(SEED, 10_000)._signs, Rotation(bytes(32), 10_000)._signs
    assert abs(int(first.sum())) < 500
    assert abs(int((first * second).sum())) < 500


@pytest.mark.parametrize(("n_params", "size"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_the_size_is_the_next_power_of_two(n_params: int, size: int) -> None:
    assert padded_size(n_params) == Rotation(SEED, n_params).size == size


def test_what_cannot_be_rotated_is_refused() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Rotation(b"short", 5)
    with pytest.raises(ConfigError, match="at least 1"):
        Rotation(SEED, 0)
    with pytest.raises(ConfigError, match="rows"):
        Rotation(SEED, 5).apply(np.zeros((2, 8)))
    with pytest.raises(ConfigError, match="vector"):
        Rotation(SEED, 5).invert(np.zeros(5))
