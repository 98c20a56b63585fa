"""A tiny base and what is built on it, shared by the client's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_llama, tiny_tokenizer
from tests.world import save_tiny_base
from yoriai.client.base.base_model import BaseModel, wrap_base
from yoriai.client.model.lora import AdaptedModel, svd_factors
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, LoraSection, SpeedSection, override
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

TARGETS = ("q_proj", "v_proj", "down_proj")
LABELS = ("cabin", "engine", "pump")

Attach = Callable[..., AdaptedModel]
JobMaker = Callable[..., JobConfig]


def start_for(model: AdaptedModel, rule_name: str, seed: int = 3) -> AdapterState:
    """A start at which every factor has a gradient: nothing is zero."""
    rule = get_rule(rule_name)
    state = rule.initial(model.maps, model.rank, 0, svd_factors(model) if "U" in rule.factors else None)
    generator = torch.Generator().manual_seed(seed)
    noisy = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).numpy()
        for name, tensor in state.tensors.items()
    }
    return AdapterState(noisy)


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """Four layers of width 32, on the CPU."""
    tokenizer = tiny_tokenizer()
    return wrap_base("tiny", tiny_llama(tokenizer), tokenizer, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base in Hugging Face's layout."""
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def attach(base: BaseModel) -> Iterator[Attach]:
    """Attach LoRA to the base for one test; the one attached before is taken off."""
    current: list[AdaptedModel] = []

    def make(rule: str = "core", *, on: BaseModel = base, **lora: Any) -> AdaptedModel:
        if current:
            current.pop().detach()
        section = LoraSection(**{"rank": 4, "alpha": 8.0, "layers": "last:2", "target_modules": TARGETS, **lora})
        current.append(AdaptedModel(on, section, factors=get_rule(rule).factors))
        return current[-1]

    yield make
    if current:
        current.pop().detach()


@pytest.fixture
def make_job() -> JobMaker:
    """A classify job of three rounds; keyword arguments override settings, with __ for the dot."""

    def make(**settings: Any) -> JobConfig:
        defaults: dict[str, Any] = {
            "lora.rank": 4,
            "lora.alpha": 8.0,
            "lora.layers": "last:2",
            "lora.target_modules": TARGETS,
            "task.kind": "classify",
            "task.labels": LABELS,
            "training.sampling_rate": 0.5,
            "privacy.accountant": "pld",
            "federation.rounds": 3,
            "secure_aggregation.enabled": False,
            "speed.threads": 1,
        }
        dotted = {key.replace("__", "."): value for key, value in settings.items()}
        return override(JobConfig(name="test"), {**defaults, **dotted})

    return make


@pytest.fixture
def session(base: BaseModel) -> Iterator[ModelSession]:
    """A session on the base, which gets the base back without an adapter."""
    bench = ModelSession(base, SpeedSection(threads=1, physical_batch_size=8))
    yield bench
    bench.close()
