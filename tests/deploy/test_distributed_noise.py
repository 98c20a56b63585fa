"""A head that trains under noise that the sites make together, over real processes, with one window of keys."""

from pathlib import Path

import pytest
import torch

import yoriai
from tests.deploy.world import LABELS, deployed, events_of, final_adapter
from yoriai import wire

pytestmark = [pytest.mark.deploy, pytest.mark.deploy_full]

ROUNDS = 3


HEAD: dict[str, object] = {"task__head": "trained", "head__directions": 8, "head__words": 32}


def test_three_rounds_of_shared_noise_take_one_window_are_charged_once_each_and_leave_every_site_a_head_that_answers(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path / "world", **{"allow-distributed-noise": True}) as world:
        job = world.submit(
            privacy__noise="distributed", training__local_steps=1, secure_aggregation__window=ROUNDS, **HEAD
        )
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
        folders = [site.final(job.run_id) for site in world.sites.values()]
        heads = [yoriai.load(folder, base=str(world.base)) for folder in folders]
        assert final_adapter(job).tensors["head:H"].any()
        answers = [head.probabilities(["replace the pump", "clean the cabin"]) for head in heads]
        assert heads[0].labels == LABELS
        assert all(torch.equal(answer, answers[0]) for answer in answers[1:])
