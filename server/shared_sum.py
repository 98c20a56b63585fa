"""Where noise is distributed: from the integers that the secure sum opens to the mean update that the rule combines.

Post-processing throughout. The opened sum is rotated back, divided by the batch that the roster and the job stand for,
and is then the mean gradient of all sites' batches with noise in it, as one trusted party would have released it. The
optimiser's step is taken on it here, once.
"""

from yoriai.config import JobConfig
from yoriai.privacy.noise_shares import expected_batch
from yoriai.privacy.rotation import Rotation
from yoriai.privacy.secagg import Opened
from yoriai.privacy.shared_noise import SharedNoise, open_sum
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.schedule import schedule_factor


def mean_update(
    opened: Opened,
    job: JobConfig,
    noise: SharedNoise,
    *,
    rotation: Rotation,
    expected: AdapterState,
    round_index: int,
) -> AdapterState:
    """The step of plain descent along the noised mean gradient of the survivors' batches.

    Args:
        opened: residues of the sum, (noise.size,).
        rotation: that of the round, of at least as many entries as train in it.
        expected: a state with the names and shapes of the factors that train in this round.
    """
    total = open_sum(opened.levels, noise, rotation, job.privacy.clip_norm)[: expected.size_bytes // 4]  # (n,)
    rate = job.training.learning_rate * schedule_factor(job.training.schedule, round_index, job.federation.rounds)
    return expected.unflatten(total * (-rate / expected_batch(job, len(opened.survivors))))
