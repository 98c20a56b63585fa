"""Hostile but valid jobs: every numeric setting at and near the bounds that the models of a job give it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.magnitude import within_bounds
from yoriai.config import JobConfig
from yoriai.strategies.adapter import AdapterState

# Where a bound is missing, or is 0 itself and not to be reached: as far as an attack has ever gone.
_LEAST, _LARGEST = 1e-25, 1e25
# Counts of work: their upper bounds only take longer, and do nothing else. These stand for them.
_WORK = {"training.local_steps": 3, "lora.rank": 16, "federation.rounds": 3, "privacy.spare_rounds": 2}
# Left as they are: counts of sites, which depend on each other, and lengths that leave no room for a record.
_LEFT_OUT = (
    "federation.byzantine_sites", "federation.min_sites", "privacy.colluding", "privacy.records_per_owner",
    "task.max_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A numeric setting of a job by its dotted key, with the bounds that its model states; None where it has none."""

    key: str
    whole: bool
    least: float | None
    largest: float | None
    open_least: bool
    open_largest: bool

    def ends(self) -> list[int | float]:
        """The least and the largest value that it may have, and one near each of them."""
        if self.whole:
            least = int(self.least or 0) + self.open_least
            largest = _WORK.get(self.key, int(_LARGEST if self.largest is None else self.largest) - self.open_largest)
            return [least, min(least + 1, largest), largest]
        least = _LEAST if self.least is None or (self.open_least and self.least == 0) else self.least
        least = math.nextafter(least, math.inf) if self.open_least else least
        largest = _LARGEST if self.largest is None else self.largest
        largest = math.nextafter(largest, -math.inf) if self.open_largest else largest
        return [least, least * 1.001 if least > 0 else largest * 1e-9, largest * 0.999, largest]


def numbers() -> list[Number]:
    """Every numeric setting of a job, with its bounds, from the models' own schema."""
    schema = JobConfig.model_json_schema(by_alias=True)
    return list(_numbers(schema, schema["$defs"], ""))


def _numbers(table: Mapping[str, Any], tables: Mapping[str, Any], prefix: str) -> Iterator[Number]:
    for name, field in table["properties"].items():
        if "$ref" in field:
            yield from _numbers(tables[field["$ref"].rsplit("/", 1)[1]], tables, f"{prefix}{name}.")
            continue
        for kind in field.get("anyOf", [field]):
            if kind.get("type") in ("number", "integer") and "const" not in kind:
                least, largest = _tightest(kind, "minimum", max), _tightest(kind, "maximum", min)
                yield Number(f"{prefix}{name}", kind["type"] == "integer", least[0], largest[0], least[1], largest[1])


def _tightest(field: Mapping[str, Any], name: str, tightest: Callable[..., float]) -> tuple[float | None, bool]:
    """The bound on one side, and whether it is outside the range itself."""
    exclusive = f"exclusive{name.capitalize()}"
    given = [field[key] for key in (name, exclusive) if key in field]
    bound = tightest(given, default=None)
    return bound, exclusive in field and field[exclusive] == bound


def hostile_settings(generator: np.random.Generator) -> dict[str, object]:
    """About half of a job's numbers at an end of their ranges, the others as they are by default."""
    settings: dict[str, object] = {}
    for number in numbers():
        ends = number.ends()
        chosen = ends[generator.integers(len(ends))]
        if generator.random() < 0.5 and number.key not in _LEFT_OUT:
            settings[number.key] = chosen
    for key, choices in {
        "training.optimizer": ("sgd", "adam"),
        "training.lowpass": (False, True),
        "federation.rule": ("core", "fedavg", "ffa"),
    }.items():
        settings[key] = choices[generator.integers(len(choices))]
    return settings


def hostile_adapter(
    model: AdaptedModel,
    start: AdapterState,
    generator: np.random.Generator,
    magnitudes: Sequence[float] = (1e-30, 1e-8, 0.01, 1.0, 10.0, 100.0, 1e3, 1e5),
) -> AdapterState:
    """The start with random numbers added to all but the fixed U, of one of these magnitudes, or as a site takes."""
    chosen: dict[str, float] = {}
    tensors = dict(start.tensors)
    for name, tensor in start.tensors.items():
        path, factor = name.rsplit(":", 1)
        if factor == "U":
            continue
        kind = path.rsplit(".", 1)[1] + factor
        magnitude = chosen.setdefault(kind, float(generator.choice(magnitudes)))
        tensors[name] = (tensor + magnitude * generator.standard_normal(tensor.shape)).astype(np.float32)
    return within_bounds(start, AdapterState(tensors), model.check)


def like_the_noise(differences: np.ndarray, deviation: float, more: float = 0.0) -> None:
    """Differences of two releases of the same sum: two noises of this deviation, by a test of level 2e-9.

    Args:
        more: variance that may be there besides, of rounding.
    """
    squares = float(np.sum((differences / deviation) ** 2)) / 2
    least, largest = stats.chi2.ppf((1e-9, 1 - 1e-9), differences.size)
    assert least < squares < (1 + more / deviation**2) * largest
