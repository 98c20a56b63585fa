"""What the rules share: the checks on the maps they adapt, the public start of A, and the plain way to combine."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState, add_scaled

Maps = Mapping[str, tuple[int, int]]  # module path -> (out, in)
BaseFactors = Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]]  # module path -> (out, r), (r, in)

# Where each factor's axes lie: those that count directions of the low-rank product, and the one that runs over the
# features of the map. W is the dense remainder (out, in) of the rules whose product outgrows the rank.
RANK_AXES: Mapping[str, tuple[int, ...]] = {"A": (0,), "B": (1,), "R": (0, 1)}
FEATURE_AXIS: Mapping[str, int] = {"A": 1, "B": 0}

_UNIT_BITS = 24  # As many as a float32 mantissa holds, so that a draw is exact in float32 and in float64.


def check_rank(maps: Maps, rank: int) -> None:
    """Raises AdapterError when there is no map, or the rank is below 1 or above what one of the maps has."""
    if not maps:
        raise AdapterError("no linear map to adapt", expected="at least one", remedy="widen lora.target_modules")
    for path in sorted(maps):
        largest = min(maps[path])
        if not 1 <= rank <= largest:
            out_features, in_features = maps[path]
            raise AdapterError(
                f"rank {rank} does not fit the map {path} of {out_features} by {in_features}",
                expected=f"a rank from 1 to {largest}",
                remedy="change lora.rank, or leave the map out of lora.target_modules",
            )


def kaiming_uniform(path: str, rank: int, in_features: int, seed: int) -> NDArray[np.float64]:
    """PEFT's start of A, from a public seed: uniform in ±1/sqrt(in), which is Kaiming's bound with a = sqrt(5).

    The same bits on every machine and under every numpy: only the raw stream of the Philox generator is used, which
    numpy keeps stable, while it may change how a Generator makes floats from it. Each map has a stream of its own,
    keyed by seed and path, so that adapting one map more leaves the others as they were. The seed is public: these
    are never noise.

    Returns:
        (rank, in_features), float64.
    """
    key = hashlib.sha256(f"yoriai-initial-A-1\n{seed}\n{path}".encode()).digest()[:16]
    stream = np.random.Philox(key=int.from_bytes(key, "little"))
    raw = stream.random_raw(rank * in_features)  # uint64; the high bits become a number in [0, 1)
    unit = (raw >> np.uint64(64 - _UNIT_BITS)).astype(np.float64) * 2.0**-_UNIT_BITS
    matrix: NDArray[np.float64] = ((2.0 * unit - 1.0) / math.sqrt(in_features)).reshape(rank, in_features)
    return matrix


def lora_start(maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
    """A Kaiming-uniform from the public seed, B zero, as PEFT starts: the base model itself; `base_factors` is unused.

    Raises:
        AdapterError: the rank does not fit a map.
    """
    check_rank(maps, rank)
    tensors: dict[str, NDArray[np.floating]] = {}
    for path, (out_features, in_features) in maps.items():
        tensors[f"{path}:A"] = kaiming_uniform(path, rank, in_features, seed)
        tensors[f"{path}:B"] = np.zeros((out_features, rank), np.float32)
    return AdapterState({name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def as_it_was(moment: AdapterState, before: AdapterState, after: AdapterState) -> AdapterState:
    """The moment itself: the entries of the trained factors keep their meaning, whatever else moves."""
    return moment


def any_values(offered: AdapterState, state: AdapterState) -> None:
    """Whatever a factor that moves holds, rounds can lead there; what stands still is never sent again."""


def plain_lora(state: AdapterState) -> AdapterState:
    """A and B as they are."""
    return state.select(("A", "B"))


def add_to_trainable(current: AdapterState, mean_update: AdapterState, factors: tuple[str, ...]) -> AdapterState:
    """current + mean_update on the trainable factors; the others stay, bit for bit.

    Raises:
        AdapterError: the update has a tensor that is not trainable, lacks one that is, or differs in shape.
    """
    return current.merged_with(add_scaled(current.select(factors), mean_update, 1.0))
