"""A job's last adapter, made without training."""

import numpy as np

from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import rule_of


def last_adapter(bench: ModelSession, job: JobConfig, seed: int = 0) -> AdapterState:
    """The initial adapter with the factors that train drawn anew."""
    initial, drawn = bench.initial_adapter(job), np.random.default_rng(seed)
    moving = initial.select(rule_of(job).moving).tensors
    return AdapterState(
        {n: drawn.normal(scale=0.3, size=t.shape) if n in moving else t for n, t in initial.tensors.items()}
    )
