"""What a measurement was asked for, the base whose adapter is that large, the records, and the job."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from yoriai.config import JobConfig, override

LAYERS = 4
# Of a layer of `tiny_llama`: inputs and outputs of its seven linear maps, in units of its hidden size.
_SIDES = 16
_HEADS = 4
# 200 MB in fp32.
LARGE_PARAMS = 50_000_000
# The most sites whose daemons get processes of their own, as in a deployment; each loads a model library.
_MOST_APART = 4
_RECORDS = 8


@dataclass(frozen=True)
class DeployPlan:
    """A measurement.

    Attributes:
        sites: at least 2.
        params: trained parameters of the adapter, at least; see `shape_for`.
        rounds: of the job.
        noise: local, or distributed.
    """

    sites: int
    params: int
    rounds: int
    noise: str

    @property
    def apart(self) -> bool:
        """Whether each site's daemon has a process of its own."""
        return self.sites <= _MOST_APART

    @property
    def names(self) -> list[str]:
        """The sites, in order."""
        return [f"site-{number:03d}" for number in range(1, self.sites + 1)]


@dataclass(frozen=True)
class Shape:
    """A base's hidden size and the adapter's rank."""

    hidden: int
    rank: int

    @property
    def params(self) -> int:
        """Parameters of the adapter on all linear maps of all layers."""
        return LAYERS * _SIDES * self.hidden * self.rank


def shape_for(params: int) -> Shape:
    """The smallest base of its kind that bears so many parameters, at a rank of at most half its hidden size."""
    step = 8 * _HEADS
    hidden = step * math.ceil(math.sqrt(2 * params / (LAYERS * _SIDES)) / step)
    return Shape(hidden, math.ceil(params / (LAYERS * _SIDES * hidden)))


def save_base(folder: Path, hidden: int) -> Path:
    """Write a random base in Hugging Face's layout."""
    from yoriai.client.base.quiet import quiet_libraries
    from yoriai.simulations.scenarios.tiny import tiny_llama, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    with quiet_libraries():
        tiny_llama(tokenizer, layers=LAYERS, hidden=hidden).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_records(folder: Path, name: str) -> Path:
    """Write a few records of a site: enough to accept a job with, for nothing is trained on them."""
    place = folder / name
    place.mkdir(parents=True)
    lines = [json.dumps({"text": f"{name} checked pump {number}"}) for number in range(_RECORDS)]
    (place / "train.jsonl").write_text("\n".join(lines) + "\n")
    (place / "test.jsonl").write_text(lines[0] + "\n")
    return place


def job_for(asked: DeployPlan, base: Path, rank: int) -> JobConfig:
    """The job: the whole adapter trains in every round, and goes both ways in full."""
    # No share of the noise may be missing; where each site's is whole, a fifth of the sites may.
    fewest = asked.sites if asked.noise == "distributed" else max(2, asked.sites - asked.sites // 5)
    return override(
        JobConfig(name="bench"),
        {
            "base.model": str(base),
            "lora.layers": "all",
            "lora.rank": rank,
            "lora.alpha": float(rank),
            "task.kind": "lm",
            "federation.rule": "fedavg",
            "federation.rounds": asked.rounds,
            "federation.min_sites": fewest,
            "training.local_steps": 1,
            "training.sampling_rate": 0.5,
            "training.records_per_weight": _RECORDS,
            "privacy.noise": asked.noise,
            "evaluation.every": 0,
            "speed.threads": 1,
            # Long enough for all sites' processes to take turns on few cores.
            "deadlines.offer_s": 1800.0,
            "deadlines.keys_s": 1800.0,
            "deadlines.train_s": 1800.0,
        },
    )
