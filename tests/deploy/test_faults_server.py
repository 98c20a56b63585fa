"""The coordinator's machine: whatever of it is killed, the job goes on from the last stored round by itself."""

import time
from collections.abc import Iterator

import pytest

from tests.deploy.processes import wait_until
from tests.deploy.world import Deployment, deployed, events_of
from yoriai.server.jobs.job_store import StoredJob

pytestmark = pytest.mark.deploy

ROUNDS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("faults")) as world:
        yield world


def ended_well(world: Deployment, job: StoredJob) -> None:
    """All rounds, once each; and every site was charged for at least what it sent."""
    rounds = events_of(job, "round")
    assert [event["round"] for event in rounds] == list(range(1, ROUNDS + 1))
    for name, site in world.sites.items():
        answered = [index for index, event in enumerate(rounds) if name in event["answered"].split(",")]
        assert set(site.charged(job.run_id)) >= set(answered)
    assert len({event["site"] for event in events_of(job, "delivered")}) == len(world.sites)


def resumed_after(job: StoredJob, rounds_done: int) -> None:
    """Begun twice under one name, the second time where the first had got to."""
    assert job.state().starts == 2
    assert [event["rounds_done"] for event in events_of(job, "started")] == [0, rounds_done]


def test_superlink_killed_while_sites_train(world: Deployment) -> None:
    sites = world.sites.values()
    with world.held("mask", 2, federation__rounds=ROUNDS) as job:
        wait_until(lambda: any(1 in site.charged(job.run_id) for site in sites), 120, "nobody trains round 2")
        world.kill(world.superlink())
    world.wait_for(job)
    resumed_after(job, 1)
    ended_well(world, job)
    # Round 2 had been masked, or may have been: it was trained anew, and charged again.
    assert max(site.charged(job.run_id).count(1) for site in sites) == 2


@pytest.mark.deploy_full
@pytest.mark.parametrize("stage", ["share", "agree", "unmask"])
def test_serverapp_killed(world: Deployment, stage: str) -> None:
    number = 1 if stage == "share" else 2
    with world.held(stage, number, federation__rounds=ROUNDS) as job:
        coordinator = job.coordinator()
        assert coordinator is not None
        world.kill(coordinator.pid)
    world.wait_for(job)
    resumed_after(job, number - 1)
    ended_well(world, job)


@pytest.mark.deploy_full
def test_nginx_killed_and_started_again(world: Deployment) -> None:
    with world.held("mask", federation__rounds=ROUNDS) as job:
        world.nginx.stop(0)
        time.sleep(5)
    world.start_nginx()
    world.wait_for(job, seconds=600.0)
    ended_well(world, job)


@pytest.mark.deploy_full
def test_the_whole_server_stopped_and_started_again(world: Deployment) -> None:
    with world.held("mask", 2, federation__rounds=ROUNDS) as job:
        world.keeper.stop()
    world.start_keeper()
    world.wait_for(job, seconds=600.0)
    resumed_after(job, 1)
    ended_well(world, job)
