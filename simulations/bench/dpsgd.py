"""What privacy costs a training step: the plain step, Opacus by its hooks and by ghost clipping, and Yoriai's own.

The same base, adapter, records and head for each, in a process of its own, so that its peak memory is its own too. The
records are random tokens of one length and the head scores the last position, so a step is forward, backward and, of
the private ones, each record's clip and the sum. The plain step is PEFT's own, summed by autograd, with the libraries
as they come; `plain_strict` is the same in MKL's reproducible mode, in which Yoriai computes so that no record moves
another's bits (`client/base/pieces.py`). Noise does not hang on how gradients are made, and is timed by itself.
"""

import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from yoriai.errors import ConfigError
from yoriai.simulations.experiment.machine import machine, versions

if TYPE_CHECKING:
    from yoriai.client.base.base_model import BaseModel

WAYS: Final = ("plain", "plain_strict", "opacus", "opacus_ghost", "yoriai")
ADAPTERS: Final = {"lora": ("A", "B"), "core": ("R",)}
# Hidden size, feed-forward size, layers, heads, key and value heads, vocabulary: of models whose weights stay random.
RANDOM_BASES: Final = {
    "random-llama-tiny": (64, 128, 2, 4, 2, 512),
    "random-llama-1b": (2048, 8192, 16, 32, 8, 128_256),
    "random-llama-8b": (4096, 14_336, 32, 32, 8, 128_256),
}


@dataclass(frozen=True)
class DpsgdPlan:
    """What is measured.

    Attributes:
        base: as in a job, or one of RANDOM_BASES.
        adapter: of ADAPTERS.
        maps: names of the adapted linear maps.
        batch: records of a step.
        length: tokens of each.
    """

    base: str
    adapter: str
    rank: int
    maps: tuple[str, ...]
    layers: str
    batch: int
    length: int
    device: str = "cpu"
    threads: int = 2
    repeats: int = 7


@dataclass(frozen=True)
class StepCost:
    """What one step takes.

    Attributes:
        step_s: seconds of wall time, the best of the repeats.
        median_s: their median.
        step_cpu_s: of processor time, all cores together.
        noise_s: on top, for the noise of a release; 0 where it is not Yoriai's.
        peak_memory_mb: of the process during the steps or, on a GPU, of what torch took there.
    """

    way: str
    trained: int
    step_s: float
    median_s: float
    step_cpu_s: float
    noise_s: float
    peak_memory_mb: float


def bench_dpsgd(plan: DpsgdPlan, ways: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each way, one after another; `docs/benchmarks/dpsgd.md` has what was found.

    Raises:
        ConfigError: there is no such way or adapter.
        BaseModelError: the device is not there, or the base does not load or fit.
    """
    _check("--way", ways, WAYS)
    _check("--adapter", [plan.adapter], tuple(ADAPTERS))
    found: dict[str, StepCost] = {}
    for way in ways:
        say(f"measuring {way}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(measure, (way, plan))
    return {
        **asdict(plan),
        "ways": {way: asdict(cost) | _rate(cost, plan) for way, cost in found.items()},
        "ratios": {} if "plain" not in found else {way: _ratio(cost, found["plain"]) for way, cost in found.items()},
        "machine": machine(),
        "versions": versions(),
    }


def _check(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(option, found=", ".join(unknown), expected=f"one of {', '.join(known)}")


def _rate(cost: StepCost, plan: DpsgdPlan) -> dict[str, float]:
    return {"tokens_per_s": plan.batch * plan.length / cost.step_s}


def _ratio(cost: StepCost, plain: StepCost) -> dict[str, float]:
    return {key: getattr(cost, key) / getattr(plain, key) for key in ("step_s", "step_cpu_s", "peak_memory_mb")}


def measure(way: str, plan: DpsgdPlan) -> StepCost:
    """One way in this process."""
    import torch

    from yoriai.client.base.base_model import choose_device
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.simulations.bench import dpsgd_steps

    if way not in ("yoriai", "plain_strict"):
        os.environ.pop("MKL_CBWR", None)  # Set as the modules above were loaded; MKL reads it at its first product.
    warnings.filterwarnings("ignore", "Full backward hook")  # Opacus': nothing that enters the tail needs a gradient.
    torch.set_num_threads(plan.threads)
    device = choose_device(plan.device)
    with quiet_libraries():
        made = dpsgd_steps.made(plan, _base(plan.base, device))
        step = dpsgd_steps.STEPS[way](made)
        for _ in range(2):
            step()
        _forget_peak(device.type)
        times = [_timed(step, device.type) for _ in range(plan.repeats)]
        peak = _peak_mb(device.type)
        noise_s = _timed(made.noise, device.type)[0] if way == "yoriai" else 0.0
    return StepCost(
        way=way,
        trained=sum(parameter.numel() for parameter in made.trained.values()),
        step_s=min(wall for wall, _ in times),
        median_s=statistics.median(wall for wall, _ in times),
        step_cpu_s=min(cpu for _, cpu in times),
        noise_s=noise_s,
        peak_memory_mb=peak,
    )


def _base(name: str, device: Any) -> "BaseModel":
    from yoriai.client.base.base_model import BaseModel, load_base

    if name not in RANDOM_BASES:
        return load_base(name, device=device)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, layers, heads, shared, vocabulary = RANDOM_BASES[name]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    return BaseModel(name, model.requires_grad_(False).eval(), None, "", device)


def _timed(step: Callable[[], object], device: str) -> tuple[float, float]:
    import torch

    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _forget_peak(device: str) -> None:
    """From here on the peak is that of the steps, and not of the loading before them."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Elsewhere than on Linux the peak stays that of the process.
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb(device: str) -> float:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    from yoriai.simulations.run.reporting import peak_memory_mb

    return peak_memory_mb()
