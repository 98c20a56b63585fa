"""A coordinator that has opened a sum, says that it crashed, and asks for the round again with one site fewer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.simulations.secure_world import Dropping, World
from yoriai.client.site import secure_round
from yoriai.server.round.registry import Registry


class Crash(Exception):
    """What the coordinator says that has happened to it."""


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every update before it was masked, in the order of the sites' names."""
    seen: list[np.ndarray] = []
    quantise = secure_round.quantise

    def watched(values, grid, entropy):  # type: ignore[no-untyped-def]
        seen.append(np.array(values))
        return quantise(values, grid, entropy)

    monkeypatch.setattr(secure_round, "quantise", watched)
    return seen


def distance_of_the_attack(secure: World, updates: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> float:
    """Subtract the two sums that a feigned crash opens; how far that is from north's update, in its own noise."""
    opened: list[np.ndarray] = []
    start = secure.trained_at_start()
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "save", lambda _self, kept: (opened.append(secure.trained(kept) - start), fail())[0])
        for lost in ({}, {"north": "mask"}):
            with pytest.raises(Crash):
                secure.run(Dropping(secure.sites, lost))
    weights = secure.federation.roster.weights
    whole, without = (sum(weights[name] for name in weights if name != gone) for gone in ("", "north"))
    guess = (whole * opened[0] - without * opened[1]) / weights["north"]
    north = updates[sorted(weights).index("north")]
    return float(np.linalg.norm(guess - north) / np.linalg.norm(north))


def fail() -> None:
    raise Crash


def test_two_openings_of_a_round_do_not_give_a_single_update(
    world: Callable[..., World], updates: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = world()
    # With noise that repeats itself the attack works, so what follows does measure it.
    assert distance_of_the_attack(secure, updates, monkeypatch) < 0.05
    fresh = world("fresh", **{"privacy.spare_rounds": 2})
    fresh.specs = {name: replace(spec, noise_seed=None) for name, spec in fresh.specs.items()}
    fresh.sites = {name: fresh.build(name) for name in fresh.specs}
    updates.clear()
    assert distance_of_the_attack(fresh, updates, monkeypatch) > 0.5
    charges = {name: len(ledger.charges()) for name, ledger in fresh.ledgers.items()}
    assert charges == {"east": 2, "north": 1, "south": 2, "west": 2}
