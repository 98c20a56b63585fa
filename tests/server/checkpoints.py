"""A checkpoint for the registry."""

import numpy as np

from yoriai.server.round.manifest import RoundRecord
from yoriai.server.round.registry import Checkpoint, FactorGroup
from yoriai.strategies.adapter import AdapterState


def checkpoint(rounds: int, *, width: int = 4) -> Checkpoint:
    """The state after some rounds: A stands still, B is of the round."""
    adapter = AdapterState(
        {"layers.0.q:A": np.ones((2, width), np.float32), "layers.0.q:B": np.full((width, 2), rounds, np.float32)}
    )
    records = tuple(
        RoundRecord(
            round_index=index,
            answered=("a", "b"),
            refused=(("c", "no reply in time"),),
            update_norm=0.1 * (index + 1),
            seconds=1.5,
            bytes_up={"a": 10, "b": 11},
            bytes_down={"a": 20, "b": 21},
            adapter_digest="d",
        )
        for index in range(rounds)
    )
    lanes = {"B": FactorGroup(b"state of round %d" % rounds, 0.5), "A": FactorGroup(b"state of the other lane", None)}
    return Checkpoint("run", "job", rounds, adapter, records, lanes, {"a": "signed"})
