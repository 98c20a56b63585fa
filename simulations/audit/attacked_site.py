"""One site at work, as an audit's adversary sees it: what leaves it, or the opened sum that holds it."""

from collections.abc import Sequence

import numpy as np

from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training.gradients import Canaries, RoundGradients
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.shared_round import skellam_table, sum_round
from yoriai.client.training.train import train_round
from yoriai.config import JobConfig
from yoriai.privacy.distributed.distributed_noise import RoundedSum, open_sum
from yoriai.privacy.distributed.rotation import Rotation
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.job_terms.noise import DistributedNoise
from yoriai.strategies.adapter import AdapterState


class AttackedSite:
    """One site at work, whose every round begins at the same adapter.

    Args:
        records: real ones, whose gradients ride along with the canaries'.
        source: of sampling and noise.
    """

    def __init__(
        self,
        bench: ModelSession,
        job: JobConfig,
        records: Sequence[Record],
        *,
        start: AdapterState,
        plan: TrainingPlan,
        source: RandomSource,
    ) -> None:
        self._model, self._start = bench.model(job), start
        self._records, self._head = bench.prepare(records, job), bench.head(job)
        self._plan, self._source = plan, source

    def release(self, canaries: Canaries) -> np.ndarray:
        """What the adversary sees of one round, in clip norms. (d,).

        Raises:
            TrainingError: as at a site.
        """
        noise = self._plan.noise
        return self._opened(canaries, noise) if isinstance(noise, DistributedNoise) else self._own(canaries)

    def _own(self, canaries: Canaries) -> np.ndarray:
        """The site's own update, which carries all of the noise."""
        plan = self._plan
        done = train_round(
            self._model, self._start, self._records, self._head, plan, source=self._source, canaries=canaries
        )
        return done.update.flatten().astype(np.float64) * (-plan.divisor / plan.learning_rate / plan.clip_norm)

    def _opened(self, canaries: Canaries, noise: DistributedNoise) -> np.ndarray:
        """The opened sum, less all that colluding sites know: what they put in, and their shares of the noise.

        The honest sites beside the attacked one have no records here, and their shares of the noise.
        """
        shares, clip_norm = noise.shares, self._plan.clip_norm
        seed = self._source.words(4).tobytes()
        gradients = RoundGradients.at(self._model, self._start, self._records, self._head, self._plan)
        total = sum_round(gradients, rotation_seed=seed, source=self._source, canaries=canaries).residues
        rotation, table = Rotation(seed, noise.n_params), skellam_table(shares.share_variance)
        for _ in range(shares.honest - 1):
            total = total + RoundedSum(shares, rotation, clip_norm, self._source).release(table)
        opened = open_sum(total, shares, rotation, clip_norm) / clip_norm
        return opened[: self._start.select(self._plan.factors).n_params]
