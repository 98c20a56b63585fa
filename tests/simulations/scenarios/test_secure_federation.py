"""Secure aggregation through real sites and the real coordinator: sites that fail, and a coordinator that cheats."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.simulations.secure_world import Cheat, Dropping, World, masked_request, offer, reason
from yoriai import wire
from yoriai.client.site.job import Round
from yoriai.client.site.round_trainer import RoundTrainer
from yoriai.client.training.shared_round import SharedSum
from yoriai.client.training.train import LocalUpdate
from yoriai.errors import ConfigError, RoundError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.secagg import FixedPoint
from yoriai.privacy.secagg.fixedpoint import add_packed_block, packed_bytes
from yoriai.privacy.secagg.messages import HEADER_BYTES
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.simulations.scenarios.consortium import Consortium


def plain_mean(world: Callable[..., World], lost: Sequence[str] = ()) -> np.ndarray:
    """The weighted mean of the same updates in the clear."""
    plain = world("plain", **{"secure_aggregation.enabled": False})
    return plain.trained(plain.run(Dropping(plain.sites, dict.fromkeys(lost, "train"))))


def test_opened_mean_is_the_plain_mean_up_to_the_grid(world: Callable[..., World]) -> None:
    secure = world()
    opened = secure.trained(secure.run())
    plain = plain_mean(world)
    assert np.abs(opened - plain).max() <= 1.01 * secure.step()
    assert np.abs(plain).max() > 100 * secure.step()


@pytest.mark.parametrize("stage", [*wire.WINDOW_STAGES, *wire.SLOT_STAGES])
def test_a_site_lost_in_any_stage_costs_only_itself(stage: str, world: Callable[..., World]) -> None:
    secure = world()
    checkpoint = secure.run(Dropping(secure.sites, {"west": stage}))
    record = checkpoint.rounds[0]
    masked = stage in ("agree", "unmask")  # Its update was in by then, and its masks come off with its peers' shares.
    assert ("west" in record.answered) == masked
    assert ("west" in dict(record.refused)) != masked
    plain = plain_mean(world, [] if masked else ["west"])
    assert np.abs(secure.trained(checkpoint) - plain).max() <= 1.01 * secure.step()


def test_below_the_quorum_nothing_opens_and_the_round_begins_afresh(world: Callable[..., World]) -> None:
    secure, voids = world(**{"federation.min_sites": 3}), []
    transport = Dropping(secure.sites, {"west": "mask", "east": "mask"})
    with pytest.raises(RoundError, match=r"round 1 has too few sites.*east: no reply in time.*west: no reply in time"):
        secure.run(transport, on_void=voids.append)
    assert "unmask" not in transport.stages
    assert transport.stages.count("advertise") == 3
    assert len(voids) == 2
    assert Registry(secure.folder).load() is None


def test_a_void_round_is_charged_only_where_a_masked_update_left(world: Callable[..., World]) -> None:
    secure = world()
    lost_once = Dropping(secure.sites, {"west": "mask", "east": "mask"})

    def come_back(_: RoundError) -> None:
        lost_once.lost.clear()

    checkpoint = secure.run(lost_once, on_void=come_back)
    assert len(checkpoint.rounds[0].voided) == 1
    charges = {name: len(ledger.charges()) for name, ledger in secure.ledgers.items()}
    assert charges == {"north": 2, "south": 2, "east": 1, "west": 1}


def test_a_site_whose_ledger_was_put_back_refuses_by_its_own_signature(
    world: Callable[..., World], tmp_path: Path
) -> None:
    def stop(_: Checkpoint) -> None:
        raise KeyboardInterrupt

    secure = world(**{"federation.rounds": 2})
    shutil.copytree(secure.folder / "ledgers", tmp_path / "backup")  # With its second place, which then says nothing.
    with pytest.raises(KeyboardInterrupt):
        secure.run(on_round=stop)
    secure.ledgers["north"].close()
    for old in (tmp_path / "backup").glob("north.*"):
        shutil.copy(old, secure.folder / "ledgers")
    secure.ledgers["north"] = secure.open_ledgers.enter_context(secure.specs["north"].open_ledger())
    secure.sites = {name: secure.build(name) for name in secure.specs}
    refused = dict(secure.run().rounds[1].refused)
    assert set(refused) == {"north"}
    assert "ledger north.sqlite is behind what this site has signed for it" in refused["north"]
    assert secure.ledgers["north"].charges() == []


def masked_words(payload: bytes, count: int, width: int) -> np.ndarray:
    """The words of a masked update as the coordinator sees them, as numbers from -1 to 1."""
    words = np.zeros(count, np.uint32)
    packed = np.frombuffer(payload, np.uint8)[HEADER_BYTES : HEADER_BYTES + packed_bytes(count, width)]
    add_packed_block(words, width, packed)
    return words.astype(float) / 2 ** (width - 1) - 1


def test_what_leaves_a_site_tells_nothing_of_its_update(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, np.ndarray] = {}
    train = RoundTrainer.train

    def spy(trainer: RoundTrainer, this: Round) -> LocalUpdate | SharedSum:
        trained = train(trainer, this)
        made[trainer._site] = trained.values
        return trained

    monkeypatch.setattr(RoundTrainer, "train", spy)
    secure = world()
    transport = Dropping(secure.sites)
    secure.run(transport)
    replies = [wire.decode(data) for data in transport.said]
    masked = {r.site: r.payload for r in replies if isinstance(r, wire.SecureReply) and r.stage == "mask"}
    assert set(masked) == set(made) == set(secure.sites)
    width = FixedPoint(16, 1.0).word_bits(sum(secure.federation.roster.weights.values()))
    for site, update in made.items():
        words = masked_words(masked[site], len(update), width)
        # 224 values: without masks the correlation is above 0.99, with them its standard deviation is 0.07.
        assert len(update) == 224
        assert abs(np.corrcoef(words, update)[0, 1]) < 0.35


def test_a_job_in_the_clear_is_refused_by_a_site_that_does_not_allow_it(world: Callable[..., World]) -> None:
    secure = world()
    job = offer(secure).job | {"secure_aggregation": {"enabled": False, "bits": 16}}
    assert "policy forbids jobs without secure aggregation" in reason(secure, offer(secure, job=job))


def test_a_round_in_the_clear_of_a_secure_job_is_refused(world: Callable[..., World]) -> None:
    secure = world()
    secure.ask("north", offer(secure))
    start = secure.session.initial_adapter(secure.job)
    request = wire.TrainRequest(
        run_id="run-1", round_index=0, adapter_digest=start.digest(), payload=start.select(("R",)).to_bytes()
    )
    assert "promises secure aggregation" in reason(secure, request)
    assert secure.ledgers["north"].charges() == []


def test_weights_beside_the_signed_roster_are_refused(world: Callable[..., World]) -> None:
    secure = world()
    weights = secure.federation.roster.weights | {"north": 99}
    assert "not those of the signed roster" in reason(
        secure, offer(secure, roster=wire.Roster(serial=1, weights=weights))
    )


def test_a_roster_of_another_authority_is_refused(world: Callable[..., World], tmp_path: Path) -> None:
    secure = world()
    other = Consortium.found(tmp_path / "other", secure.federation.roster.weights, federation=secure.job.name)
    assert "signature" in reason(secure, offer(secure, signed_roster=other.roster_file().decode()))


def test_without_privacy_a_round_leaves_once_and_for_each_spare_round(world: Callable[..., World]) -> None:
    cheat = Cheat(world(**{"privacy.noise": "none", "privacy.spare_rounds": 0}))
    cheat.run_to("mask")
    assert cheat.world.ledgers["north"].charges() == []
    transport = Dropping(cheat.world.sites)
    ended = cheat.world.run(transport)
    assert (ended.next_round, "have used every round" in ended.ended_early) == (0, True)
    assert [m.reason for m in map(wire.decode, transport.said) if isinstance(m, wire.Refusal) and m.used_up] == [
        f"start a new run: ledger {name}.sqlite: round 0 of job run-1 left 1 times already"
        for name in sorted(cheat.world.sites)
    ]


@pytest.mark.parametrize("value_range", [1e-310, 5e-324, 1e-31, 1e31])
def test_a_range_that_rounding_may_fail_on_is_refused_before_a_charge(
    value_range: float, world: Callable[..., World]
) -> None:
    cheat = Cheat(world())
    cheat.run_to("hold")
    assert "range of quantised values" in reason(cheat.world, masked_request(cheat.world, value_range=value_range))
    assert cheat.world.ledgers["north"].charges() == []


def test_a_failure_after_training_is_paid_for(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("rounding failed")

    monkeypatch.setattr("yoriai.client.site.secure_round.quantise", fail)
    secure = world(**{"privacy.spare_rounds": 0})
    with pytest.raises(RoundError):
        secure.run()
    assert {c.released for ledger in secure.ledgers.values() for c in ledger.charges()} == {True}


@pytest.mark.parametrize("within", ["offer", "hold"])
def test_a_site_revoked_before_the_window_or_within_it_is_seen(within: str, world: Callable[..., World]) -> None:
    cheat = Cheat(world())
    cheat.run_to(within)
    secure, north = cheat.world, cheat.world.sites["north"]
    late = datetime.now(UTC) + timedelta(days=4000)
    assert north._secure._identity is not None
    authority = (secure.consortium.folder / "authority.der").read_bytes()
    north._secure._identity = replace(north._secure._identity, trust=lambda: Trust(authority, None, now=late))
    opening = wire.WindowRequest(run_id="run-1", window=0, slots=1)
    assert "not valid today" in reason(secure, opening if within == "offer" else masked_request(secure))


def test_a_signed_roster_does_not_make_a_plain_job_secure(world: Callable[..., World]) -> None:
    plain = world(**{"secure_aggregation.enabled": False})
    plain.secure = True
    transport = Dropping(plain.sites)
    plain.run(transport)
    assert set(transport.stages) == {"offer", "train"}


def test_weights_beside_the_signed_roster_stop_the_coordinator(world: Callable[..., World]) -> None:
    secure = world()
    weights = secure.federation.roster.weights | {"north": 99}
    secure.federation = replace(secure.federation, roster=wire.Roster(serial=1, weights=weights))
    with pytest.raises(ConfigError, match="not those of the signed roster"):
        secure.run()
