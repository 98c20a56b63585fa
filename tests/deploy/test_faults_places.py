"""A cable that is pulled for more than a minute, and a disk that is full: the others go on, and the site comes back."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.places import Network, network, small_disk
from tests.deploy.world import Deployment, events_of

pytestmark = [pytest.mark.deploy, pytest.mark.deploy_full]

CUT_S = 75.0  # Flower takes a node for gone after a minute.


@pytest.fixture(scope="module")
def cable() -> Iterator[Network]:
    with network(os.getpid() % 249) as found:
        yield found


@pytest.fixture(scope="module")
def world(cable: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """North is behind a cable of its own; south's folder, ledger and all, lies on a small disk of its own."""
    folder = tmp_path_factory.mktemp("places")
    with small_disk(folder / "south", 24):
        world = Deployment(folder, hosts=[cable.outside], servers={"north": cable.outside})
        world.sites["north"].prefix = list(cable.prefix)
        try:
            world.start()
            yield world
        finally:
            world.stop()


def test_a_network_cut_for_longer_than_a_node_counts_as_connected(world: Deployment, cable: Network) -> None:
    with world.held("mask", 2, federation__rounds=5) as job:
        cable.cut()
        try:
            world.hold("mask", 4)  # Round 2 goes on, and 3; the job's end waits for the site.
            time.sleep(CUT_S)
        finally:
            mended = time.time()
            cable.mend()
        world.wait_held(job)
        world.wait_back("north", mended)
    world.wait_for(job, seconds=900.0)
    rounds = events_of(job, "round")
    assert len(rounds) == 5
    assert any("north" not in event["answered"].split(",") for event in rounds)
    assert all({"east", "south", "west"} <= set(event["answered"].split(",")) for event in rounds)
    assert world.sites["north"].charged(job.run_id)
    assert "north" in {event["site"] for event in events_of(job, "delivered")}


def test_a_full_disk_stops_the_site_before_it_trains_and_it_goes_on_when_there_is_room(world: Deployment) -> None:
    south = world.sites["south"]
    with world.held("mask", 2, federation__rounds=5) as job:
        filler = fill(south.folder)
        try:
            world.hold("mask", 4)
            world.wait_held(job)
        finally:
            filler.unlink()
    world.wait_for(job, seconds=900.0)
    rounds = [set(event["answered"].split(",")) for event in events_of(job, "round")]
    assert len(rounds) == 5
    assert all({"east", "north", "west"} <= taken for taken in rounds)
    assert "south" not in rounds[2]  # All of this round was on a full disk.
    assert "south" in {event["site"] for event in events_of(job, "absent")}
    assert set(south.charged(job.run_id)) >= {i for i, taken in enumerate(rounds) if "south" in taken}
    assert "south" in {event["site"] for event in events_of(job, "delivered")}


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            return path
