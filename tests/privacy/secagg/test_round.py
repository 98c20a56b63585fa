"""The opened sum equals the plain sum bit for bit, whoever drops out and whenever; or the round is void."""

from contextlib import suppress
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.privacy.secagg.cohort import OPENING, STAGES, Cohort, Round
from yoriai.errors import ProtocolError, RoundError
from yoriai.privacy.secagg import FixedPoint
from yoriai.privacy.secagg import messages as wire
from yoriai.privacy.secagg.graph import plan, quorum
from yoriai.privacy.secagg.messages import Advertisement, MessageKind

EVERYBODY = frozenset(range(6))
SUBSETS = [frozenset(s) for s in chain.from_iterable(combinations(range(6), k) for k in range(7))]
WEIGHTS = (1, 255, 3, 1, 17, 2)


def _check(cohort: Cohort, game: Round, survivors: frozenset[int]) -> None:
    opened = game.run()
    assert opened is not None
    assert np.array_equal(opened.levels, cohort.expected(survivors))
    assert opened.survivors == tuple(cohort.names[i] for i in sorted(survivors))
    assert opened.total_weight == sum(cohort.weights[i] for i in survivors)
    assert opened.clipped == sum(survivors)
    assert opened.counts == tuple(sum(100 * i + j for i in survivors) for j in range(cohort.n_counts))


@pytest.mark.parametrize("left", [s for s in SUBSETS if len(s) >= 2], ids=str)
def test_every_set_that_answers_from_the_start_opens_its_sum(left: frozenset[int]) -> None:
    cohort = Cohort(WEIGHTS, n_counts=2)
    _check(cohort, Round(cohort, {"": EVERYBODY - left}), left)


@pytest.mark.parametrize("stage", OPENING)
@pytest.mark.parametrize("left", [s for s in SUBSETS if len(s) >= quorum(6)], ids=str)
def test_every_set_of_survivors_opens_its_sum_when_the_others_leave_after(stage: str, left: frozenset[int]) -> None:
    cohort = Cohort(WEIGHTS, n_counts=1)
    _check(cohort, Round(cohort, {stage: EVERYBODY - left}), left)


@pytest.mark.parametrize("stage", ["mask", "consistency"])
@pytest.mark.parametrize("left", [s for s in SUBSETS if len(s) >= quorum(6)], ids=str)
def test_who_leaves_after_sending_its_masked_update_is_in_the_sum(stage: str, left: frozenset[int]) -> None:
    cohort = Cohort(WEIGHTS)
    _check(cohort, Round(cohort, {stage: EVERYBODY - left}), EVERYBODY)


@pytest.mark.parametrize("left", [s for s in SUBSETS if len(s) == 4], ids=str)
def test_every_four_of_six_can_unmask_for_all(left: frozenset[int]) -> None:
    cohort = Cohort(WEIGHTS)
    _check(cohort, Round(cohort, {"consistency": EVERYBODY - left}), EVERYBODY)


@pytest.mark.parametrize("first", OPENING)
def test_a_site_may_leave_at_each_stage_of_a_larger_cohort(first: str) -> None:
    cohort = Cohort((1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    game = Round(cohort, {"hold": [1], "mask": [2], "consistency": [3]} | {first: [0]})
    _check(cohort, game, frozenset(range(1 if first == "hold" else 2, 10)))


@pytest.mark.parametrize("stage", STAGES[:-1])
@pytest.mark.parametrize("left", [s for s in SUBSETS if len(s) == quorum(6) - 1][::4], ids=str)
def test_one_site_below_the_threshold_the_round_is_void(stage: str, left: frozenset[int]) -> None:
    # After the consistency stage only shares are missing: three of six hold two shares of each other, three are needed.
    gone = EVERYBODY - (left if stage != "consistency" else frozenset(sorted(left)[:3]))
    with pytest.raises(RoundError):
        Round(Cohort(WEIGHTS), {stage: gone}).run()


def test_fewer_survivors_than_the_job_is_calibrated_to_void_the_round() -> None:
    with pytest.raises(RoundError):
        Round(Cohort(WEIGHTS, least_survivors=6), {"hold": [0]}).run()


def test_after_a_void_window_the_next_one_starts_afresh_and_opens() -> None:
    with pytest.raises(RoundError):
        Round(Cohort(WEIGHTS, number=1), {"share": [0, 1]}).run()
    cohort = Cohort(WEIGHTS, number=2)
    _check(cohort, Round(cohort), EVERYBODY)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 255), min_size=2, max_size=9),
    st.integers(1, 40),
    st.integers(2, 32),
    st.floats(1e-6, 1e6),
    st.integers(0, 3),
    st.data(),
)
def test_any_cohort_opens_its_sum_or_nothing(
    weights: list[int], n_params: int, bits: int, value_range: float, n_counts: int, data: st.DataObject
) -> None:
    cohort = Cohort(tuple(weights), n_params=n_params, grid=FixedPoint(bits, value_range), n_counts=n_counts)
    sites = frozenset(range(len(weights)))
    gone = data.draw(st.frozensets(st.sampled_from(sorted(sites)), max_size=len(sites) - 1))
    stage = data.draw(st.sampled_from(OPENING))
    game = Round(cohort, {stage: gone})
    if len(sites - gone) >= max(2, quorum(len(sites))):
        _check(cohort, game, sites - gone)
    else:
        with pytest.raises(RoundError):
            game.run()


@settings(max_examples=4, deadline=None)
@given(st.integers(33, 44), st.integers(0, 10**6))
def test_on_the_sparse_graph_the_sum_is_exact_or_the_round_void(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cohort = Cohort(tuple(int(w) for w in rng.integers(1, 256, n)), n_params=17, seed=str(seed))
    assert plan(n).holders < n - 1
    lost = rng.permutation(n)[: int(rng.integers(0, n // 8 + 1))].tolist()
    cut = int(rng.integers(0, len(lost) + 1))
    game = Round(cohort, {"hold": lost[:cut], "mask": lost[cut:]})
    with suppress(RoundError):
        _check(cohort, game, frozenset(range(n)) - frozenset(lost[:cut]))


def test_a_tenth_may_leave_the_sparse_graph_at_any_time() -> None:
    cohort = Cohort((1,) * 40)
    _check(cohort, Round(cohort, {"hold": [7, 39], "consistency": [11, 12]}), frozenset(range(40)) - {7, 39})


def test_words_beyond_32_bits_open_too() -> None:
    cohort = Cohort((255,) * 5, grid=FixedPoint(32, 1.0), n_params=70_000)
    _check(cohort, Round(cohort, {"share": [1]}), frozenset({0, 2, 3, 4}))


def test_vectors_of_several_blocks_and_two_threads_open_too() -> None:
    cohort = Cohort((1, 2, 3), n_params=3 * 65_536 + 5)
    _check(cohort, Round(cohort), frozenset(range(3)))


def test_masked_updates_are_summed_as_they_arrive() -> None:
    # A generator of replies is never asked for the next one before the last has been dealt with.
    game = Round(Cohort((1, 1, 1)))
    game.run(until="hold")
    alive = 0

    def answers():
        nonlocal alive
        for name in game.cohort.names:
            i = game.cohort.names.index(name)
            _, message = game.ready(i).step(game.cohort.update(i), lambda identity: None)
            alive += 1
            yield name, message

    game.coordinator.step(answers())
    assert alive == 3


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_malformed_reply_drops_its_site_with_a_reason_and_the_round_goes_on(stage: str) -> None:
    cohort = Cohort(WEIGHTS)
    game = Round(cohort)
    answer = game._answer

    def broken(at: str, i: int, payload: bytes) -> bytes:
        message = answer(at, i, payload)
        return message[:-1] + bytes([message[-1] ^ 1]) if (at, i) == (stage, 4) else message

    game._answer = broken  # type: ignore[method-assign]
    in_sum = EVERYBODY if stage in ("consistency", "unmask") else EVERYBODY - {4}
    _check(cohort, game, in_sum)


@pytest.mark.parametrize("key", [bytes(32), b"same"])
def test_a_site_with_unusable_keys_is_kept_out_and_the_others_open_their_sum(key: bytes) -> None:
    cohort = Cohort(WEIGHTS)
    game = Round(cohort)
    answer = game._answer

    def bad(stage: str, i: int, payload: bytes) -> bytes:
        message = answer(stage, i, payload)
        if (stage, i) != ("advertise", 4):
            return message
        mine = Advertisement.decode(memoryview(message)[wire.HEADER_BYTES : -wire.SIGNATURE_BYTES], 3)
        mask_keys = (*mine.mask_keys[:2], mine.encryption_key if key == b"same" else key)
        body = Advertisement(mine.encryption_key, mask_keys, mine.certificate)
        return wire.seal(MessageKind.ADVERTISEMENT, cohort.terms.binding, 4, body.encode(), cohort.member(4).key)

    game._answer = bad  # type: ignore[method-assign]
    _check(cohort, game, EVERYBODY - {4})


def test_the_reason_of_a_refusal_is_kept_for_the_log() -> None:
    cohort = Cohort(WEIGHTS)
    game = Round(cohort)
    answer = game._answer
    game._answer = lambda s, i, p: b"?" if (s, i) == ("share", 2) else answer(s, i, p)  # type: ignore[method-assign]
    game.run(until="share")
    assert list(game.coordinator.refused) == [cohort.names[2]]


def test_wrong_shares_are_noticed_and_void_the_round() -> None:
    from yoriai.privacy.secagg.secret import SecretBytes

    for gone in ([], [5]):
        game = Round(Cohort(WEIGHTS), {"hold": gone})
        game.run(until="consistency")
        liar, owner = 0, 5 if gone else 1
        held = game.stages[liar]._shares
        held[owner] = (SecretBytes(bytes(33)), SecretBytes(bytes(33)))
        replies = [(game.cohort.names[i], game.stages[i].step(game.payload("consistency", i))) for i in range(5)]
        with pytest.raises(RoundError, match="do not fit"):
            game.coordinator.step(replies)


def test_an_update_that_does_not_fit_is_refused_and_not_spent() -> None:
    cohort, other = Cohort((1, 1)), Cohort((1, 1), n_params=12)
    game = Round(cohort)
    game.run(until="hold")
    update, marked = other.update(0), []
    with pytest.raises(ProtocolError, match="does not fit"):
        game.ready(0).step(update, marked.append)
    update.claim()
    assert not marked


@pytest.mark.parametrize("counts", [(), (1,), (1, 2, 3), (1, 2**32), (-1, 2)])
def test_counts_that_do_not_fit_are_refused_and_not_spent(counts: tuple[int, ...]) -> None:
    game, marked = Round(Cohort((1, 1), n_counts=2)), []
    game.run(until="hold")
    update = game.cohort.update(0)
    update.counts = counts
    with pytest.raises(ProtocolError, match="counts do not fit the round; expected 2, each below"):
        game.ready(0).step(update, marked.append)
    update.claim()
    assert not marked


def test_the_largest_counts_are_summed() -> None:
    game = Round(Cohort((1, 1), n_counts=2))
    game.run(until="hold")

    def answered(i: int) -> tuple[str, bytes]:
        update = game.cohort.update(i)
        update.counts = (0, 2**32 - 1)
        game.stages[i], message = game.ready(i).step(update, game.cohort.spent.append)
        return game.cohort.names[i], message

    game.coordinator, payloads = game.coordinator.step([answered(i) for i in (0, 1)])
    game.payloads["mask"] = payloads
    opened = game.run(since="consistency")
    assert opened is not None
    assert opened.counts == (0, 2 * (2**32 - 1))
