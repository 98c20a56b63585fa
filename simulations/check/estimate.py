"""What a job takes on this machine: the work that was counted, at the rates of one real step."""

from dataclasses import dataclass

from yoriai.config import JobConfig
from yoriai.simulations.check.findings import Findings, TimedStep
from yoriai.simulations.check.workload import Work, logits_bytes, seconds, states_bytes, work_of


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


def estimate(job: JobConfig, found: Findings) -> Estimate:
    """Count the work, which takes as long as the step says."""
    return Estimate(
        work=work_of(job, found.lengths, found.limit),
        step=found.step,
        states_bytes=states_bytes(job, found.lengths, found.limit, found.sizes),
        logits_bytes=logits_bytes(job, found.lengths, found.limit, found.sizes),
    )
