"""How long one answer takes on this machine, one text at a time, as a user would ask."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from yoriai.client.session.loading import Trained, load
from yoriai.errors import RecordError
from yoriai.simulations.run.reporting import peak_memory_mb

ANSWERS: Final = {"classify": 50, "instruct": 10}
_WARM_UP: Final = 2


@dataclass(frozen=True)
class Latency:
    """Milliseconds of wall time for one answer, the base loaded already.

    Attributes:
        p50_ms, p95_ms: of so many `answers`, to texts of the test records.
        load_s: seconds until the first could be asked.
        peak_memory_mb: of this process, so far.
    """

    answers: int
    p50_ms: float
    p95_ms: float
    load_s: float
    peak_memory_mb: float


def measure(folder: Path, kind: str, texts: Sequence[str]) -> Latency | None:
    """Load what a run trained and answer some texts; None for a task that answers nothing.

    Args:
        folder: the run's `adapter`.
        kind: of the task.

    Raises:
        AdapterError, BaseModelError: it does not load.
        RecordError: there is no text to answer.
    """
    if kind not in ANSWERS:
        return None
    if not texts:
        raise RecordError("there is no test record to answer", remedy="leave the latency out: --no-latency")
    began = time.perf_counter()
    trained = load(folder)
    ready = time.perf_counter()
    answer = _answering(trained)
    wanted = [texts[i % len(texts)] for i in range(ANSWERS[kind] + _WARM_UP)]
    millis = [_timed(answer, text) for text in wanted][_WARM_UP:]
    p50, p95 = np.percentile(millis, [50, 95])
    return Latency(len(millis), float(p50), float(p95), ready - began, peak_memory_mb())


def _answering(trained: Trained) -> Callable[[str], object]:
    return (lambda text: trained.predict([text])) if trained.labels else trained.generate


def _timed(answer: Callable[[str], object], text: str) -> float:
    began = time.perf_counter()
    answer(text)
    return 1000 * (time.perf_counter() - began)
