"""Secrets stay where they are: not in reprs, pickles, copies or tracebacks; and what the server sees says nothing."""

import copy
import logging
import pickle
import traceback

import numpy as np
import pytest

from tests.privacy.secagg.cohort import Cohort, Round, seeded, signing_key
from yoriai.errors import ProtocolError, YoriaiError
from yoriai.privacy.secagg.fixedpoint import Quantised, add_packed_block
from yoriai.privacy.secagg.masking import RunningSum, pair_masks
from yoriai.privacy.secagg.masks import MaskKey
from yoriai.privacy.secagg.opening import left_over_masks
from yoriai.privacy.secagg.secret import OneShot, SecretBytes
from yoriai.privacy.secagg.sharing import coordinate
from yoriai.privacy.secagg.slot import _SlotSecrets
from yoriai.privacy.secagg.work import OwnWork

STAGES = ("advertise", "sign keys", "share", "hold", "mask", "consistency")


def _secrets(game: Round) -> list[bytes]:
    """Every secret of site 0 that a stage of the round holds."""
    found = []
    for value in vars(game.stages[0]).values():
        if isinstance(value, SecretBytes):
            found.append(value.reveal())
        elif isinstance(value, tuple | _SlotSecrets):
            found += _within(value)
        elif hasattr(value, "private_bytes_raw"):
            found.append(value.private_bytes_raw())
        elif isinstance(value, dict):
            found += _within(tuple(value.values()))
    return [*found, game.cohort.member(0).key.for_x509().private_bytes_raw()]


def _within(value: object) -> list[bytes]:
    if isinstance(value, SecretBytes):
        return [value.reveal()]
    if isinstance(value, _SlotSecrets):
        value = (value.own, tuple(value.shares.values()))
    return [secret for part in value for secret in _within(part)] if isinstance(value, tuple) else []


def _assert_absent(text: str, secrets: list[bytes]) -> None:
    assert secrets
    for secret in secrets:
        for form in (secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1], str(int.from_bytes(secret, "big"))):
            assert form not in text


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_shows_its_secrets_when_printed_or_logged(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    game = Round(Cohort((1,) * 4))
    game.run(until=stage)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("%r %s %s", game.stages[0], game.cohort.member(0), vars(game.stages[0]))
    assert len(_secrets(game)) > 1
    _assert_absent(caplog.text, _secrets(game))


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_can_be_pickled_or_copied(stage: str) -> None:
    game = Round(Cohort((1,) * 4))
    game.run(until=stage)
    for thing in (game.stages[0], game.cohort.member(0), game.cohort.member(0).key):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                attempt(thing)


@pytest.mark.parametrize(
    "secret",
    [
        SecretBytes(b"s" * 32),
        MaskKey(SecretBytes(b"s" * 32), b""),
        OneShot("x"),
        Quantised(np.arange(9, dtype=np.uint32), 0),
        signing_key("x"),
    ],
    ids=lambda secret: type(secret).__name__,
)
def test_no_secret_value_can_be_printed_or_pickled(secret: object) -> None:
    assert "redacted" in repr(secret)
    assert "ssss" not in str(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def _traceback_of_a_refusal(game: Round, stage: str) -> str:
    """What a crash reporter that prints local variables would show when a changed payload is refused."""
    payload = bytearray(game.payload(stage, 0))
    payload[-1] ^= 0x80
    with pytest.raises(YoriaiError) as caught:
        game.stages[0].step(bytes(payload))
    return "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "hold"])
def test_no_traceback_with_local_variables_shows_a_secret(stage: str) -> None:
    game = Round(Cohort((1,) * 4))
    game.run(until=stage)
    shown = _traceback_of_a_refusal(game, stage)
    assert "self = <" in shown
    _assert_absent(shown, _secrets(game))


def test_an_update_whose_mark_fails_shows_nothing_of_itself() -> None:
    cohort = Cohort((1,) * 4)
    game = Round(cohort)
    game.run(until="hold")
    ready = game.ready(0)
    _assert_absent(str(vars(ready)), _within(ready._secrets))
    try:
        ready.step(cohort.update(0), lambda identity: 1 / 0)
    except ZeroDivisionError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert str(cohort.levels(0)[0]) not in shown


def test_a_single_shot_is_single() -> None:
    shot = OneShot("x")
    shot.claim()
    with pytest.raises(ProtocolError):
        shot.claim()


# What the server sees.

N_PARAMS = 200_000


def _words(game: Round, message: bytes) -> np.ndarray:
    total = RunningSum(game.coordinator._keys.slot(game.cohort.slot_terms), 1)
    total.add(memoryview(message)[59:-64])
    return total.words


def _strip(game: Round, words: np.ndarray, masks: list) -> np.ndarray:
    total = RunningSum(game.coordinator._keys.slot(game.cohort.slot_terms), 1)
    total.words[:] = words
    total.remove(masks)
    return total.words


def _everything_the_server_learns(fill: int) -> tuple[Round, dict[int, np.ndarray]]:
    """Play n = 4 with one drop-out whose masked update comes too late, and take off every mask that the server can.

    Returns what is left of each site's words. Site 0's update is `fill` throughout.
    """
    cohort = Cohort((1,) * 4, n_params=N_PARAMS, seed="distinguisher")
    levels = cohort.levels
    cohort.levels = lambda i: np.full(N_PARAMS, fill, np.uint32) if i == 0 else levels(i)  # type: ignore[method-assign]
    game = Round(cohort)
    game.run(until="hold")
    late = game.ready(3).step(cohort.update(3), lambda identity: None)[1]
    game = Round(cohort, {"hold": [3]})
    game.run(until="consistency")
    work, keys = game.coordinator._work, game.coordinator._keys.slot(cohort.slot_terms)
    released: dict[int, dict[int, SecretBytes]] = {}
    for holder in range(3):
        game.stages[holder].step(game.payload("consistency", holder))
        for owner, (seed, mask_key) in game.stages[holder]._shares.items():
            released.setdefault(owner, {})[coordinate(holder)] = seed if owner in work.survivors else mask_key
    known = {}
    for site in range(3):
        seen = _words(game, game.sent["mask"][site])
        masks = left_over_masks(keys, work.slot.graph, work.slot.commitments, frozenset({0, 1, 2}), released)
        own = masks[site]
        with_dropped = masks[3:][site]
        known[site] = _strip(game, seen, [own, with_dropped])
    from yoriai.privacy.secagg.shamir import combine

    mask_key = combine(released[3], keys.window.plan.threshold)
    known[3] = _strip(game, _words(game, late), pair_masks(keys, 3, mask_key, [0, 1, 2], OwnWork()))
    return game, known


def _chi_squared(words: np.ndarray) -> float:
    """Over the low byte and the highest bits of 18-bit words, standardised."""
    worst = 0.0
    for part in (words & np.uint32(255), words >> np.uint32(10)):
        counts = np.bincount(part, minlength=256)
        expected = words.size / 256
        worst = max(worst, abs(float(((counts - expected) ** 2 / expected).sum()) - 255) / np.sqrt(510))
    return worst


def test_single_updates_cannot_be_told_from_random_by_all_that_the_server_sees() -> None:
    for fill in (0, 65_535):
        game, known = _everything_the_server_learns(fill)
        for site, words in known.items():
            assert _chi_squared(words) < 6, f"site {site}"
            plain = game.cohort.levels(site).astype(np.float64)
            if site:
                correlation = float(np.corrcoef(words.astype(np.float64), plain)[0, 1])
                assert abs(correlation) < 6 / np.sqrt(N_PARAMS)
            else:
                # A constant update: the mean of the stripped words is that of uniform ones, whichever the constant.
                centre = (2**18 - 1) / 2
                assert abs(float(words.mean()) - centre) < 6 * 2**18 / np.sqrt(12 * N_PARAMS)


def test_the_distinguisher_does_see_an_update_that_is_not_masked() -> None:
    # The same statistics on site 0's words without any mask, and the sum of all three opens: the test can fail.
    game, known = _everything_the_server_learns(0)
    plain = np.zeros(N_PARAMS, dtype=np.uint32)
    assert _chi_squared(plain) > 1000
    opened = (known[0] + known[1] + known[2]) & np.uint32(2**18 - 1)
    assert np.array_equal(opened, game.cohort.expected([0, 1, 2]))


def test_seeded_streams_of_the_tests_differ_by_label() -> None:
    assert seeded("a")(32) != seeded("b")(32)


def test_unpacking_is_what_the_distinguisher_thinks_it_is() -> None:
    total = np.zeros(8, dtype=np.uint32)
    add_packed_block(total, 16, np.arange(16, dtype=np.uint8))
    assert total[1] == 0x0302
