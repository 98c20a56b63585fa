"""Sites of lower rank under the secure sum: what opens, and what never does."""

from collections.abc import Collection
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.privacy.secagg.cohort import OPENING, STAGES, Cohort, Round, seeded
from yoriai.errors import PolicyError, RoundError
from yoriai.privacy.secagg import SitePolicy, coordinator, quantise, replies
from yoriai.privacy.secagg.ranks import thin_ranks
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rank_block import restricted_to_block

# Of six sites, three hold all four columns, and three the first two. With min_sites 3, all or none of each three count.
RANKS = (2, 4, 2, 4, 2, None)
WEIGHTS = (1, 255, 3, 1, 17, 2)
WIDE = frozenset({1, 3, 5})
NARROW = frozenset({0, 2, 4})
EVERYBODY = frozenset(range(6))


class Columns(Cohort):
    """Every site's update is a B factor of rank 4, restricted_to_block to its own rank and put on the grid."""

    def levels(self, i: int) -> NDArray[np.uint32]:
        values = np.random.default_rng(i).uniform(-1, 1, (5, 4)).astype(np.float32)
        update = restricted_to_block(AdapterState({"m:B": values}), self.ranks[i])
        return quantise(update.flatten(), self.grid, seeded(f"rounding {i}"), threads=1).levels


def cohort(least: int = 2, min_sites: int = 2, **more: object) -> Columns:
    policy = SitePolicy(min_sites=min_sites)
    settings = {"ranks": RANKS, "full_rank": 4, **more}
    return Columns(WEIGHTS, n_params=20, least_survivors=least, policy=policy, **settings)  # type: ignore[arg-type]


def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that cheats: it goes on where it should have voided the round."""
    monkeypatch.setattr(coordinator, "thin_among", lambda *_: ())
    monkeypatch.setattr(replies, "thin_among", lambda *_: ())


@pytest.mark.parametrize(
    ("ranks", "least", "thin"),
    [
        ((4, 4, 4), 2, ()),
        ((2, 4, 4), 2, (2,)),
        ((2, 2, 4, 4), 2, ()),
        ((2, 2, 4, 4, 4), 3, (2,)),
        ((2, 4, 4), 3, (2, 4)),
        ((2, 2, 4), 2, (4,)),
        ((2, 2, 2), 3, ()),
        ((1, 2, 3, 4), 2, (1, 2, 3, 4)),
        ((5,), 2, (5,)),
        ((), 2, ()),
    ],
)
def test_a_rank_is_thin_when_fewer_than_the_least_share_it(
    ranks: tuple[int, ...], least: int, thin: tuple[int, ...]
) -> None:
    assert thin_ranks(ranks, least) == thin


@pytest.mark.parametrize(
    "left",
    [
        s
        for k in range(2, 7)
        for s in map(frozenset, combinations(range(6), k))
        if 1 not in (len(s & WIDE), len(s & NARROW))
    ],
    ids=str,
)
def test_the_opened_sum_is_that_of_the_restricted_updates_to_the_bit(left: frozenset[int]) -> None:
    world = cohort()
    opened = Round(world, {"": EVERYBODY - left}).run()
    assert opened is not None
    assert np.array_equal(opened.levels, world.expected(left))


@pytest.mark.parametrize("stage", OPENING)
def test_a_column_left_to_too_few_voids_the_round_before_unmasking(stage: str) -> None:
    world = cohort(least=3, min_sites=3)
    game = Round(world, {stage: {1}})
    with pytest.raises(RoundError, match=r"too few .* of rank 4.*found 2.*at least 3"):
        game.run()
    assert not game.sent.get("consistency")
    assert not game.sent.get("unmask")


def test_a_column_that_nobody_is_left_to_hold_opens_nothing_and_so_voids_nothing() -> None:
    world = cohort(least=3, min_sites=3)
    opened = Round(world, {"": WIDE}).run()
    assert opened is not None
    assert np.array_equal(opened.levels, world.expected(EVERYBODY - WIDE))


def _refused_by(game: Round, stage: str, sites: Collection[int]) -> None:
    """Every one of these sites, asked for `stage`, refuses with the reason, and has no second answer."""
    before = STAGES[STAGES.index(stage) - 1]
    for i in sites:
        with pytest.raises(PolicyError, match=r"too few .* for a rank that the roster names; found rank 4"):
            game.stages[i].step(game.payload(before, i))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("lost_after", "refused"),
    [("", "sign keys"), ("advertise", "share"), ("sign keys", "hold"), ("hold", "consistency")],
)
def test_a_coordinator_that_goes_on_is_refused_by_every_site(
    monkeypatch: pytest.MonkeyPatch, lost_after: str, refused: str
) -> None:
    believing(monkeypatch)
    game = Round(cohort(least=3, min_sites=3), {lost_after: {1}})
    game.run(until=STAGES[STAGES.index(refused) - 1])
    _refused_by(game, refused, EVERYBODY - {1})


def test_a_site_judges_by_its_own_policy_where_the_job_asks_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's two holders are enough for the honest coordinator, and not for these sites."""
    game = Round(cohort(least=2, min_sites=3), {"hold": {1}})
    game.run(until="mask")
    _refused_by(game, "consistency", EVERYBODY - {1})


def test_sites_of_a_rank_that_too_few_share_are_left_out_and_the_others_go_on() -> None:
    world = cohort(least=3, min_sites=3)
    for left in map(frozenset, chain.from_iterable(combinations(range(6), k) for k in range(3, 7))):
        game = Round(world, {"": EVERYBODY - left})
        enough = [group for group in (left & WIDE, left & NARROW) if len(group) == 3]
        if enough:
            opened = game.run()
            assert opened is not None
            assert np.array_equal(opened.levels, world.expected(frozenset().union(*enough)))
        else:
            with pytest.raises(RoundError):
                game.run()


def test_a_lone_site_of_lower_rank_is_refused_for_a_difference_of_two_columns_would_be_its_own_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All hold the first column, all but site 0 the third; where both read the same, their difference is site 0's."""
    believing(monkeypatch)
    game = Round(cohort(least=3, min_sites=3, ranks=(2, 4, 4, 4, None, None)))
    game.run(until="advertise")
    for i in EVERYBODY:
        with pytest.raises(PolicyError, match=r"too few .* for a rank that the roster names; found rank 2"):
            game.stages[i].step(game.payload("advertise", i))  # type: ignore[attr-defined]


def test_ranks_above_the_jobs_count_as_the_jobs() -> None:
    world = cohort(least=3, min_sites=3, ranks=(9, 4, 4, 4, 2, None))
    assert Round(world, {"": {1, 4}}).run() is not None


def test_the_jobs_rank_is_bound_in_the_terms() -> None:
    terms = cohort().terms
    bound = {replace(terms, full_rank=rank).binding.digest for rank in (None, 4, 5)}
    assert len(bound) == 3
