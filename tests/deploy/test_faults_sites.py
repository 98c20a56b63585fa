"""Sites that die in the middle: whichever stage it is, the job ends, and no ledger says less than was spent."""

from collections.abc import Iterator

import pytest

from tests.deploy.world import Deployment, deployed, events_of

pytestmark = pytest.mark.deploy

ROUNDS = 3
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
    job = world.submit()
    east.restart_daemon_when_dead()
    world.wait_for(job)
    assert {"site": "east", "stage": stage}.items() <= _first_failure(world, job).items()
    rounds = events_of(job, "round")
    assert len(rounds) == ROUNDS
    assert all({"north", "south", "west"} <= set(event["answered"].split(",")) for event in rounds)
    assert "east" in rounds[-1]["answered"].split(",")  # Back before the end.
    charged = east.charged(job.run_id)
    assert set(charged) >= {index for index, event in enumerate(rounds) if "east" in event["answered"]}
    if when == "mask:after":
        assert 0 in charged  # It was marked as released, and counts although it never arrived.
    assert "delivered" in {event["event"] for event in events_of(job) if event.get("site") == "east"}


@pytest.mark.deploy_full
def test_a_supernode_killed_is_started_again_and_its_site_comes_back(world: Deployment) -> None:
    job = world.submit(federation__rounds=6)
    world.wait_for_stage(job, "mask", round_number=2)
    world.kill(world.sites["east"].supernode())
    world.wait_for(job, seconds=900.0)
    rounds = events_of(job, "round")
    assert len(rounds) == 6
    assert "east" in rounds[-1]["answered"].split(",")
    assert world.sites["east"].charged(job.run_id)


def _first_failure(world: Deployment, job: object) -> dict[str, object]:
    failures = events_of(job, "failed")  # type: ignore[arg-type]
    assert failures, world.tell(job)  # type: ignore[arg-type]
    return failures[0]
