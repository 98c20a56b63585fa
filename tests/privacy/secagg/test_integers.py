"""Sums of residues: exact mod 2^w for every set of survivors, in words of w bits, with weights of 1 only."""

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.privacy.secagg.cohort import Cohort, Round
from yoriai.errors import ProtocolError
from yoriai.privacy.secagg import FixedPoint, Integers, Quantised, Update
from yoriai.privacy.secagg.messages import HEADER_BYTES, SIGNATURE_BYTES

EVERYBODY = frozenset(range(5))


class Residues(Cohort):
    """Sites with residues over the whole ring, so that sums wrap."""

    def expected(self, survivors: Collection[int]) -> NDArray[np.uint64]:
        return super().expected(survivors) & np.uint64(self.grid.top)


@pytest.mark.parametrize("word_bits", [8, 13, 19, 32])
@pytest.mark.parametrize("left", [frozenset(s) for k in (4, 5) for s in combinations(range(5), k)], ids=str)
def test_every_set_of_survivors_opens_its_sum_modulo_the_ring(word_bits: int, left: frozenset[int]) -> None:
    cohort = Residues((1,) * 5, grid=Integers(word_bits), n_params=29)
    opened = Round(cohort, {"hold": EVERYBODY - left}).run()
    assert opened is not None
    assert np.array_equal(opened.levels, cohort.expected(left))
    assert opened.clipped == 0
    assert (Cohort.expected(cohort, left) > cohort.grid.top).any()


@pytest.mark.parametrize("sites", [3, 9])
@pytest.mark.parametrize("word_bits", range(8, 33))
def test_words_have_the_rings_bits_whatever_the_number_of_sites(word_bits: int, sites: int) -> None:
    cohort = Residues((1,) * sites, grid=Integers(word_bits), n_params=16)
    game = Round(cohort)
    game.run(until="mask")
    assert len(game.sent["mask"][0]) == HEADER_BYTES + 2 * word_bits + 8 + SIGNATURE_BYTES


def test_a_weight_other_than_1_is_refused_by_site_and_coordinator() -> None:
    game = Round(Cohort((1, 1, 2, 1)))
    game.run(until="hold")
    game.cohort.grid = Integers(16)
    with pytest.raises(ProtocolError, match="equal weights; found 1 sites of another weight"):
        game.ready(0)
    with pytest.raises(ProtocolError, match="equal weights"):
        game.window.begin(game.cohort.slot_terms)  # type: ignore[union-attr]


def test_an_update_beyond_the_ring_or_with_clipped_coordinates_is_refused_and_not_spent() -> None:
    game = Round(Cohort((1,) * 3, grid=Integers(8), n_params=4))
    game.run(until="hold")
    ready = game.ready(0)
    residues = np.full(4, 255, dtype=np.uint32)
    for bad in (Quantised(residues + np.uint32(1), 0), Quantised(residues, 1)):
        with pytest.raises(ProtocolError, match="does not fit the round"):
            ready.check(Update(b"u", bad))  # type: ignore[attr-defined]
    ready.check(Update(b"u", Quantised(residues, 0)))  # type: ignore[attr-defined]


def test_residues_have_no_mean() -> None:
    opened = Round(Residues((1,) * 3, grid=Integers(12))).run()
    assert opened is not None
    with pytest.raises(ProtocolError, match="no mean"):
        opened.mean()


@pytest.mark.parametrize("word_bits", [7, 33])
def test_rings_of_fewer_than_8_or_more_than_32_bits_are_refused(word_bits: int) -> None:
    with pytest.raises(ProtocolError, match="8 to 32"):
        Integers(word_bits)


def test_grids_of_two_kinds_have_two_encodings() -> None:
    assert len({Integers(16).encode(), FixedPoint(16, 1.0).encode(), Integers(17).encode()}) == 3
