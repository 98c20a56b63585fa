"""One site's round on a tiny model: a plan, records, heads whose gradients are known, and sources of known noise."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tests.client.conftest import LABELS, start_for
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.measure import Tally
from yoriai.client.model.prepared import Batch, PreparedRecords
from yoriai.client.model.tasks import LabelHead, TaskHead
from yoriai.client.records.encoding import Example
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.train import train_round
from yoriai.config import JobConfig
from yoriai.privacy.dp.mechanisms import grid_step
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.dp.record_gradients import RecordGradients
from yoriai.privacy.dp.skellam import SkellamTable
from yoriai.privacy.job_terms.noise import LocalNoise, resolve_noise
from yoriai.strategies.rule import get_rule, largest_update

PLAN = TrainingPlan(
    factors=("R",),
    local_steps=1,
    sampling_rate=1.0,
    divisor=1.0,
    optimizer="sgd",
    learning_rate=1.0,
    clip_norm=0.05,
    noise=LocalNoise(1.0),
    physical_batch_size=64,
)
# Releases lie on a grid: a last bit of difference before it may be a step of it afterwards.
GRAIN = 2e-7 + grid_step(PLAN.clip_norm)

# Six examples: an owner of three records, one of two, one of one.
UNITS = ((0, 3, 4), (1, 5), (2,))
# Of the round that sites sum with noise in shares.
SEED = bytes(32)
SITES = 3


class CountingSource:
    """A seeded source that notes every draw; without noise when told so."""

    def __init__(self, seed: bytes = b"test", *, silent: bool = False) -> None:
        self._source, self._silent = SeededSource(seed), silent
        self.gaussians: list[int] = []

    def uniform(self, n: int) -> np.ndarray:
        return self._source.uniform(n)

    def gaussian(self, n: int) -> np.ndarray:
        self.gaussians.append(n)
        return np.zeros(n) if self._silent else self._source.gaussian(n)

    def words(self, n: int) -> np.ndarray:
        return self._source.words(n)

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        return np.zeros(n, np.int64) if self._silent else self._source.skellam(table, n)


class NoLoss:
    """A head whose gradient is zero, so that an update is noise and nothing else."""

    def hidden(self, model: AdaptedModel, batch: Batch) -> torch.Tensor:
        return model.final_hidden(batch.entering)

    def losses(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return hidden.sum((1, 2)) * 0.0

    def tally(self, hidden: torch.Tensor, batch: Batch) -> Tally:
        raise NotImplementedError


class SpoiltLoss:
    """A head that gives the records of one label a loss that is not a number."""

    def __init__(self, head: TaskHead, label: int) -> None:
        self._head, self._label = head, label

    def hidden(self, model: AdaptedModel, batch: Batch) -> torch.Tensor:
        return self._head.hidden(model, batch)

    def losses(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.where(batch.labels == self._label, torch.nan, 1.0) * self._head.losses(hidden, batch)

    def tally(self, hidden: torch.Tensor, batch: Batch) -> Tally:
        raise NotImplementedError


def examples(count: int = 6) -> tuple[Example, ...]:
    """Records of different lengths and labels."""
    generator = np.random.default_rng(0)
    return tuple(
        Example(
            generator.integers(3, 200, 3 + index % 4).astype(np.int32),
            np.zeros(3 + index % 4, np.bool_),
            label=index % len(LABELS),
        )
        for index in range(count)
    )


def label_head(hidden: int = 32) -> LabelHead:
    """A head of random vectors, one a label."""
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(len(LABELS), hidden)).astype(np.float32))
    return LabelHead(vectors, torch.zeros(len(LABELS)))


def prepared(model: AdaptedModel, chosen: Sequence[Example] | None = None, *, cache: bool = True) -> PreparedRecords:
    """The records made ready; `examples()` unless others are given."""
    return PreparedRecords(model, examples() if chosen is None else chosen, known={} if cache else None)


def update(model: AdaptedModel, rule: str, plan: TrainingPlan, **more: Any) -> np.ndarray:
    """The flat update of one round without noise, unless `source` says otherwise."""
    arguments: dict[str, Any] = {"records": prepared(model), "head": label_head(), "start": start_for(model, rule)}
    arguments |= {"source": CountingSource(silent=True)} | more
    plan = replace(plan, factors=get_rule(rule).trainable(0))
    start, records, head = (arguments.pop(key) for key in ("start", "records", "head"))
    return train_round(model, start, records, head, plan, **arguments).update.flatten()


def by_record(
    model: FactorModel, factors: tuple[str, ...], losses: Callable[[], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Each record's gradient of each of these factors, (N, *shape), by name."""
    trained = model.set_trainable(factors)
    gradients = RecordGradients(list(trained.values()))
    with model.recording(gradients):
        losses().sum().backward()  # type: ignore[no-untyped-call]
    parts = gradients.take().split([p.numel() for p in trained.values()], dim=1)
    return {name: part.reshape(-1, *trained[name].shape) for name, part in zip(trained, parts, strict=True)}


class Given:
    """Canaries with the gradients that they are given; notes who was drawn."""

    def __init__(self, gradients: np.ndarray) -> None:
        self._gradients = gradients
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return len(self._gradients)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        self.drawn.extend(int(index) for index in indices)
        return self._gradients[indices]


def gradients(model: AdaptedModel, count: int, norm: float) -> np.ndarray:
    """Random gradients of one norm: (count, n_params) of an update of `core`."""
    rows = np.random.default_rng(0).normal(size=(count, start_for(model, "core").select(("R",)).n_params))
    return norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Quiet(SeededSource):
    """Rounds as ever; draws everyone, however many there are, and its noise is zero."""

    def uniform(self, n: int) -> np.ndarray:
        return np.zeros(n)

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        return np.zeros(n, np.int64)


def plan_for(
    model: AdaptedModel, job: JobConfig, rule: str = "core", round_index: int = 0, **more: Any
) -> TrainingPlan:
    """A plan of SITES sites whose noise is in shares."""
    job = job.model_copy(update={"federation": job.federation.model_copy(update={"rule": rule})})
    n_params = largest_update(get_rule(rule), start_for(model, rule))
    noise = resolve_noise(job, 2.0, n_params=n_params, sites=SITES)
    return replace(PLAN, factors=get_rule(rule).trainable(round_index), noise=noise, **more)


def by_owner(model: AdaptedModel, units: Sequence[Sequence[int]] = UNITS) -> PreparedRecords:
    """The examples as owners' units."""
    return PreparedRecords(model, examples(), known={}, units=units)
