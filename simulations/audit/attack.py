"""White-box attack on the project's own training path: canaries that are gradients, and what their releases show.

A canary is one direction in the space of the trained factors. Those that are in ride through `train_round` as further
records: drawn by its Poisson sampling, clipped by its clip, noised by its noise, beside the gradients of real records.
Every round is reserved and marked in a real ledger first, whose epsilon is the claim that the attack is held against.

The adversary is the one of the guarantee: it knows every canary, chooses the adapter of each round (it sends the first
one again and again) and reads the site's own update, with the local noise of that one site, as a coordinator without
secure aggregation would. What a job does to the noised gradient (learning rates, low-pass, bounds) is post-processing
and is set aside, so that the update is the noised sum.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from yoriai.client.model.magnitude import within_bounds
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import training_plan
from yoriai.client.training.plan import TrainingPlan
from yoriai.config import JobConfig, override
from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.dp.skellam import SkellamTable
from yoriai.privacy.job_terms.noise import Noise, all_rounds, resolve_noise, round_event
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.simulations.audit.attacked_site import AttackedSite
from yoriai.simulations.experiment.experiment import noise_multiplier
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import largest_update, rule_of

# A canary's gradient before the clip, in clip norms: one that needed no clip would not show that there is none.
CANARY_NORM = 4.0

_POST_PROCESSING: dict[str, object] = {
    "training.optimizer": "sgd",
    "training.learning_rate": 1.0,
    "training.schedule": "constant",
    "training.proximal_mu": 0.0,
    "training.lowpass": False,
    "federation.update_norm_bound": None,
}
# What a hostile job would ask for: settings at the ends of what is valid, and factors that no training reaches.
# The learning rate is for reading alone: in float32 the update of so small a clip would be lost beside such factors.
_HOSTILE: dict[str, object] = {"privacy.clip_norm": 1e-6, "lora.alpha": 1e4, "training.learning_rate": 1e4}
_HOSTILE_FACTORS = 100.0
# Units in an attack's batch, about, by which the words of a shared sum are sized: canaries, far more than records.
_UNITS = 10_000
_FULL_BATCH: dict[str, object] = {
    "training.sampling_rate": 1.0,
    "training.local_steps": 1,
    "federation.rounds": 1,
    "privacy.spare_rounds": 0,
}


class Directions(Protocol):
    """Unit vectors in the space of the trained factors, one a canary."""

    def __len__(self) -> int:
        """How many there are."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Those vectors, (len(indices), d)."""

    def products(self, vector: np.ndarray) -> np.ndarray:
        """Inner product of every direction with a vector (d,). (m,)."""


class Dirac:
    """Coordinates, each at most once: canaries that do not overlap. Needs as many coordinates as canaries."""

    def __init__(self, count: int, dimension: int, source: RandomSource) -> None:
        if count > dimension:
            raise ConfigError(
                "more canaries than trained coordinates",
                found=f"{count} canaries, {dimension} coordinates",
                expected="at most as many canaries as the rule trains",
                remedy="lower --canaries, or raise lora.rank",
            )
        self._dimension = dimension
        self._places = np.argsort(source.uniform(dimension))[:count]

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See Directions."""
        rows = np.zeros((len(indices), self._dimension), np.float32)
        rows[np.arange(len(indices)), self._places[indices]] = 1.0
        return rows

    def products(self, vector: np.ndarray) -> np.ndarray:
        """See Directions."""
        return np.asarray(vector[self._places])


class RandomDirections:
    """Uniform on the sphere: of any number, and nearly orthogonal where the dimension is large."""

    def __init__(self, count: int, dimension: int, source: RandomSource) -> None:
        vectors = source.gaussian(count * dimension).reshape(count, dimension)
        self._vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def __len__(self) -> int:
        return len(self._vectors)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See Directions."""
        return np.asarray(self._vectors[indices])

    def products(self, vector: np.ndarray) -> np.ndarray:
        """See Directions."""
        return np.asarray(self._vectors @ vector)


@dataclass(frozen=True)
class GradientCanaries:
    """The canaries that are in, as `train_round` takes them."""

    directions: Directions
    included: np.ndarray
    norm: float

    def __len__(self) -> int:
        return len(self.included)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Their gradients before the clip."""
        return self.norm * self.directions.rows(self.included[indices])


class Noiseless:
    """A source that samples and rounds as ever and whose noise is zero: the control of an audit, and nothing else."""

    def __init__(self, source: RandomSource) -> None:
        self._source = source

    def uniform(self, n: int) -> np.ndarray:
        """Uniforms of the source."""
        return self._source.uniform(n)

    def gaussian(self, n: int) -> np.ndarray:
        """Zeros."""
        return np.zeros(n)

    def words(self, n: int) -> np.ndarray:
        """Words of the source."""
        return self._source.words(n)

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        """Zeros."""
        return np.zeros(n, np.int64)


@dataclass(frozen=True)
class Carrier:
    """The path that canaries ride on.

    Attributes:
        job: as `for_attack` leaves it.
        records: a few real ones, whose gradients ride along.
        folder: for the ledgers, one a run.
        hostile: every round begins at random factors, as large as a site takes.
    """

    job: JobConfig
    session: ModelSession
    records: tuple[Record, ...]
    folder: Path
    on_round: Callable[[int, int], None] | None = None
    hostile: bool = False

    @property
    def dimension(self) -> int:
        """Trained coordinates."""
        return self.start.select(self.plan().factors).n_params

    def plan(self) -> TrainingPlan:
        """Of every round: the factors of the first one train, whatever later ones would."""
        return training_plan(
            self.job,
            0,
            weight=1,
            noise=self.noise,
            physical_batch_size=self.job.speed.physical_batch_size,
        )

    @cached_property
    def start(self) -> AdapterState:
        """Where every round begins."""
        start = self.session.initial_adapter(self.job)
        if not self.hostile:
            return start
        generator, moving = np.random.default_rng(0), rule_of(self.job).moving
        thrown = {
            name: np.float32(_HOSTILE_FACTORS) * generator.standard_normal(tensor.shape, np.float32)
            for name, tensor in start.select(moving).tensors.items()
        }
        return within_bounds(start, start.merged_with(AdapterState(thrown)), self.session.model(self.job).check)

    @cached_property
    def noise(self) -> Noise:
        """As calibrated for the whole job."""
        n_params, sites = self._sizes
        return resolve_noise(self.job, noise_multiplier(self.job, n_params, sites), n_params=n_params, sites=sites)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Entries of an update, and the fewest sites of a round."""
        return largest_update(rule_of(self.job), self.start), self.job.federation.min_sites

    @property
    def rounds(self) -> int:
        """All that the noise is calibrated for, the spare ones too."""
        return all_rounds(self.job)

    @property
    def round_event(self) -> Event:
        """What one round costs."""
        event = round_event(self.job, self.noise)
        if event is None:
            raise ConfigError("a job without differential privacy makes no claim to audit")
        return event

    @property
    def event(self) -> Event:
        """What all rounds cost."""
        return replace(self.round_event, steps=self.rounds * self.job.training.local_steps)


@dataclass(frozen=True)
class Seen:
    """What the adversary saw of the canaries, and what it was told.

    Attributes:
        products: (rounds, m), inner products of each round's release with the directions, in units of clip_norm.
        norm: L2 norm of all rounds' releases together, in the same units.
        epsilon_ledger: what the ledger says that all cost.
    """

    products: np.ndarray
    norm: float
    dimension: int
    epsilon_ledger: float

    @property
    def cosines(self) -> np.ndarray:
        """Of the directions with all rounds' releases together. (m,)."""
        return np.asarray(self.products.sum(0) / self.norm)


def check_claim(job: JobConfig) -> None:
    """Raise ConfigError if the job has no differential privacy to audit."""
    if job.privacy.noise == "none":
        raise ConfigError(
            "a job without differential privacy makes no claim to audit",
            found='privacy.noise = "none"',
            remedy="give an epsilon with --epsilon",
        )


def for_attack(job: JobConfig, *, full_batch: bool = False, hostile: bool = False) -> JobConfig:
    """The job without its post-processing; with `full_batch`, one step on every record at the same epsilon.

    With `hostile`, clip norm and alpha are at the ends of what a job may have.

    Raises:
        ConfigError: the job has no differential privacy to audit.
    """
    check_claim(job)
    wide = {"training.records_per_weight": _UNITS} if job.privacy.noise == "distributed" else {}
    extreme = _HOSTILE if hostile else {}
    return override(job, _POST_PROCESSING | wide | extreme | (_FULL_BATCH if full_batch else {}))


def attack(carrier: Carrier, directions: Directions, included: np.ndarray, source: RandomSource) -> Seen:
    """Train as a site does, with these canaries among the records, and look at what leaves.

    Args:
        included: (m,) bool, the canaries that are in.
        source: of sampling and noise.

    Raises:
        BudgetError, LedgerError, TrainingError: as at a site.
    """
    plan, event = carrier.plan(), carrier.round_event
    site = AttackedSite(carrier.session, carrier.job, carrier.records, start=carrier.start, plan=plan, source=source)
    canaries = GradientCanaries(directions, np.flatnonzero(included), CANARY_NORM * plan.clip_norm)
    total, products = np.zeros(carrier.dimension), []
    run_id = f"audit-{uuid.uuid4().hex[:12]}"
    with _ledger(carrier, run_id) as ledger:
        ledger.approve(run_id, event, carrier.rounds)
        for index in range(carrier.rounds):
            ledger.reserve(run_id, index, event)
            release = site.release(canaries)
            ledger.mark_released(run_id, index)
            products.append(directions.products(release))
            total += release
            if carrier.on_round is not None:
                carrier.on_round(index + 1, carrier.rounds)
        spent = ledger.spent()
    return Seen(np.array(products), float(np.linalg.norm(total)), len(total), spent)


def _ledger(carrier: Carrier, run_id: str) -> Ledger:
    privacy = carrier.job.privacy
    return Ledger.open(
        carrier.folder / f"{run_id}.sqlite",
        dataset="audit",
        epsilon_budget=privacy.epsilon,
        delta=privacy.delta,
        accountant=privacy.accountant,
        unit=privacy.unit,
    )
