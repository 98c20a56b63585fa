"""What an adapter must be on a base: its factors, and how large. What a hostile job would use alone is refused.

An adapter comes from the coordinator. One that dwarfs the base makes activations and gradients so large that rounding
errors are of their size. Nothing of the guarantee rests on that (see `yoriai.client.base.pieces`); it takes away the
tool. The check looks at public values alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import torch
from torch import nn

from yoriai.config import LoraSection
from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState, l2_norm, tensor_name
from yoriai.strategies.factors import Maps

LARGEST_SHARE: Final = 100.0
"""Frobenius norm of what a map gets added, at most, in those of the largest adapted one. Trained ones stay below 1."""
LARGEST_FACTOR: Final = 1e6
"""Frobenius norm of one factor, at most."""


def check_state(
    state: AdapterState, maps: Maps, weights: Mapping[str, float], lora: LoraSection, factors: Iterable[str]
) -> None:
    """Raise AdapterError unless the state is what a model with these maps takes: its factors, finite, in proportion.

    Args:
        weights: as `check_magnitude`.
        factors: the rule's.
    """
    check_shapes(state, maps, lora.rank, factors)
    check_magnitude(state, weights, lora.alpha / lora.rank)


def check_shapes(state: AdapterState, maps: Maps, rank: int, factors: Iterable[str]) -> None:
    """Raise AdapterError unless the state holds the factors of each map, of their shapes, and is finite."""
    expected = {}
    for path, (out, into) in maps.items():
        of = {"A": (rank, into), "B": (out, rank), "R": (rank, rank), "U": (out, rank), "W": (out, into)}
        expected.update({tensor_name(path, factor): of[factor] for factor in factors})
    check_layout(state, expected)


def check_layout(state: AdapterState, expected: Mapping[str, tuple[int, int]]) -> None:
    """Raise AdapterError unless the state holds these tensors, of these shapes, and is finite."""
    if {name: tensor.shape for name, tensor in state.tensors.items()} != expected:
        raise AdapterError(
            "the adapter's factors are not those of this base and job",
            remedy="compare the settings of rule, lora and head",
        )
    state.check_finite()


def weight_norms(model: nn.Module, paths: Iterable[str]) -> dict[str, float]:
    """Frobenius norm of the weight of each of these linear maps."""
    weights = ((path, model.get_submodule(path).weight) for path in paths)
    return {path: float(torch.linalg.matrix_norm(weight.float())) for path, weight in weights}


def check_magnitude(state: AdapterState, weights: Mapping[str, float], scale: float) -> None:
    """Raise AdapterError if a factor, or what a map gets added, is out of all proportion.

    Args:
        state: finite factors, of the shapes that the maps need.
        weights: Frobenius norm of each adapted map's own weight, by path.
        scale: alpha / rank.
    """
    check_factors(state)
    largest = max(weights.values())
    for path in weights:
        added = scale * _added(state, path)
        if not added <= LARGEST_SHARE * largest:
            raise AdapterError(
                f"what the adapter adds to {path} is too large",
                found=f"a norm of {added:.3g}",
                expected=f"at most {LARGEST_SHARE * largest:.3g}, {LARGEST_SHARE:g} times that of the base's largest",
                remedy="lower lora.alpha or the learning rates",
            )


def check_factors(state: AdapterState) -> None:
    """Raise AdapterError if one of these finite factors is out of all proportion."""
    for name, tensor in state.tensors.items():
        if l2_norm([tensor]) > LARGEST_FACTOR:
            raise AdapterError(
                f"factor {name} is too large",
                found=f"a norm of {l2_norm([tensor]):.3g}",
                expected=f"at most {LARGEST_FACTOR:g}",
            )


def _added(state: AdapterState, path: str) -> float:
    """Frobenius norm of a map's product, or an upper bound on it, without making a matrix of the map's size."""
    own = {name.rsplit(":", 1)[1]: tensor for name, tensor in state.tensors.items() if name.rsplit(":", 1)[0] == path}
    left = own["U"].astype(np.float64) @ own["R"] if "R" in own else own["B"].astype(np.float64)
    right = own["A"].astype(np.float64)
    # |BA|^2 is the trace of (B'B)(AA').
    product = float(np.sqrt(max(0.0, np.sum((left.T @ left) * (right @ right.T)))))
    return product + (l2_norm([own["W"]]) if "W" in own else 0.0)


def within_bounds(start: AdapterState, far: AdapterState, check: Callable[[AdapterState], None]) -> AdapterState:
    """The state furthest from `start` towards `far`, by halves, that passes the check: what a hostile job would send.

    Args:
        check: raises AdapterError for what is too large, and not for `start`.
    """
    state = far
    while True:
        try:
            check(state)
        except AdapterError:
            state = AdapterState(
                {n: (t + (state.tensors[n] - t) / np.float32(2)).astype(np.float32) for n, t in start.tensors.items()}
            )
        else:
            return state
