"""One step of full fine-tuning beside one of LoRA, of a core and of a head: memory, seconds, and what would be sent.

The same base and the same records, the first work orders, each method in a process of its own, so that its peak memory
is its own too. Full fine-tuning trains every weight with Adam, without privacy, and once with each record's gradient
clipped by itself, which is what privacy would ask for; the others are Yoriai's own training, clipped and noised. LoRA
and the core read texts, and so does full fine-tuning; a head learns labels. A step is on all of the records. What a
method computes once a job (states below the trained layers, public conditioning) is told apart as preparation.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from yoriai.errors import ConfigError
from yoriai.simulations.experiment.machine import machine, versions

METHODS: Final = ("full", "full_clipped", "lora", "core", "head")
_TEXTS: Final[dict[str, object]] = {"task.kind": "lm", "task.labels": [], "lora.factors": "svd"}
_SETTINGS: Final[dict[str, dict[str, object]]] = {
    "lora": {**_TEXTS, "federation.rule": "fedavg", "lora.layers": "all", "lora.rank": 16, "lora.alpha": 16.0},
    "core": {**_TEXTS, "federation.rule": "core", "lora.layers": "last:2", "lora.rank": 32, "lora.alpha": 32.0},
    "head": {"task.head": "trained"},
}
_ROWS: Final = 8
_NOISE: Final = 1.0


@dataclass(frozen=True)
class StepCost:
    """What one step takes.

    Attributes:
        trained: parameters that train, of which each is four bytes of an update.
        prepare_s: seconds for what is computed once a job, before the first step.
        step_s: seconds of wall time, the median over the repeats.
        step_cpu_s: of processor time, all cores together; it bears what else runs on the machine better.
        peak_memory_mb: of the process, base and libraries included.
    """

    method: str
    trained: int
    prepare_s: float
    step_s: float
    step_cpu_s: float
    peak_memory_mb: float


def bench_tuning(
    base: str, records: int, methods: Sequence[str], *, repeats: int, threads: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure each method, one after another; `docs/benchmarks/tuning.md` has what was found.

    Raises:
        ConfigError: there is no such method.
    """
    if unknown := sorted(set(methods) - set(METHODS)):
        raise ConfigError("--method", found=", ".join(unknown), expected=f"one of {', '.join(METHODS)}")
    found = []
    for method in methods:
        say(f"measuring {method}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (method, base, records, repeats, threads)))
    return {
        "base": base,
        "records": records,
        "threads": threads,
        "methods": [asdict(one) for one in found],
        "machine": machine(),
        "versions": versions(),
    }


def measure(method: str, base: str, records: int, repeats: int, threads: int) -> StepCost:
    """One method in this process."""
    import torch

    from yoriai.client.base.quiet import quiet_libraries

    torch.set_num_threads(threads)
    began = time.perf_counter()
    with quiet_libraries():
        step, trained = _full(method, base, records) if method.startswith("full") else _factors(method, base, records)
    ready = time.perf_counter()
    step()
    times = [_timed(step) for _ in range(repeats)]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return StepCost(
        method=method,
        trained=trained,
        prepare_s=ready - began,
        step_s=statistics.median(wall for wall, _ in times),
        step_cpu_s=statistics.median(cpu for _, cpu in times),
        peak_memory_mb=used,
    )


def _timed(step: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def _full(method: str, name: str, count: int) -> tuple[Callable[[], None], int]:
    """A step on every weight: the mean loss of all target tokens or, clipped, a sum of clipped gradients by record."""
    import torch

    from yoriai.client.base.base_model import choose_device, load_base

    base = load_base(name, device=choose_device("cpu"))
    model = base.model.requires_grad_(True)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-5)
    rows = [torch.tensor([base.tokenizer.encode(text)]) for text in _texts(count)]
    targets = sum(row.shape[1] - 1 for row in rows)

    def loss(row: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=row).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum") / targets

    def plain() -> None:
        optimizer.zero_grad(set_to_none=True)
        for row in rows:
            loss(row).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def clipped() -> None:
        optimizer.zero_grad(set_to_none=True)
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for row in rows:
            loss(row).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for kept, parameter in zip(total, parameters, strict=True):
                if parameter.grad is not None:
                    kept.add_(parameter.grad)
            optimizer.zero_grad(set_to_none=True)
        for kept, parameter in zip(total, parameters, strict=True):
            parameter.grad = kept
        optimizer.step()

    return (clipped if method == "full_clipped" else plain), sum(parameter.numel() for parameter in parameters)


def _factors(method: str, name: str, count: int) -> tuple[Callable[[], None], int]:
    """A step of Yoriai's own training from the job's first factors, on all records."""
    from yoriai.client.base.base_model import choose_device, load_base
    from yoriai.client.records.records import Record
    from yoriai.client.session.model_session import ModelSession
    from yoriai.client.site.job import training_plan
    from yoriai.client.training.train import train_round
    from yoriai.config import override
    from yoriai.privacy.dp.randomness import SystemSource
    from yoriai.privacy.job_terms.noise import LocalNoise
    from yoriai.simulations.scenarios import get_scenario
    from yoriai.strategies.rule import rule_of

    whole = {"base.model": name, "training.sampling_rate": 1.0, "training.local_steps": 1}
    job = override(get_scenario("excavators").job(), whole | _SETTINGS[method])
    session = ModelSession(load_base(name, device=choose_device("cpu")), job.speed)
    orders = get_scenario("excavators").sites()
    records = [record for site in orders for record in site.train][:count]
    if job.task.kind == "lm":
        records = [Record(text=text) for text in _texts(count)]
    start = session.initial_adapter(job)
    model, head, prepared = session.model(job), session.head(job), session.prepare(records, job)
    plan = training_plan(job, 0, weight=1, noise=LocalNoise(_NOISE), physical_batch_size=_ROWS)

    def step() -> None:
        train_round(model, start, prepared, head, plan, source=SystemSource())

    trained = start.select(rule_of(job).trainable(0))
    return step, sum(tensor.size for tensor in trained.tensors.values())


def _texts(count: int) -> list[str]:
    """The first work orders with their subsystem, as texts."""
    from yoriai.simulations.scenarios import get_scenario

    records = [record for site in get_scenario("excavators").sites() for record in site.train]
    return [f"{record.prompt}: {record.response}" for record in records[:count]]
