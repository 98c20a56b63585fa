"""What the slots of secure aggregation carry in a round, and what their opened sum means for the adapter.

`MeanOfUpdates`: each site's update on a fixed-point grid; the sum gives their weighted mean.

`SharedGradientSum`: where noise is distributed, each site's integers with a share of the noise. The opened sum is
rotated back and divided by the batch that the roster and the job stand for; it is then the mean gradient of all sites'
batches with noise in it, as one trusted party would have released it. The optimiser's step is taken on it by the
coordinator, once. All of that is post-processing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from yoriai.config import JobConfig
from yoriai.privacy.distributed.distributed_noise import SkellamShares, open_sum
from yoriai.privacy.distributed.rotation import Rotation
from yoriai.privacy.identity.roster import Directory
from yoriai.privacy.job_terms.noise import DistributedNoise, expected_batch, resolve_noise
from yoriai.privacy.job_terms.round_terms import first_range, public_grid, rotation_seed
from yoriai.privacy.secagg import FixedPoint, Integers, Opened, next_range
from yoriai.privacy.secagg.fixedpoint import Grid
from yoriai.server.round.registry import Checkpoint, factor_group_of
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.learning_rate_schedule import schedule_factor
from yoriai.strategies.rank_block import block_size, corrections
from yoriai.strategies.rule import EachRule, SumRule, largest_update


@dataclass(frozen=True)
class Read:
    """What an opened sum says.

    Attributes:
        mean_update: of the factors that trained.
        clipped: coordinates that the public range clipped; None where there is no range.
        next_range: public range of the next round; None where there is none.
    """

    mean_update: AdapterState
    clipped: int | None = None
    next_range: float | None = None


class RoundSum(Protocol):
    """What a round's slot carries."""

    @property
    def n_params(self) -> int:
        """Values that a site masks."""

    @property
    def grid(self) -> Grid:
        """What the values are."""

    @property
    def value_range(self) -> float | None:
        """The public range that the request names; None where there is none."""

    def read(self, opened: Opened) -> Read:
        """The mean update of the survivors."""


@dataclass(frozen=True)
class MeanOfUpdates:
    """The weighted mean of the sites' updates, each entry over the sites that hold it.

    Attributes:
        expected: a state with the names and shapes of the factors that train.
        directory: verified members.
        full_rank: the job's rank, by which a site of lower rank is known in the signed roster.
    """

    expected: AdapterState
    grid: FixedPoint
    directory: Directory
    full_rank: int

    @property
    def n_params(self) -> int:
        """See RoundSum."""
        return self.expected.n_params

    @property
    def value_range(self) -> float | None:
        """See RoundSum."""
        return self.grid.value_range

    def read(self, opened: Opened) -> Read:
        """See RoundSum."""
        holders = self._holders(opened.survivors)
        summed = sum(block_size(self.expected, rank) for _, rank in holders.values())
        return Read(
            self.expected.unflatten(opened.mean() * corrections(self.expected, holders)),
            opened.clipped,
            next_range(self.grid.value_range, opened.clipped, summed),
        )

    def _holders(self, survivors: Sequence[str]) -> Mapping[str, tuple[float, int | None]]:
        """The survivors' weights and ranks by the signed roster; rank None for all of the job's."""
        holders = {}
        for entry in self.directory.roster.sites:
            if entry.name in survivors:
                below = entry.rank_in(self.full_rank) < self.full_rank
                holders[entry.name] = (float(entry.weight), entry.rank if below else None)
        return holders


@dataclass(frozen=True)
class SharedGradientSum:
    """The sum of the sites' clipped gradients, each rounded, with the shares of the noise.

    Attributes:
        expected: a state with the names and shapes of the factors that train in this round.
        rotation: that of the round, of at least as many entries.
    """

    job: JobConfig
    shares: SkellamShares
    rotation: Rotation
    expected: AdapterState
    round_index: int

    @property
    def n_params(self) -> int:
        """See RoundSum."""
        return self.shares.size

    @property
    def grid(self) -> Integers:
        """See RoundSum."""
        return Integers(self.shares.word_bits)

    @property
    def value_range(self) -> float | None:
        """See RoundSum."""
        return None

    def read(self, opened: Opened) -> Read:
        """The step of plain descent along the noised mean gradient of the survivors' batches."""
        training, clip_norm = self.job.training, self.job.privacy.clip_norm
        total = open_sum(opened.levels, self.shares, self.rotation, clip_norm)[: self.expected.n_params]  # (n,)
        rate = training.learning_rate * schedule_factor(training.schedule, self.round_index, self.job.federation.rounds)
        return Read(self.expected.unflatten(total * (-rate / expected_batch(self.job, len(opened.survivors)))))


def carried_in(
    job: JobConfig,
    rule: SumRule | EachRule,
    checkpoint: Checkpoint,
    *,
    noise_multiplier: float | None,
    weights: Mapping[str, int],
    directory: Directory,
) -> RoundSum:
    """What the slots of the run's next round carry.

    Args:
        noise_multiplier: of the whole job; None without privacy.
        weights: of the roster.
        directory: verified members.

    Raises:
        ConfigError: no noise, modulus or scale fits the job's sizes.
    """
    index, adapter = checkpoint.next_round, checkpoint.adapter
    expected = adapter.select(rule.trainable(index))
    n_params = largest_update(rule, adapter)
    noise = resolve_noise(job, noise_multiplier, n_params=n_params, sites=len(weights))
    if isinstance(noise, DistributedNoise):
        rotation = Rotation(rotation_seed(checkpoint.run_id, index, adapter.digest()), n_params)
        return SharedGradientSum(job, noise.shares, rotation, expected, index)
    value_range = checkpoint.factor_group(factor_group_of(rule, index)).value_range
    if value_range is None:
        value_range = first_range(job, noise_multiplier, min(weights.values()))
    return MeanOfUpdates(expected, public_grid(job, value_range), directory, job.lora.rank)
