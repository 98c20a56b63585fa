"""Sites that die in the middle, or are there twice: the job ends, and no ledger says less than was spent."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.deploy.processes import wait_until
from tests.deploy.site import Site
from tests.deploy.world import Deployment, deployed, events_of
from yoriai.client.node.node import node_state
from yoriai.server.jobs.job_store import StoredJob

pytestmark = pytest.mark.deploy

ROUNDS = 4  # A daemon that takes long to load misses one round more.
OTHERS = {"north", "south", "west"}
# A daemon that dies before it has answered, or when what it would have answered is charged, signed and lost.
STAGES = [
    pytest.param("advertise:before", marks=pytest.mark.deploy_full),
    pytest.param("sign:after", marks=pytest.mark.deploy_full),
    pytest.param("share:after", marks=pytest.mark.deploy_full),
    pytest.param("hold:before", marks=pytest.mark.deploy_full),
    pytest.param("mask:before", marks=pytest.mark.deploy_full),
    "mask:after",
    pytest.param("agree:before", marks=pytest.mark.deploy_full),
    pytest.param("unmask:after", marks=pytest.mark.deploy_full),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("faults")) as world:
        yield world


@pytest.mark.parametrize("when", STAGES)
def test_a_daemon_killed_in_a_stage_costs_the_job_nothing_but_time(world: Deployment, when: str) -> None:
    east, stage = world.sites["east"], when.partition(":")[0]
    east.daemon.stop()
    (east.folder / "has-died").unlink(missing_ok=True)
    east.start_daemon("--die", when)
    world.wait_ready()
    with world.held("mask", 2, federation__rounds=ROUNDS) as job:
        east.restart_daemon_when_dead()
        wait_until(lambda: world.state_of(east) == "ready", 240, east.daemon.said)
    world.wait_for(job)
    assert {"site": "east", "stage": stage}.items() <= events_of(job, "failed")[0].items()
    rounds = answered(job)
    assert len(rounds) == ROUNDS
    assert all(rounds[index] >= OTHERS for index in range(ROUNDS))
    assert "east" in rounds[-1]  # Back before the end.
    charged = east.charged(job.run_id)
    assert set(charged) >= {index for index in range(ROUNDS) if "east" in rounds[index]}
    if when == "mask:after":
        assert charged[0] == 0  # It was marked as released, and counts although it never arrived.
        assert "east" not in rounds[0]
    assert "east" in {event["site"] for event in events_of(job, "delivered")}


@pytest.mark.deploy_full
@pytest.mark.parametrize("part", ["supernode.py", "executor.py"])
def test_a_supernode_killed_is_started_again_and_its_site_comes_back(world: Deployment, part: str) -> None:
    with world.held("mask", 2, federation__rounds=ROUNDS) as job:
        killed = time.time()
        world.kill(world.sites["east"].part_of_node(part))
        world.hold("mask", 3)
        world.wait_held(job)
        world.wait_back("east", killed)
    world.wait_for(job, seconds=900.0)
    rounds = answered(job)
    assert len(rounds) == ROUNDS
    assert all(taken >= OTHERS for taken in rounds)
    assert "east" in rounds[-1]
    assert set(world.sites["east"].charged(job.run_id)) >= {i for i, taken in enumerate(rounds) if "east" in taken}


@pytest.mark.deploy_full
def test_a_copy_of_a_site_is_kept_out_and_what_it_would_spend_anew_is_refused(world: Deployment) -> None:
    east = world.sites["east"]
    with copied(world, east) as twin:
        with world.held("mask", 2, federation__rounds=ROUNDS) as job:
            # Two nodes of one key: Flower lets in the one that came first.
            wait_until(lambda: node_state(twin.folder)["accepted"] is False, 240, twin.node.said)
            assert '"offered"' not in twin.daemon.said()
            # Now the copy gets in, with a ledger that knows nothing of round 1.
            stopped = time.time()
            east.stop()
            world.hold("mask", 3)
            world.wait_held(job)
            world.wait_back("east", stopped)
        world.wait_for(job, seconds=900.0)
        rounds = answered(job)
        assert len(rounds) == ROUNDS
        assert all(taken >= OTHERS for taken in rounds)
        assert "east" in rounds[0]
        assert "east" not in rounds[-1]
        said = [event["reason"] for event in events_of(job, "absent") if event["site"] == "east"]
        assert any("ledger" in reason for reason in said), said
        assert twin.charged(job.run_id) == []
        assert set(east.charged(job.run_id)) >= {i for i, taken in enumerate(rounds) if "east" in taken}


def answered(job: StoredJob) -> list[set[str]]:
    """The sites whose updates are in each round."""
    return [set(event["answered"].split(",")) for event in events_of(job, "round")]


@contextmanager
def copied(world: Deployment, site: Site) -> Iterator[Site]:
    """A copy of a site's whole folder, keys and ledger, that runs beside it; afterwards the site runs alone."""
    site.stop()
    (site.folder / "has-died").unlink(missing_ok=True)
    twin = Site(site.folder.with_name("twin"))
    shutil.copytree(site.folder, twin.folder, ignore=shutil.ignore_patterns("*.sock"))
    try:
        for one in (site, twin):
            one.start()
            wait_until(lambda one=one: world.state_of(one) == "ready", 240, one.daemon.said)  # type: ignore[misc]
        yield twin
    finally:
        twin.stop()
        site.stop()
        site.start()
        world.wait_ready()
