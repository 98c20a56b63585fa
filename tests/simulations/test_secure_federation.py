"""Secure aggregation through real sites and the real coordinator: sites that fail, and a coordinator that cheats."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.simulations.miniature import Miniature
from yoriai import wire
from yoriai.client.site import Site
from yoriai.client.workbench import Workbench
from yoriai.errors import ConfigError, RoundError
from yoriai.privacy.identity import Trust
from yoriai.privacy.round_terms import first_range
from yoriai.privacy.secagg import FixedPoint
from yoriai.privacy.secagg.fixedpoint import add_packed_block, packed_bytes
from yoriai.privacy.secagg.messages import HEADER_BYTES
from yoriai.server.coordinator import Coordinator
from yoriai.server.registry import Checkpoint, Registry
from yoriai.simulations.consortium import Consortium
from yoriai.simulations.engines import InProcessTransport, SiteSpec
from yoriai.simulations.experiment import noise_multiplier
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

# One round, its mean update added as it is, so that the adapter after it is the mean.
SETTINGS = {
    "federation.rounds": 1,
    "federation.server_optimizer": "none",
    "federation.server_learning_rate": 1.0,
    "federation.schedule": "constant",
    "privacy.spare_rounds": 1,
}


class World:
    """Four sites and what a coordinator of theirs needs."""

    def __init__(self, mini: Miniature, folder: Path, open_ledgers: ExitStack, **settings: object) -> None:
        dotted = {key.replace(".", "__"): value for key, value in {**SETTINGS, **settings}.items()}
        self.federation = mini.federation(folder, **dotted)
        self.job, self.folder = self.federation.job, folder
        self.workbench = mini.workbench(self.federation)
        self.secure = self.job.secure_aggregation.enabled
        self.consortium = Consortium.found(
            folder / "consortium", self.federation.roster.weights, federation=self.job.name
        )
        self.open_ledgers = open_ledgers
        self.specs = {
            records.name: SiteSpec(
                self.job,
                records,
                folder / "ledgers" / f"{records.name}.sqlite",
                consortium=self.consortium.folder,
                noise_seed=b"x",
            )
            for records in self.federation.sites
        }
        self.ledgers = {n: open_ledgers.enter_context(s.open_ledger()) for n, s in self.specs.items()}
        self.sites = {name: self.build(name) for name in self.specs}

    def build(self, name: str, workbench: Workbench | None = None) -> Site:
        return self.specs[name].build(workbench or self.workbench, self.ledgers[name])

    def coordinator(self, transport: "Dropping") -> Coordinator:
        return Coordinator(
            self.job,
            self.federation.roster,
            base_digest=self.workbench.base.digest,
            noise_multiplier=noise_multiplier(self.job),
            rule=get_rule(self.job.federation.rule),
            transport=transport,
            registry=Registry(self.folder),
            run_id="run-1",
            signed_roster=self.consortium.signed_roster() if self.secure else None,
        )

    def run(self, transport: "Dropping | None" = None, **callbacks: Callable[..., None]) -> Checkpoint:
        transport = transport or Dropping(self.sites)
        return self.coordinator(transport).run(self.workbench.initial_adapter(self.job), **callbacks)

    def trained(self, checkpoint: Checkpoint) -> np.ndarray:
        return checkpoint.adapter.select(("R",)).flatten()

    def step(self) -> float:
        """Distance of two levels of the first round's grid."""
        weights = self.federation.roster.weights
        value_range = first_range(self.job, noise_multiplier(self.job), min(weights.values()))
        return 2 * value_range / (2**self.job.secure_aggregation.bits - 1)


class Dropping(InProcessTransport):
    """Loses what some sites say from a stage on, and keeps every byte that the others said."""

    def __init__(self, sites: Mapping[str, Site], lost: Mapping[str, str] | None = None) -> None:
        super().__init__({name: site.handle for name, site in sites.items()})
        self.lost, self.said = dict(lost or {}), []
        self.stages: list[str] = []

    said: list[bytes]

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        self.stages.append(stage)
        silent = {site for site, since in self.lost.items() if since in self.stages}
        replies = super().exchange(stage, {s: p for s, p in payloads.items() if s not in silent}, timeout_s)
        self.said += replies.values()
        return replies


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def world(mini: Miniature, tmp_path: Path) -> Iterator[Callable[..., World]]:
    with ExitStack() as open_ledgers:
        yield lambda name="secure", **settings: World(mini, tmp_path / name, open_ledgers, **settings)


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


@pytest.mark.parametrize("stage", ["train", "sign", "share", "mask", "agree", "unmask"])
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
    assert transport.stages.count("train") == 3
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
    trained = Site._trained

    def spy(site: Site, this: object) -> AdapterState:
        update = trained(site, this)  # type: ignore[arg-type]
        made[site.name] = update.flatten()
        return update

    monkeypatch.setattr(Site, "_trained", spy)
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


class Cheat:
    """A coordinator that drives one round by hand and keeps what it needs to ask again."""

    def __init__(self, secure: World) -> None:
        self.world = secure
        self.asked: dict[str, dict[str, bytes]] = {}

    def run_to(self, stage: str) -> None:
        """Run an honest round up to and with this stage, keeping every request; the run then ends in an error."""
        transport = _Recorder(self.world.sites, stage, self.asked)
        with pytest.raises(RoundError):
            self.world.run(transport)

    def again(self, site: str, stage: str) -> wire.Message:
        """Send a site the same request once more."""
        return wire.decode(self.world.sites[site].handle(self.asked[stage][site]))


class _Recorder(Dropping):
    """Passes stages on up to one, then goes silent for good."""

    def __init__(self, sites: Mapping[str, Site], last: str, asked: dict[str, dict[str, bytes]]) -> None:
        super().__init__(sites)
        self._last, self._asked, self._over = last, asked, False

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        if self._over:
            return {}
        self._asked[stage] = dict(payloads)
        self._over = stage == self._last
        return super().exchange(stage, payloads, timeout_s)


@pytest.mark.parametrize("stage", ["sign", "share", "mask", "agree", "unmask"])
def test_a_stage_is_answered_once(stage: str, world: Callable[..., World]) -> None:
    cheat = Cheat(world(**{"privacy.spare_rounds": 3}))
    if stage == "unmask":
        cheat.world.run(_Recorder(cheat.world.sites, "never", cheat.asked))
    else:
        cheat.run_to(stage)
    reply = cheat.again("north", stage)
    assert isinstance(reply, wire.Refusal)


def test_a_round_asked_for_again_is_trained_anew_and_charged_again(world: Callable[..., World]) -> None:
    cheat = Cheat(world(**{"privacy.spare_rounds": 3}))
    cheat.run_to("mask")
    assert [c.released for c in cheat.world.ledgers["north"].charges()] == [True]
    assert isinstance(cheat.again("north", "train"), wire.SecureReply)  # New keys, and nothing trained yet.
    assert isinstance(
        cheat.again("north", "mask"), wire.Refusal
    )  # The old round's shares are of no use to the new one.
    assert [c.released for c in cheat.world.ledgers["north"].charges()] == [True, False]
    cheat.run_to("mask")
    assert [c.released for c in cheat.world.ledgers["north"].charges()] == [True, True]


def test_a_restarted_site_has_dropped_out_of_its_round(world: Callable[..., World]) -> None:
    cheat = Cheat(world())
    cheat.run_to("mask")
    cheat.world.sites["north"] = cheat.world.build("north")
    assert isinstance(cheat.again("north", "mask"), wire.Refusal)
    assert len(cheat.world.ledgers["north"].charges()) == 1


def offer(secure: World, **changes: object) -> wire.JobOffer:
    fields: dict[str, object] = {
        "run_id": "run-1",
        "job": secure.job.model_dump(mode="json", by_alias=True),
        "roster": secure.federation.roster,
        "signed_roster": secure.consortium.roster_file().decode(),
        "base_digest": secure.workbench.base.digest,
        "noise_multiplier": noise_multiplier(secure.job),
        "payload": secure.workbench.initial_adapter(secure.job).to_bytes(),
    }
    return wire.JobOffer(**{**fields, **changes})


def reason(secure: World, message: wire.Message) -> str:
    reply = wire.decode(secure.sites["north"].handle(wire.encode(message)))
    assert isinstance(reply, wire.Refusal)
    return reply.reason


def test_a_job_in_the_clear_is_refused_by_a_site_that_does_not_allow_it(world: Callable[..., World]) -> None:
    secure = world()
    job = offer(secure).job | {"secure_aggregation": {"enabled": False, "bits": 16}}
    assert "policy forbids jobs without secure aggregation" in reason(secure, offer(secure, job=job))


def test_a_round_in_the_clear_of_a_secure_job_is_refused(world: Callable[..., World]) -> None:
    secure = world()
    secure.sites["north"].handle(wire.encode(offer(secure)))
    start = secure.workbench.initial_adapter(secure.job)
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
    with pytest.raises(RoundError, match="left 1 times already"):
        cheat.world.run(Dropping(cheat.world.sites))


@pytest.mark.parametrize("value_range", [1e-310, 5e-324, 1e-31, 1e31])
def test_a_range_that_rounding_may_fail_on_is_refused_before_a_charge(
    value_range: float, world: Callable[..., World]
) -> None:
    secure = world()
    secure.sites["north"].handle(wire.encode(offer(secure)))
    start = secure.workbench.initial_adapter(secure.job)
    request = wire.TrainRequest(
        run_id="run-1",
        round_index=0,
        adapter_digest=start.digest(),
        value_range=value_range,
        payload=start.select(("R",)).to_bytes(),
    )
    assert "range of quantised values" in reason(secure, request)
    assert secure.ledgers["north"].charges() == []


def test_a_failure_after_training_is_paid_for(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("rounding failed")

    monkeypatch.setattr("yoriai.client.site.quantise", fail)
    secure = world(**{"privacy.spare_rounds": 0})
    with pytest.raises(RoundError):
        secure.run()
    assert {c.released for ledger in secure.ledgers.values() for c in ledger.charges()} == {True}


def test_a_site_revoked_between_offer_and_round_is_seen(world: Callable[..., World]) -> None:
    secure = world()
    secure.sites["north"].handle(wire.encode(offer(secure)))
    late = datetime.now(UTC) + timedelta(days=4000)
    identity = secure.sites["north"]._identity
    assert identity is not None
    authority = (secure.consortium.folder / "authority.der").read_bytes()
    secure.sites["north"]._identity = replace(identity, trust=lambda: Trust(authority, None, now=late))
    start = secure.workbench.initial_adapter(secure.job)
    request = wire.TrainRequest(
        run_id="run-1",
        round_index=0,
        adapter_digest=start.digest(),
        value_range=1.0,
        payload=start.select(("R",)).to_bytes(),
    )
    assert "not valid today" in reason(secure, request)


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
