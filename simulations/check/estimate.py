"""What a job takes on this machine: the work that was counted, at the rates of one real step."""

from collections.abc import Sequence
from dataclasses import dataclass

from yoriai.simulations.check.lengths import SiteLengths, length_limit
from yoriai.simulations.check.step_timing import TimedStep, timed_step
from yoriai.simulations.check.workload import Sizes, Work, logits_bytes, seconds, states_bytes, work_of
from yoriai.simulations.run.experiment import Experiment
from yoriai.simulations.run.fitted import Fitted
from yoriai.simulations.run.observers import Observer


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a whole simulation, without comparisons.

    Attributes:
        step: measured.
        states_bytes, logits_bytes: counted: hidden states that are kept, and the largest batch of test records.
    """

    work: Work
    step: TimedStep
    states_bytes: int
    logits_bytes: int

    @property
    def seconds(self) -> float:
        """Wall time where one machine plays all sites."""
        return seconds(self.work, self.step.rates)

    @property
    def peak_bytes(self) -> int:
        """Largest resident size of the process: that of the step, or of measuring, and the states on top."""
        return max(self.step.peak_bytes, self.step.resident_bytes + self.logits_bytes) + self.states_bytes


def estimate(experiment: Experiment, fitted: Fitted, sites: Sequence[SiteLengths], observer: Observer) -> Estimate:
    """Count the work and take one step of it.

    Args:
        sites: lengths, in the order of the experiment's sites.

    Raises:
        TrainingError: without privacy, the loss of a record is not a number.
    """
    job, limit = experiment.job, length_limit(experiment, fitted)
    vocabulary, hidden = fitted.session.base.model.get_output_embeddings().weight.shape
    sizes = Sizes(int(hidden), int(vocabulary))
    return Estimate(
        work=work_of(job, sites, limit),
        step=timed_step(experiment, fitted, sites, observer),
        states_bytes=states_bytes(job, sites, limit, sizes),
        logits_bytes=logits_bytes(job, sites, limit, sizes),
    )
