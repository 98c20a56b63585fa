"""Settings that a job may leave to its task: rates, rounds, layers; docs/benchmarks/{heads,texts}.md say where from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

Settings = Mapping[str, object]

TRAINED_HEAD: Final[Settings] = MappingProxyType(
    {
        "training.sampling_rate": 1.0,
        "federation.rounds": 12,
        "federation.server_optimizer": "damped",
        "federation.schedule": "constant",
        "evaluation.every": 4,
    }
)
LABEL_VECTORS: Final[Settings] = MappingProxyType(
    {
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.layers": "last:4",
        "training.sampling_rate": 0.25,
        "federation.rounds": 32,
        "federation.server_learning_rate": 0.045,
        "federation.server_learning_rate_without_noise": 0.02,
        "evaluation.every": 8,
    }
)
TEXTS: Final[Settings] = MappingProxyType(
    {
        "lora.factors": "public",
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.layers": "last:2",
        "training.sampling_rate": 0.25,
        "federation.rounds": 12,
        "federation.server_learning_rate": 0.003,
        "evaluation.every": 4,
    }
)
TEXTS_BY_RULE: Final[Settings] = MappingProxyType(
    {
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.layers": "last:4",
        "training.sampling_rate": 0.25,
        "federation.rounds": 24,
        "federation.server_learning_rate": 0.015,
        "federation.server_learning_rate_without_noise": 0.02,
        "evaluation.every": 8,
    }
)
BY_TASK: Final = frozenset({"task.head", "federation.rule", *TRAINED_HEAD, *LABEL_VECTORS, *TEXTS})
"""What a job file need not name; that it names federation.rule says that an adapter shall train, and of which factors.
"""
