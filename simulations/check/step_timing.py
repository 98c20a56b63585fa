"""One short real step: what a token costs on this machine, and the memory that it takes. Its gradients are thrown away.

Training records, spread over their lengths with the longest among them, go through the job's own code: the frozen
prefix, a batch's clipped gradients, a measurement and, where answers are generated, a few of them. They are as many as
a site draws for a batch, since a token costs several times as much in a batch of few; of long ones fewer, for two full
pieces tell what more would. What is found out once about each shape (`client/base/pieces.py`) is timed by itself.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.records.encoding import Example
from yoriai.client.records.records import Record
from yoriai.client.site.job import training_plan
from yoriai.client.training.answers import answers
from yoriai.client.training.evaluate import evaluate
from yoriai.client.training.gradients import RoundGradients
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.privacy.job_terms.noise import LocalNoise, NoNoise
from yoriai.simulations.check.findings import TimedStep
from yoriai.simulations.check.lengths import SiteLengths
from yoriai.simulations.check.workload import Rates
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.fitted import Fitted
from yoriai.simulations.experiment.observers import Observer
from yoriai.simulations.run.reporting import peak_memory_mb

_FEWEST: Final = 2
# Tokens of a step: two pieces of a batch on a CPU (`client/base/pieces.py`).
_STEP_TOKENS: Final = 1536
_ANSWERS: Final = 16

T = TypeVar("T")


def timed_step(
    experiment: Experiment, fitted: Fitted, sites: Sequence[SiteLengths], limit: int, observer: Observer
) -> TimedStep:
    """Take one step of the job and throw it away.

    Args:
        sites: lengths, in the order of the experiment's sites.
        limit: to which records are cut, in tokens.
    """
    job, session = experiment.job, fitted.session
    model, head = session.model(job), session.head(job)
    records = _spread(experiment, sites, limit)
    examples = session.encode(records, job.task).examples
    tokens = sum(len(example.token_ids) for example in examples)
    distinct = sum({example.content: len(example.token_ids) for example in examples}.values())
    most = job.speed.physical_batch_size

    def prepared() -> PreparedRecords:
        return PreparedRecords(model, examples, known={} if job.speed.prefix_cache or job.trains_head else None)

    observer.advance("timing one step: prefix", 0, 0)
    first_prefix, _ = _timed(prepared)
    prefix, ready = _timed(prepared)
    noise = NoNoise() if job.privacy.noise == "none" else LocalNoise(1.0)  # It says only that gradients are clipped.
    plan = training_plan(job, 0, weight=1, noise=noise, physical_batch_size=most)
    gradients = RoundGradients.at(model, fitted.initial, ready, head, replace(plan, sampling_rate=1.0))
    observer.advance("timing one step: gradients", 0, 0)
    first_step, _ = _timed(lambda: gradients.batch(SystemSource()))
    step, _ = _timed(lambda: gradients.batch(SystemSource()))
    observer.advance("timing one step: measuring", 0, 0)
    measured, _ = _timed(lambda: evaluate(model, fitted.initial, ready, head, physical_batch_size=most))
    rates = Rates(
        prefix=prefix / distinct,
        trained=step / tokens,
        evaluated=measured / tokens,
        answered=_answer_rate(session.adapted(job), examples) if job.task.kind == "instruct" else 0.0,
        once=max(0.0, first_prefix - prefix) + max(0.0, first_step - step),
    )
    return TimedStep(rates, len(records), *_memory())


def _spread(experiment: Experiment, sites: Sequence[SiteLengths], limit: int) -> list[Record]:
    """Training records of all lengths, the longest among them."""
    records = [record for site in experiment.sites for record in site.train]
    lengths = np.concatenate([np.array(site.train, np.int64) for site in sites])
    count = step_records(lengths, limit, batch=experiment.job.training.sampling_rate * len(records) / len(sites))
    order = np.argsort(lengths, kind="stable")
    chosen = np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))
    return [records[order[place]] for place in chosen]


def step_records(lengths: NDArray[np.int64], limit: int, *, batch: float) -> int:
    """How many records make the step: a batch of the mean site, of long ones as many as have the tokens of a step.

    Args:
        lengths: of all training records, in tokens.
        limit: to which these are cut.
        batch: records that the mean site draws, in expectation.
    """
    most = _STEP_TOKENS / max(1.0, float(np.minimum(lengths, limit).mean()))
    return max(_FEWEST, round(min(batch, most)))


def _answer_rate(model: AdaptedModel, examples: Sequence[Example]) -> float:
    """Seconds a token of an expected answer: the loaded adapter is the job's first. Few are timed, for each is slow."""
    timed = examples[:: math.ceil(len(examples) / _ANSWERS)]
    took, _ = _timed(lambda: answers(model, timed))
    return took / max(1, sum(int(example.loss_mask.sum()) for example in timed))


def _timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of wall time, and what came out."""
    begun = time.perf_counter()
    found = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun, found


def _memory() -> tuple[int, int, int]:
    """Largest and present resident size of this process, and the largest memory of its GPU, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    on_device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return round(peak_memory_mb() * 2**20), pages * os.sysconf("SC_PAGE_SIZE"), int(on_device)
