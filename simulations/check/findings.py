"""What only the loaded base can tell of a job and its records. All else of a check follows from it, without a model."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yoriai.simulations.check.lengths import SiteLengths
from yoriai.simulations.check.workload import Rates, Sizes
from yoriai.strategies.adapter import AdapterState


@dataclass(frozen=True)
class TimedStep:
    """What was measured.

    Attributes:
        records: how many went through it.
        peak_bytes: largest resident size of the process until then.
        resident_bytes: after the step.
        device_bytes: largest memory of the GPU; 0 without one.
        measured_on: the day, of a step that an earlier check took; None: it was taken just now.
    """

    rates: Rates
    records: int
    peak_bytes: int
    resident_bytes: int
    device_bytes: int
    measured_on: datetime.date | None = None


@dataclass(frozen=True)
class Findings:
    """Numbers alone, and no name of a site: they may be kept where the records may not.

    Attributes:
        base_digest: names the base.
        limit: tokens that a record may have, by the job and the base.
        shapes: of the first adapter's factors.
        cut: of each site, records for training or testing that are longer than the limit, in the experiment's order.
        lengths: of each site's records, in the same order.
        remarks: whether a site's records gave rise to a line for whoever checks.
    """

    base_digest: str
    sizes: Sizes
    limit: int
    shapes: Mapping[str, tuple[int, int]]
    cut: tuple[int, ...]
    lengths: tuple[SiteLengths, ...]
    step: TimedStep
    remarks: bool = False

    def blank_adapter(self) -> AdapterState:
        """As large as the job's first adapter, and of the same factors."""
        return AdapterState({name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()})
