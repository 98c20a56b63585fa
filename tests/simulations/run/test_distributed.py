"""Noise that the sites share, through whole runs: real sites, real secure sum, real coordinator."""

import json
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.coordinators import asked
from tests.simulations.miniature import Miniature, interrupt_after
from tests.simulations.secure_world import Cheat, Dropping, World, masked_request, offer, reason
from tests.world import job_settings
from yoriai import wire
from yoriai.client.offer.policy import check_sharing
from yoriai.client.site.site import Site
from yoriai.config import JobConfig, PolicySection, override
from yoriai.errors import ConfigError, PolicyError, RoundError
from yoriai.privacy.dp.accounting import SampledSkellam
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.dp.skellam import SkellamTable
from yoriai.privacy.job_terms.noise import DistributedNoise, resolve_noise
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.simulations.engines import site_spec
from yoriai.simulations.run.api import simulate
from yoriai.simulations.run.simulated_federation import Federation
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

SHARED = {
    "privacy.noise": "distributed",
    "privacy.clip_norm": 0.05,
    "training.local_steps": 1,
    "training.records_per_weight": 14,
    "federation.min_sites": 3,
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("mini"))


def federation(mini: Miniature, folder: Path, **settings: object) -> Federation:
    return mini.federation(folder, **{k.replace(".", "__"): v for k, v in {**SHARED, **settings}.items()})


def test_a_run_says_what_its_noise_is_and_keeps_its_epsilon(base: Path, sites: Path, tmp_path: Path) -> None:
    report = simulate(data=sites, settings=job_settings(base, **{"privacy.noise": "distributed"}), out=tmp_path / "run")
    privacy = report.privacy
    assert (privacy.noise, privacy.honest_shares, privacy.colluding, privacy.accountant) == ("distributed", 2, 1, "rdp")
    assert {site.weight for site in report.sites} == {1}
    spent = [site.epsilon for site in report.sites]
    assert all(one is not None and 0 < one < 8.0 for one in spent)
    assert len(set(spent)) == 1
    with Ledger.existing(tmp_path / "run" / "ledgers" / "a.sqlite") as ledger:
        events = [charge.event for charge in ledger.charges()]
        assert len(events) == 3
        assert all(isinstance(event, SampledSkellam) and event.draws == 2 for event in events)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "up to 1 of a round" in page
    assert json.loads((tmp_path / "run" / "report.json").read_text())["privacy"]["noise"] == "distributed"


class Quiet(SeededSource):
    """Samples and rounds as ever; its noise is zero in either mode."""

    def gaussian(self, n: int) -> np.ndarray:
        return np.zeros(n)

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        return np.zeros(n, np.int64)


@pytest.mark.parametrize("rule", ["core", "fedavg", "ffa", "fedsvd", "rolora"])
def test_but_for_the_noise_a_run_is_that_of_local_noise(
    mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """The same batches at the same point: the gradient sum of all sites, divided by what the roster stands for."""
    monkeypatch.setattr(site_spec, "SeededSource", Quiet)
    more = {
        "federation.rule": rule,
        "federation.min_sites": 4,
        "federation.server_optimizer": "momentum",
        "federation.server_learning_rate": 2.0,
    }
    shared = federation(mini, tmp_path / "shared", **more)
    local = federation(mini, tmp_path / "local", **more, **{"privacy.noise": "local"})
    local = replace(local, roster=wire.Roster(serial=1, weights=dict.fromkeys(shared.roster.weights, 1)))
    ours, theirs = (mini.run(one).checkpoint.adapter for one in (shared, local))
    apart = np.linalg.norm(product(rule, ours) - product(rule, theirs))
    assert 0 < apart < 0.02 * np.linalg.norm(product(rule, theirs))


def product(rule: str, adapter: AdapterState) -> np.ndarray:
    """What the adapter adds to the maps, as one vector: fedsvd's factors may turn where their product does not."""
    tensors = get_rule(rule).to_peft(adapter).tensors
    names = sorted(name.removesuffix(":A") for name in tensors if name.endswith(":A"))
    return np.concatenate([(tensors[f"{n}:B"].astype(float) @ tensors[f"{n}:A"]).ravel() for n in names])


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(mini: Miniature, tmp_path: Path) -> None:
    whole = mini.run(federation(mini, tmp_path / "whole")).checkpoint
    broken = federation(mini, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        mini.run(replace(broken, on_round=interrupt_after(2)))
    assert mini.run(broken).checkpoint.adapter == whole.adapter


def world(mini: Miniature, folder: Path, stack: ExitStack, **settings: object) -> World:
    return World(mini, folder, stack, **{**SHARED, "federation.rounds": 1, **settings})


def test_a_site_that_drops_out_after_the_keys_were_shared_is_covered_by_the_fewest_survivors(
    mini: Miniature, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        here = world(mini, tmp_path, stack)
        transport = Dropping(here.sites, {"west": "mask"})
        checkpoint = here.run(transport)
    assert checkpoint.rounds[0].answered == ("east", "north", "south")
    assert checkpoint.rounds[0].clipped is None


def test_with_fewer_survivors_than_the_noise_was_shared_over_nothing_opens(mini: Miniature, tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = world(mini, tmp_path, stack)
        transport = Dropping(here.sites, {"west": "mask", "south": "mask"})
        with pytest.raises(RoundError, match="too few"):
            here.run(transport)
        assert "unmask" not in transport.stages


def test_a_roster_of_unequal_weights_is_refused_by_coordinator_and_sites(mini: Miniature, tmp_path: Path) -> None:
    found = federation(mini, tmp_path)
    weights = dict(found.roster.weights, north=2)
    with pytest.raises(ConfigError, match="sites that are all alike"):
        mini.run(replace(found, roster=wire.Roster(serial=1, weights=weights)))


@pytest.mark.parametrize(
    ("policy", "reason_given"),
    [
        ({"allow_distributed_noise": True, "colluding": 1}, ""),
        ({"allow_distributed_noise": False}, "policy forbids jobs whose noise is distributed"),
        ({"allow_distributed_noise": True, "colluding": 2}, "found privacy.colluding = 1; expected at least 2"),
    ],
)
def test_a_site_shares_noise_only_if_its_operator_allows_it_and_counts_on_as_many_sites(
    mini: Miniature, tmp_path: Path, policy: dict[str, object], reason_given: str
) -> None:
    with ExitStack() as stack:
        here = world(mini, tmp_path, stack)
        spec = here.specs["north"]
        config = spec.site_config()
        changed = config.model_copy(update={"policy": config.policy.model_copy(update=policy)})
        here.sites["north"] = Site(
            changed,
            spec.records,
            session=here.session,
            ledger=here.ledgers["north"],
            identity=spec.identity(),
        )
        reply = wire.decode(here.ask("north", offer(here)))
        if not reason_given:
            assert isinstance(reply, wire.Acceptance)
        else:
            assert isinstance(reply, wire.Refusal)
            assert reason_given in reply.reason
            assert here.ledgers["north"].promised() == 0


@pytest.mark.parametrize(("counted", "taken"), [(1, False), (2, True), (3, True)])
def test_a_job_may_count_on_fewer_sites_than_the_policy_does_and_not_on_more(counted: int, taken: bool) -> None:
    """`privacy.colluding` sites are those that the job does not count on."""
    job = override(JobConfig(name="j"), {**SHARED, "federation.min_sites": 9, "privacy.colluding": counted})
    asked = wire.JobOffer(
        run_id="run-1",
        job={},
        roster=wire.Roster(serial=1, weights={f"site-{n}": 1 for n in range(9)}),
        base_digest="",
        noise_multiplier=1.0,
    )
    policy = PolicySection(allow_distributed_noise=True, colluding=2)
    with nullcontext() if taken else pytest.raises(PolicyError, match="counts on the noise of too many sites"):
        check_sharing("site-1", policy, job, asked)


@pytest.mark.parametrize(("weight", "ranks"), [(2, {}), (1, {"site-1": 2}), (1, {"site-2": 2})])
def test_distributed_noise_takes_no_roster_of_unlike_sites(weight: int, ranks: dict[str, int]) -> None:
    job = override(JobConfig(name="j"), {**SHARED, "federation.min_sites": 9, "privacy.colluding": 2})
    asked = wire.JobOffer(
        run_id="run-1",
        job={},
        roster=wire.Roster(serial=1, weights={**{f"site-{n}": 1 for n in range(9)}, "site-3": weight}, ranks=ranks),
        base_digest="",
        noise_multiplier=1.0,
    )
    policy = PolicySection(allow_distributed_noise=True, colluding=2)
    with pytest.raises(PolicyError, match="sites that are all alike"):
        check_sharing("site-1", policy, job, asked)


class Flattering(Dropping):
    """Offers one site more noise than the others, so that its ledger would count on shares that are not as large."""

    def __init__(self, here: World, site: str, noise_multiplier: float) -> None:
        super().__init__(here.sites)
        self._here, self._site, self._noise_multiplier = here, site, noise_multiplier

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        if stage == "offer":
            honest = asked(payloads[self._site])
            offer = honest.model_copy(update={"noise_multiplier": self._noise_multiplier})
            payloads = {**payloads, self._site: self._here.sealed(self._site, offer)}
        return super().exchange(stage, payloads, timeout_s)


def test_a_site_that_was_offered_more_noise_than_the_others_masks_and_charges_nothing(
    mini: Miniature, tmp_path: Path
) -> None:
    """Its words would be as wide as theirs, so that without the terms its masks would cancel with theirs."""
    with ExitStack() as stack:
        here = world(mini, tmp_path, stack)
        told = here.federation.noise_multiplier
        assert told is not None
        n_params = here.session.initial_adapter(here.job).select(("R",)).n_params
        noises = [resolve_noise(here.job, told * by, n_params=n_params, sites=4) for by in (1.0, 1.02)]
        true, false = (noise.shares for noise in noises if isinstance(noise, DistributedNoise))
        assert (false.word_bits, false.size) == (true.word_bits, true.size)
        assert false.variance > true.variance
        checkpoint = here.run(Flattering(here, "north", told * 1.02))
        assert checkpoint.rounds[0].answered == ("east", "south", "west")
        assert here.ledgers["north"].charges() == []


@pytest.mark.parametrize("change", [{"value_range": None, "window": None, "slot": None}, {"value_range": 1.0}])
def test_a_share_of_the_noise_leaves_neither_in_the_clear_nor_on_a_grid_that_the_coordinator_names(
    mini: Miniature, tmp_path: Path, change: dict[str, object]
) -> None:
    with ExitStack() as stack:
        here = world(mini, tmp_path, stack)
        Cheat(here).run_to("hold")
        request = masked_request(here, run_id="run-1", **change)
        assert "its round does without" in reason(here, request)
        assert here.ledgers["north"].charges() == []
        served = here.ask("north", masked_request(here, value_range=None))
        assert isinstance(wire.decode(served), wire.SecureReply)
