"""The events that mechanisms cost: what an accountant needs to know of them, and their form in JSON. Pure.

Neighbouring relation of every event: add or remove one unit at one site.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

from yoriai.errors import ConfigError

# Total-variation distance, at most, between one drawn coordinate of Skellam noise and true Skellam noise: what is left
# of the distribution where the sampler's table ends, and the rounding of its entries.
SAMPLER_ERROR = 2.0**-100

# Larger whole numbers than any modulus of the secure sum, and small enough that no formula overflows a double.
_LARGEST_WHOLE = 2**100


@dataclass(frozen=True)
class SampledGaussian:
    """The event of `steps` Poisson-sampled Gaussian mechanisms, each run on a fresh sample.

    Args:
        sampling_rate: probability, in (0, 1], with which each unit takes part in one step.
        noise_multiplier: standard deviation of the noise over the L2 sensitivity (the clip norm); > 0.
        steps: number of such mechanisms; >= 1.

    Raises:
        ConfigError: a value is outside its range.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int = 1

    def __post_init__(self) -> None:
        _check_sampling_rate(self.sampling_rate)
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0.0):
            raise out_of_range("noise_multiplier", self.noise_multiplier, "a finite number above 0")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise out_of_range("steps", self.steps, "a whole number of at least 1")


@dataclass(frozen=True)
class SampledSkellam:
    """The event of `steps` Poisson-sampled Skellam mechanisms on integer vectors, each run on a fresh sample.

    One mechanism opens the sum, over all sites, of the sampled units' integer vectors and of the sites' noise. Each
    vector depends on its own unit and on randomness of its own alone, and is bounded whatever that randomness was.

    The bounds are exact whole numbers, since they hold for vectors after rounding; an L1 norm above the squared L2
    norm cannot occur there (|x| <= x * x for every whole x) and is refused as a mistake.

    Args:
        sampling_rate: probability, in (0, 1], with which each unit takes part in one step.
        variance: of the honest sites' noise on each coordinate of the opened sum, in squared integer units; >= 1.
        squared_l2: bound on the squared L2 norm of one unit's integer vector; >= 1.
        l1: bound on its L1 norm; >= 1 and at most squared_l2.
        coordinates: number of coordinates for which one site draws noise in one step; >= 1.
        draws: number of sites for whose draws the sampler's error is charged; >= 1.
        steps: number of such mechanisms; >= 1.

    Raises:
        ConfigError: a value is outside its range, or a whole number is above 2**100.
    """

    sampling_rate: float
    variance: int
    squared_l2: int
    l1: int
    coordinates: int
    draws: int
    steps: int = 1

    def __post_init__(self) -> None:
        _check_sampling_rate(self.sampling_rate)
        for name in ("variance", "squared_l2", "l1", "coordinates", "draws", "steps"):
            found = getattr(self, name)
            if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= _LARGEST_WHOLE:
                raise out_of_range(name, found, "a whole number from 1 to 2**100")
        if self.l1 > self.squared_l2:
            raise out_of_range("l1", self.l1, f"at most squared_l2, which is {self.squared_l2}")

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the honest noise over the L2 sensitivity, to compare with a Gaussian's."""
        return math.sqrt(self.variance / self.squared_l2)


Event: TypeAlias = SampledGaussian | SampledSkellam

# Equal mechanisms merged and sorted. Composition does not depend on the order, so one history has one key in a cache.
History: TypeAlias = tuple[Event, ...]

_KINDS: dict[str, type[SampledGaussian] | type[SampledSkellam]] = {
    "sampled_gaussian": SampledGaussian,
    "sampled_skellam": SampledSkellam,
}
_REAL_VALUES = ("sampling_rate", "noise_multiplier")


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return the event as plain values for JSON; `event_from_dict` is the inverse."""
    kind = next(name for name, event_type in _KINDS.items() if isinstance(event, event_type))
    return {"kind": kind, **asdict(event)}


def event_from_dict(values: Mapping[str, Any]) -> Event:
    """Read an event that `event_to_dict` wrote.

    Raises:
        ConfigError: the kind is unknown, a key is missing or superfluous, or a value is out of range.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError("unknown privacy event", found=repr(kind), expected=" or ".join(map(repr, _KINDS)))
    keys = {"kind", *(field.name for field in fields(_KINDS[kind]))}
    if set(values) != keys:
        raise ConfigError("malformed privacy event", found=str(sorted(values)), expected=str(sorted(keys)))
    arguments = {key: value for key, value in values.items() if key != "kind"}
    for key in keys.intersection(_REAL_VALUES):
        if isinstance(values[key], bool) or not isinstance(values[key], int | float):
            raise out_of_range(key, values[key], "a number")
        arguments[key] = float(values[key])
    return _KINDS[kind](**arguments)


def merged(events: Iterable[tuple[Event, int] | Event]) -> History:
    """Return a history in which equal mechanisms are one event with their steps added up, in a fixed order.

    Args:
        events: events, or pairs of an event and how often it happened (0 is allowed).

    Raises:
        ConfigError: a count is negative.
    """
    steps: dict[Event, int] = {}
    for item in events:
        event, count = item if isinstance(item, tuple) else (item, 1)
        if count < 0:
            raise out_of_range("count of an event", count, "a whole number of at least 0")
        one = replace(event, steps=1)
        steps[one] = steps.get(one, 0) + event.steps * count
    return tuple(replace(event, steps=n) for event, n in sorted(steps.items(), key=repr) if n)


def sampler_error(history: History) -> float:
    """Return the total-variation distance, at most, between everything a history released and true Skellam noise.

    Errors of single draws add up over coordinates, sites and steps, however later mechanisms depend on earlier
    outputs: couple the draws one after the other. 0.0 for a history without Skellam noise.
    """
    draws = sum(e.steps * e.coordinates * e.draws for e in history if isinstance(e, SampledSkellam))
    return draws * SAMPLER_ERROR


def out_of_range(name: str, found: object, expected: str) -> ConfigError:
    """Return the error for a value that privacy accounting cannot use."""
    return ConfigError(f"privacy accounting cannot use this {name}", found=repr(found), expected=expected)


def _check_sampling_rate(sampling_rate: float) -> None:
    if not 0.0 < sampling_rate <= 1.0:
        raise out_of_range("sampling_rate", sampling_rate, "a probability above 0, at most 1")
