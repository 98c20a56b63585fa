"""Events: nonsense is refused, JSON gives back what was written."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoriai.errors import ConfigError
from yoriai.privacy.dp.events import SampledGaussian, SampledSkellam, event_from_dict, event_to_dict

SKELLAM = SampledSkellam(0.12, variance=100, squared_l2=100, l1=40, coordinates=50, draws=4)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan])
def test_a_sampling_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="sampling_rate"):
        SampledGaussian(rate, 1.0)


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_a_noise_multiplier_that_is_no_noise_is_refused(noise: float) -> None:
    with pytest.raises(ConfigError, match="noise_multiplier"):
        SampledGaussian(0.1, noise)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_that_are_no_count_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match="steps"):
        SampledGaussian(0.1, 1.0, steps)


@given(
    st.floats(min_value=1e-9, max_value=1.0),
    st.floats(min_value=1e-3, max_value=1e6),
    st.integers(min_value=1, max_value=10**9),
)
def test_an_event_survives_json_unchanged(rate: float, noise: float, steps: int) -> None:
    event = SampledGaussian(rate, noise, steps)
    assert event_from_dict(json.loads(json.dumps(event_to_dict(event)))) == event


@pytest.mark.parametrize(
    "change",
    [{"kind": "laplace"}, {"extra": 1}, {"steps": None}, {"sampling_rate": "0.1"}, {"noise_multiplier": True}],
)
def test_a_malformed_event_is_refused(change: dict[str, object]) -> None:
    values = {**event_to_dict(SampledGaussian(0.1, 1.0)), **change}
    with pytest.raises(ConfigError):
        event_from_dict(values)


@given(
    st.floats(min_value=1e-9, max_value=1.0),
    st.tuples(*[st.integers(min_value=1, max_value=2**100)] * 6).filter(lambda v: v[2] <= v[1]),
)
def test_a_skellam_event_survives_json_unchanged(rate: float, values: tuple[int, int, int, int, int, int]) -> None:
    event = SampledSkellam(rate, *values)
    assert event_from_dict(json.loads(json.dumps(event_to_dict(event)))) == event


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sampled_gaussian"},
        {"kind": ["sampled_skellam"]},
        {"noise_multiplier": 1.0},
        {"sampling_rate": True},
        {"variance": 100.0},
        {"l1": "5"},
        {"draws": None},
        {"steps": True},
    ],
)
def test_a_malformed_skellam_event_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        event_from_dict({**event_to_dict(SKELLAM), **change})


@pytest.mark.parametrize("name", ["variance", "squared_l2", "l1", "coordinates", "draws", "steps"])
@pytest.mark.parametrize("found", [0, -1, 1.5, True, 2**100 + 1])
def test_a_skellam_event_whose_whole_numbers_are_none_is_refused(name: str, found: int) -> None:
    with pytest.raises(ConfigError, match=f"this {name};"):
        replace(SKELLAM, **{name: found})


def test_an_l1_bound_that_integers_cannot_reach_is_refused() -> None:
    assert replace(SKELLAM, l1=SKELLAM.squared_l2)
    with pytest.raises(ConfigError, match="l1"):
        replace(SKELLAM, l1=SKELLAM.squared_l2 + 1)
