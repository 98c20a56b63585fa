"""A job whose noise the sites make together, over real processes, with one window of keys for all of its rounds."""

from pathlib import Path

import pytest

from tests.deploy.world import deployed, events_of
from yoriai import wire

pytestmark = [pytest.mark.deploy, pytest.mark.deploy_full]

ROUNDS = 3


def test_three_rounds_of_distributed_noise_take_one_window_and_are_charged_once_each(tmp_path: Path) -> None:
    with deployed(tmp_path / "world", **{"allow-distributed-noise": True}) as world:
        job = world.submit(privacy__noise="distributed", training__local_steps=1, secure_aggregation__window=ROUNDS)
        world.wait_for(job)
        rounds = events_of(job, "round")
        assert [event["answered"] for event in rounds] == ["east,north,south,west"] * ROUNDS
        assert len({event["adapter"] for event in rounds}) == ROUNDS
        stages = [event["stage"] for event in events_of(job, "stage")]
        assert stages == ["offer", *wire.WINDOW_STAGES, *wire.SLOT_STAGES * ROUNDS, wire.DELIVERY_STAGE]
        for site in world.sites.values():
            assert site.charged(job.run_id) == list(range(ROUNDS))
            with site.ledger() as ledger:
                assert all(charge.released for charge in ledger.charges())
