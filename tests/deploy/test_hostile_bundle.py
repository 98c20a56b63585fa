"""App bundles with other code than Yoriai's: no site runs it, and what their server asks is refused."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.hostile import write_bundle
from tests.deploy.processes import wait_until
from tests.deploy.site import Site
from tests.deploy.world import Deployment, deployed
from yoriai import wire
from yoriai.client.session.prepare import prepare
from yoriai.client.site.calibration import calibrated_for
from yoriai.config import JobConfig, override
from yoriai.privacy.job_terms.plain_roster import plain_roster
from yoriai.server.flower.flower_control import FlowerControl
from yoriai.server.round.sealing import Sealer

pytestmark = pytest.mark.deploy

REFUSALS = {
    "plain updates": "policy forbids jobs without secure aggregation",
    "no privacy": "policy forbids jobs without differential privacy",
    "more epsilon": "20.000 of 20 is left",
    "less noise": "the offered noise does not keep what the job promises",
    "another base": "another base model",
    "a cohort of one": "the sum of one update hides nothing",
    "a cohort of two": "too few sites",
    "a roster of its own": "the roster file does not bear the right signature",
    "an outside rule": "rule is not built in",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("hostile"), **{"epsilon-budget": 20.0}) as world:
        yield world


def questions(world: Deployment) -> dict[str, bytes]:
    """What a hostile server puts to every site: offers as the coordinator's instructions to one, and one offer bare.

    The server's operator, whose bundle it is, has the coordinator's key. Each site is asked everything that is sealed
    for it, and one thing that is sealed for another.
    """
    sealer, asked = Sealer(world.server.signing(_now()), "hostile"), offers(world)
    signed = {f"{site}/{name}": sealer.sealed(site, message) for site in world.sites for name, message in asked.items()}
    return {"/plain updates": asked["plain updates"], **signed}


def offers(world: Deployment) -> dict[str, bytes]:
    """The honest job, each time with one thing that nobody should get."""
    # Never submitted: a site that had accepted it would hold some of its budget.
    prepared, signed = prepare(world.job()), world.server.trusted.roster.read_text()
    roster = plain_roster(world.server.signed_roster(_now()).directory.roster, prepared.job.lora.rank)

    def offer(settings: dict[str, object] | None = None, **fields: Any) -> bytes:
        changed: JobConfig = override(prepared.job, settings or {})
        given = {
            "run_id": "hostile",
            "job": changed.model_dump(mode="json", by_alias=True),
            "roster": roster,
            "signed_roster": signed,
            "base_digest": prepared.base_digest,
            "noise_multiplier": calibrated_for(prepared, len(roster.weights)),
            "payload": prepared.adapter,
        }
        return wire.encode(wire.JobOffer(**{**given, **fields}))

    forged = signed.splitlines()
    return {
        "plain updates": offer({"secure_aggregation.enabled": False}),
        "no privacy": offer({"privacy.noise": "none"}, noise_multiplier=None),
        "more epsilon": offer({"privacy.epsilon": 100.0}, noise_multiplier=0.4),
        "less noise": offer(noise_multiplier=0.3),
        "another base": offer(base_digest="0" * 64),
        "a cohort of one": offer({"federation.min_sites": 1}),
        "a cohort of two": offer({"federation.min_sites": 2}),
        "a roster of its own": offer(signed_roster="\n".join([forged[0], "0" * 128, *forged[2:]])),
        "an outside rule": offer({"federation.rule": "mallory"}),
    }


@pytest.mark.parametrize("shadowing", [False, True], ids=["code of its own", "a folder yoriai of its own"])
def test_of_a_hostile_bundle_nothing_is_unpacked_or_run_and_its_server_gets_no_more_than_the_policy_allows(
    world: Deployment, shadowing: bool, tmp_path: Path
) -> None:
    mark, asked = tmp_path / "mark", questions(world)
    before = {name: heard(site) for name, site in world.sites.items()}
    bundle = write_bundle(tmp_path / "bundle", asked, mark, shadowing=shadowing)
    found = run_bundle(world, bundle, tmp_path / "told.json")
    assert not mark.exists()
    assert len(found) == len(world.sites)
    for told in found.values():
        assert told.keys() == asked.keys()
        for question, answer in told.items():
            message = wire.decode(base64.b64decode(answer))
            assert isinstance(message, wire.Refusal), question
            site, _, name = question.partition("/")
            reason = REFUSALS[name] if site == message.site else "addressed to another site"
            assert (reason if site else "not signed by the coordinator") in message.reason, question
    for name, site in world.sites.items():
        assert heard(site) - before[name] == len(asked)  # The messages, and nothing else.
        assert not [path for path in site.places.node.rglob("*") if path.suffix in (".py", ".toml", ".fab")]
        assert not list(site.places.ledgers.rglob("*.sqlite")) or site.charged("hostile") == []


def heard(site: Site) -> int:
    """The messages that a daemon has read."""
    return sum(site.daemon.said().count(f'"event": "{event}"') for event in ("offered", "asked", "stage", "delivered"))


def test_after_that_an_honest_job_runs_as_ever(world: Deployment) -> None:
    job = world.submit(federation__rounds=1)
    world.wait_for(job)
    assert all(site.charged(job.run_id) == [0] for site in world.sites.values())


def run_bundle(world: Deployment, bundle: Path, out: Path) -> dict[str, dict[str, str]]:
    """Give a bundle to Flower, past Yoriai's own commands, and wait for what it writes."""
    FlowerControl(world.server.flower_home).run(bundle, out=str(out), sites=len(world.sites))
    wait_until(out.exists, 600, lambda: (world.server.log / "superlink.log").read_text()[-3000:])
    found: dict[str, dict[str, str]] = json.loads(out.read_text())
    return found


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)
