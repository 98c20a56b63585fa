"""A simulation's cost by the number of sites and by engine: seconds, site-rounds a second, peak memory.

Every site has as many records, and one job trains at all of them with local noise. Seconds are those of the whole
training: identities, ledgers, offers, keys, rounds, what the ledgers say at the end; of Flower's engine also Ray's
start and the base that its worker loads. Loading libraries and the base beforehand is not in it. Each engine has a
process of its own, and its memory is that of all processes below it, each page counted once.

The tiny base has random weights; its records are made up. Another base reads the work orders, dealt out in turn: there
are 1,672 of them, so that with more than 167 sites of ten records some sites hold the same ones, whose states the base
computes once.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from yoriai.client.records.records import Record, SiteRecords
from yoriai.errors import ConfigError
from yoriai.simulations.bench.deploy.usage import Usage
from yoriai.simulations.engines.choice import ENGINES
from yoriai.simulations.experiment.machine import machine, versions

TINY: Final = "tiny"
TRAINS: Final = ("head", "core")
_KEYS: Final = {"inprocess": "in_process", "one-pass": "one_pass", "flower": "flower"}
_TINY_HEAD: Final[dict[str, object]] = {"head.directions": 16, "head.words": 64}
_CORE: Final[dict[str, object]] = {"federation.rule": "core", "lora.layers": "last:2", "lora.rank": 4, "lora.alpha": 4}
_FAULTS: Final = {"pump": ("leaks", "drips"), "engine": ("smokes", "stalls"), "cabin": ("rattles", "squeaks")}


@dataclass(frozen=True)
class SimulatePlan:
    """What is simulated.

    Attributes:
        records: for training, at each site.
        base: `tiny`, or a base as a job names it.
        trains: `head` or `core`.
        secure: whether updates travel in a secure sum.
        threads: that PyTorch computes with.
    """

    sites: int
    rounds: int = 5
    records: int = 10
    base: str = TINY
    trains: str = "head"
    secure: bool = True
    threads: int = 1


@dataclass(frozen=True)
class EngineCost:
    """What an engine takes for a plan."""

    seconds: float
    site_rounds_per_s: float
    peak_memory_mb: float


def bench_simulate(plan: SimulatePlan, engines: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each engine, one after another; `docs/benchmarks/simulate.md` has what was found.

    Returns:
        The plan; under `in_process`, `one_pass` and `flower` an engine's cost, None where it was not asked for; under
        `processor_s` seconds of processor time by engine, which bear other work on the machine better (of Flower's only
        the process that waits); the machine.

    Raises:
        ConfigError: there is no such engine, or nothing of that name trains.
    """
    if unknown := sorted(set(engines) - set(ENGINES)):
        raise ConfigError("--engine", found=", ".join(unknown), expected=f"one of {', '.join(ENGINES)}")
    if plan.trains not in TRAINS:
        raise ConfigError("--trains", found=plan.trains, expected=" or ".join(TRAINS))
    found: dict[str, Any] = dict.fromkeys(_KEYS.values())
    processor_s: dict[str, float] = {}
    for engine in dict.fromkeys(engines):
        say(f"measuring {engine}")
        with Usage() as usage, multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, processor_s[_KEYS[engine]], own_mb = pool.apply(measure, (plan, engine))
        site_rounds = plan.sites * plan.rounds / seconds
        cost = EngineCost(round(seconds, 2), round(site_rounds, 2), round(max(own_mb, usage.all_bytes / 1e6)))
        found[_KEYS[engine]] = asdict(cost)
    return {**asdict(plan), **found, "processor_s": processor_s, "machine": machine(), "versions": versions()}


def measure(plan: SimulatePlan, engine: str) -> tuple[float, float, float]:
    """Train by one engine in this process. Its seconds, by the clock and of processor, and its peak memory in MB."""
    import torch

    from yoriai import wire
    from yoriai.client.base.base_model import choose_device, load_base
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.client.session.model_session import ModelSession
    from yoriai.simulations.run.simulated_federation import Federation, run_federation

    torch.set_num_threads(plan.threads)
    with tempfile.TemporaryDirectory(prefix="yoriai-", ignore_cleanup_errors=True) as place, quiet_libraries():
        folder = Path(place)
        base = _tiny_base(folder / "base") if plan.base == TINY else plan.base
        sites = _sites(plan)
        job = _job(plan, base, sites)
        session = ModelSession(load_base(base, device=choose_device("cpu")), job.speed)
        initial = session.initial_adapter(job)
        federation = Federation(
            job=job,
            sites=sites,
            roster=wire.Roster(serial=1, weights={site.name: 1 for site in sites}),
            folder=folder / "run",
            run_id="bench",
            initial=initial,
            engine=engine,
        )
        start, processor = time.perf_counter(), time.process_time()
        outcome = run_federation(federation, session)
        seconds, processor_s = time.perf_counter() - start, time.process_time() - processor
    if outcome.checkpoint.next_round != plan.rounds or outcome.refused:
        raise ConfigError("not all sites took part in all rounds", remedy="report it, with the command")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return seconds, round(processor_s, 2), used


def _job(plan: SimulatePlan, base: str, sites: Sequence[SiteRecords]) -> Any:
    from yoriai.client.session.task_defaults import settled
    from yoriai.config import JobConfig, override

    own = _CORE if plan.trains == "core" else _TINY_HEAD if plan.base == TINY else {}
    settings: dict[str, object] = {
        "base.model": base,
        "task.kind": "classify",
        "task.labels": sorted({record.response for site in sites for record in site.train if record.response}),
        "federation.rounds": plan.rounds,
        "training.records_per_weight": plan.records,
        "privacy.noise": "local",
        "secure_aggregation.enabled": plan.secure,
        "evaluation.every": 0,
        "speed.threads": plan.threads,
        **own,
    }
    job = override(JobConfig(name="bench"), settings)
    return settled(job, sites=plan.sites, units=plan.sites * plan.records)


def _sites(plan: SimulatePlan) -> tuple[SiteRecords, ...]:
    endless = cycle(_made_up() if plan.base == TINY else _work_orders())
    return tuple(
        SiteRecords(f"site-{number:05d}", tuple(islice(endless, plan.records)), ()) for number in range(plan.sites)
    )


def _made_up() -> list[Record]:
    return [
        Record(prompt=f"{part} {fault} again {number}", response=part)
        for number in range(100)
        for part, faults in _FAULTS.items()
        for fault in faults
    ]


def _work_orders() -> list[Record]:
    from yoriai.simulations.scenarios import get_scenario

    return [record for site in get_scenario("excavators").sites() for record in site.train]


def _tiny_base(folder: Path) -> str:
    """A random base of some 45,000 parameters, in Hugging Face's layout."""
    from yoriai.simulations.scenarios.tiny import tiny_llama, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
