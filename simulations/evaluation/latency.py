"""How long one answer takes on this machine, one text at a time, as a user would ask."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

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
        tokens_per_s: over all of these answers: tokens of the texts read where a label is chosen, of the answers
            written where text is; `tokens_are` says which.
        load_s: seconds until the first could be asked.
        peak_memory_mb: of this process, so far.
    """

    answers: int
    p50_ms: float
    p95_ms: float
    tokens_per_s: float
    tokens_are: Literal["read", "written"]
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
    wanted = [texts[i % len(texts)] for i in range(ANSWERS[kind] + _WARM_UP)]
    timed = [_timed(trained, text) for text in wanted][_WARM_UP:]
    millis = [millis for millis, _ in timed]
    p50, p95 = np.percentile(millis, [50, 95])
    return Latency(
        answers=len(millis),
        p50_ms=float(p50),
        p95_ms=float(p95),
        tokens_per_s=1000 * sum(tokens for _, tokens in timed) / sum(millis),
        tokens_are="read" if trained.labels else "written",
        load_s=ready - began,
        peak_memory_mb=peak_memory_mb(),
    )


def _timed(trained: Trained, text: str) -> tuple[float, int]:
    """Milliseconds of one answer, and the tokens that count."""
    began = time.perf_counter()
    if trained.labels:
        trained.predict([text])
        counted = text
    else:
        counted = trained.generate(text)
    millis = 1000 * (time.perf_counter() - began)
    return millis, len(trained.base.tokenizer.encode(counted, add_special_tokens=False))
