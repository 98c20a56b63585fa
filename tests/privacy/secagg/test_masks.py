"""Masks: uniform, fresh, the same at both ends, and reachable by block."""

import math

import numpy as np
import pytest

from tests.privacy.secagg.cohort import Cohort, Round, seeded
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.masks import BLOCK, MaskKey, Scratch, add_masks, for_each_block
from yoriai.privacy.secagg.secret import SecretBytes


def _mask(secret: bytes, info: bytes, count: int, dtype: type = np.uint32) -> np.ndarray:
    words = np.zeros(count, dtype=dtype)
    key = MaskKey(SecretBytes(secret), info)
    for_each_block(
        count, lambda a, b: add_masks(words[a:b], a, [(1, key)], Scratch(BLOCK * words.dtype.itemsize)), threads=1
    )
    return words


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_mask_bytes_are_uniform_over_all_256_values(dtype: type) -> None:
    # 255 degrees of freedom, standard deviation sqrt(510) = 22.6: six of them on both sides.
    counts = np.bincount(_mask(b"k" * 32, b"", 1 << 18, dtype).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_squared - 255) < 6 * math.sqrt(510)


@pytest.mark.parametrize("width", [1, 4, 8])
def test_the_low_bits_take_every_value_and_the_top_one_as_often(width: int) -> None:
    words = _mask(b"k" * 32, b"low", 1 << 18) & np.uint32((1 << width) - 1)
    counts = np.bincount(words, minlength=1 << width)
    expected = words.size / (1 << width)
    assert abs(counts[-1] - expected) < 6 * math.sqrt(expected)
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - (1 << width)) < 6 * math.sqrt(2 << width) + 2


def test_the_high_bytes_of_words_are_uniform_too() -> None:
    counts = np.bincount(_mask(b"k" * 32, b"high", 1 << 18) >> np.uint32(24), minlength=256)
    assert abs(float(((counts - 1024) ** 2 / 1024).sum()) - 255) < 6 * math.sqrt(510)


def test_masked_vectors_are_uniform_whatever_is_in_them() -> None:
    cohort = Cohort((1, 1, 1), n_params=40_000)
    cohort.levels = lambda i: np.zeros(cohort.n_params, dtype=np.uint32)  # type: ignore[method-assign]
    game = Round(cohort)
    game.run()
    for message in game.sent["mask"].values():
        body = np.frombuffer(message, dtype=np.uint8)[59:][:80_000]
        counts = np.bincount(body, minlength=256)
        expected = counts.sum() / 256
        assert abs(float(((counts - expected) ** 2 / expected).sum()) - 255) < 6 * math.sqrt(510)


def test_the_tail_leaves_masked_too() -> None:
    """Of three words that say how many coordinates were clipped and what was counted, none is as it was."""
    game = Round(Cohort((1,) * 4, n_counts=2))
    game.run(until="mask")
    tails = [np.frombuffer(m[: -wire.SIGNATURE_BYTES], np.uint8)[-24:].view("<u8") for m in game.sent["mask"].values()]
    # Unmasked they are below 1,000; a random word is below 2^40 once in 2^24.
    assert all((tail > 2**40).all() for tail in tails)
    assert len(np.unique(tails)) == 12


def test_any_start_gives_the_same_words_as_the_whole() -> None:
    key, whole = MaskKey(SecretBytes(b"s" * 32), b"i"), _mask(b"s" * 32, b"i", 3 * BLOCK + 7)
    last = np.zeros(7, dtype=np.uint32)
    add_masks(last, 3 * BLOCK, [(1, key)], Scratch(28))
    assert np.array_equal(last, whole[3 * BLOCK :])


def test_threads_do_not_change_the_words() -> None:
    key, count = MaskKey(SecretBytes(b"s" * 32), b"i"), 5 * BLOCK + 9
    words = np.zeros(count, dtype=np.uint32)
    for_each_block(count, lambda a, b: add_masks(words[a:b], a, [(1, key)], Scratch(4 * BLOCK)), threads=2)
    assert np.array_equal(words, _mask(b"s" * 32, b"i", count))


def test_adding_and_subtracting_a_mask_cancel() -> None:
    words = np.arange(1000, dtype=np.uint32)
    key = MaskKey(SecretBytes(b"s" * 32), b"i")
    add_masks(words, 0, [(1, key), (-1, key)], Scratch(4000))
    assert np.array_equal(words, np.arange(1000))


def test_vector_tail_and_every_info_have_their_own_stream() -> None:
    key = MaskKey(SecretBytes(b"s" * 32), b"i")
    vector = _mask(b"s" * 32, b"i", 64, np.uint64)
    assert not set(vector.tolist()) & set(key.tail(64).tolist())
    assert not set(vector.tolist()) & set(_mask(b"s" * 32, b"j", 64, np.uint64).tolist())


def _pair_masks(cohort: Cohort) -> dict[tuple[int, int], bytes]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from yoriai.privacy.secagg.masks import agree

    game = Round(cohort)
    game.run(until="share")
    masks = {}
    for i, stage in game.stages.items():
        keys, secret = stage._keys, stage._secrets[cohort.slot][1]
        private = X25519PrivateKey.from_private_bytes(secret.reveal())
        for j in keys.ids:
            if i != j:
                slot = keys.slot(cohort.slot_terms)
                mask = slot.pair_mask(i, j, agree(private, slot.mask_key(j)))
                masks[i, j] = mask.tail(4).tobytes()
    return masks


def test_both_ends_derive_the_same_mask_and_no_two_pairs_share_one() -> None:
    masks = _pair_masks(Cohort((1,) * 4))
    assert all(masks[i, j] == masks[j, i] for i, j in masks)
    assert len(set(masks.values())) == 6


def test_two_windows_and_two_slots_never_share_a_mask() -> None:
    cohorts = [Cohort((1,) * 4, number=1), Cohort((1,) * 4, number=2), Cohort((1,) * 4, number=2, slot=1)]
    masks = [set(_pair_masks(cohort).values()) for cohort in cohorts]
    assert len(set().union(*masks)) == sum(map(len, masks)) == 18


def test_a_repeated_round_has_other_masks_even_with_the_same_keys() -> None:
    # A generator that repeats itself is the worst case: the key set, and with it every mask, changes with any member.
    entropy = seeded("stuck")
    one, two = (entropy(32), entropy(32))
    assert one != two
    few, many = Cohort((1,) * 3), Cohort((1,) * 4)
    shared = {pair: mask for pair, mask in _pair_masks(few).items() if max(pair) < 3}
    assert not set(shared.values()) & set(_pair_masks(many).values())
