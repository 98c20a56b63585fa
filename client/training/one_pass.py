"""One round of many sites, whose records pass through the model together.

All sites of a round begin at the same adapter, so for one local step their records' gradients are gradients of one
model. A piece may hold records of several sites: a record's gradient is the same to the bit whoever else is in its
piece (`yoriai.client.base.pieces`). What belongs to a site stays its own: its draw of a batch, each unit's clip, the
sum, the noise and the step that follows. So every site's update is what it would have made alone, bit for bit.

Not covered: further local steps, for then every site stands at an adapter of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.shared_round import SharedSum, Summing
from yoriai.client.training.train import LocalUpdate, train_on
from yoriai.errors import TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.dpsgd import Rows
from yoriai.privacy.dp.mechanisms import gaussian_mechanism, poisson_sample
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.job_terms.noise import DistributedNoise
from yoriai.strategies.adapter import AdapterState

# Entries of float64 that the sums of the sites of one pass take together: half a gigabyte.
_ENTRIES_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class Part:
    """What one site trains in a round.

    Attributes:
        source: of its sampling and noise.
    """

    records: PreparedRecords
    plan: TrainingPlan
    source: RandomSource


def train_together(
    model: FactorModel,
    start: AdapterState,
    head: TaskHead,
    parts: Sequence[Part],
    rotation_seed: Callable[[], bytes],
) -> Iterator[LocalUpdate | SharedSum]:
    """The update of each part, in order; where noise is distributed, what each enters into the secure sum.

    Args:
        parts: of one job and round: plans alike but for divisor, at one rank.
        rotation_seed: of the round; asked where noise is distributed.

    Raises:
        TrainingError: a plan has more than one local step; without privacy, a loss is not a number; an update is not
            finite. Which site's it is, nobody can tell then: let each train alone.
    """
    if any(part.plan.local_steps != 1 for part in parts):
        raise TrainingError("sites share one local step", expected="plans of one local step")
    plan = parts[0].plan
    size = start.select(plan.factors).n_params
    at_once = max(1, _ENTRIES_AT_ONCE // size)
    for first in range(0, len(parts), at_once):
        some = parts[first : first + at_once]
        if isinstance(plan.noise, DistributedNoise):
            seed = rotation_seed()
            sums = [Summing(part.plan, rotation_seed=seed, source=part.source) for part in some]
            _one_pass(model, start, head, some, sums)
            yield from (summing.released() for summing in sums)
        else:
            yield from _updates(model, start, head, some)


def _updates(model: FactorModel, start: AdapterState, head: TaskHead, parts: Sequence[Part]) -> Iterator[LocalUpdate]:
    """Local noise, or none: each site's sum, and its step from `start`."""
    sums = [_SiteSum(part.plan.clip_norm) for part in parts]
    gradients = _one_pass(model, start, head, parts, sums)
    shapes = zip(gradients.trained.values(), gradients.blocks.values(), strict=True)
    size = sum(parameter[block].numel() for parameter, block in shapes)
    before = {name: parameter.detach().clone() for name, parameter in gradients.trained.items()}
    for part, total in zip(parts, sums, strict=True):
        with torch.no_grad():
            for name, parameter in gradients.trained.items():
                parameter.copy_(before[name])
        total.of_size(size)
        yield train_on(gradients, start, part.plan, lambda: total, source=part.source)  # noqa: B023 - called at once


def _one_pass(
    model: FactorModel, start: AdapterState, head: TaskHead, parts: Sequence[Part], sums: Sequence[Rows]
) -> RoundGradients:
    """Draw each part's batch, and give its units' clipped gradients to its sum; the model stands at `start` then."""
    plan = parts[0].plan
    together = PreparedRecords.together([part.records for part in parts])
    drawn: list[np.ndarray] = []
    sites: dict[int, int] = {}
    first = 0
    for number, part in enumerate(parts):
        units = first + poisson_sample(part.source, part.records.unit_count, part.plan.sampling_rate)
        drawn.append(units)
        sites |= dict.fromkeys(units.tolist(), number)
        first += part.records.unit_count
    gradients = RoundGradients.at(model, start, together, head, plan)
    every = np.concatenate(drawn)
    takers = (sums[sites[unit]] for unit in together.order(every))
    gradients.of_units(every, rows=_Sorter(takers))
    if next(takers, None) is not None:
        raise TrainingError("a pass of several sites lost units")
    return gradients


class _Sorter:
    """Gives each row to the site whose unit it is of."""

    def __init__(self, takers: Iterator[Rows]) -> None:
        self._takers = takers

    def add(self, rows: np.ndarray) -> None:
        """See `dpsgd.Rows`."""
        for row in rows:
            next(self._takers).add(row[None])


class _SiteSum:
    """The sum of one site's clipped gradients, as ClippedGradientSum has it."""

    def __init__(self, clip_norm: float) -> None:
        self._clip_norm = clip_norm
        self._sum = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """See `dpsgd.Rows`."""
        self.of_size(rows.shape[1])
        for row in rows:
            self._sum += row

    def of_size(self, size: int) -> None:
        """Make it a sum of so many entries, zero if nothing was added."""
        if not len(self._sum):
            self._sum = np.zeros(size)

    def flat(self) -> np.ndarray:
        """The sum (n,) float64. Private until noised."""
        return self._sum

    def release(
        self, *, noise_multiplier: float, sampling_rate: float, source: RandomSource
    ) -> tuple[np.ndarray, SampledGaussian]:
        """See ClippedGradientSum."""
        return gaussian_mechanism(
            self._sum,
            clip_norm=self._clip_norm,
            noise_multiplier=noise_multiplier,
            sampling_rate=sampling_rate,
            source=source,
        )
