"""What flora and fedex share: a dense remainder W (out, in) beside the factors, for the part that they cannot hold.

W' = W_base + (alpha/r) · (W + B·A)
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState, add_scaled
from yoriai.strategies.factors import BaseFactors, Maps, lora_start
from yoriai.strategies.state_encoding import FloatArray

Updates = Mapping[str, tuple[float, AdapterState]]  # site -> weight, update
Term = tuple[float, FloatArray, FloatArray]  # scale, B (out, r), A (r, in)

FACTORS = ("A", "B", "W")
TRAINED = ("A", "B")

# Of the largest singular value: half a unit in the last place of a float32. What is below is W's own rounding.
FLOAT32_NOISE = 2.0**-24

_ROWS = 64


def dense_start(maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
    """A Kaiming-uniform from the public seed, B and W zero; `base_factors` is not used.

    Raises:
        AdapterError: the rank does not fit a map.
    """
    start = lora_start(maps, rank, seed)
    return AdapterState({**start.tensors, **{f"{path}:W": np.zeros(shape, np.float32) for path, shape in maps.items()}})


def site_adapters(current: AdapterState, updates: Updates) -> list[tuple[float, AdapterState]]:
    """Each site's share of the mean and its own A and B after training, in the order of the sites' names.

    A site of weight zero is checked and then left out.

    Raises:
        AdapterError: no updates, a weight that is negative or not finite, all weights zero, or names or shapes that
            are not those of A and B.
    """
    if not updates:
        raise AdapterError("a mean over sites has no updates", expected="at least one site")
    for site, (weight, _) in updates.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise AdapterError(f"the weight of site {site}", found=str(weight), expected="finite, and 0 or more")
    total = math.fsum(weight for weight, _ in updates.values())
    if total == 0:
        raise AdapterError("all weights of a mean are zero", expected="at least one positive weight")
    before = current.select(TRAINED)
    adapters = [(updates[site][0] / total, add_scaled(before, updates[site][1], 1.0)) for site in sorted(updates)]
    return [(share, adapter) for share, adapter in adapters if share > 0]


def add_products(dense: FloatArray, terms: Iterable[Term]) -> FloatArray:
    """W + Σ scale · B·A over the terms: (out, in), in float64 and rounded once, read-only.

    The factors are stacked, so that the sum over the terms is one product of matrices; it is taken some rows at a time,
    which keeps the float64 copy of W in the processor's cache.
    """
    scales, lefts, rights = zip(*terms, strict=True)
    left = np.concatenate([scale * b.astype(np.float64) for scale, b in zip(scales, lefts, strict=True)], axis=1)
    right = np.concatenate(rights, axis=0).astype(np.float64)
    result = np.empty(dense.shape, np.float32)
    for start in range(0, len(dense), _ROWS):
        rows = slice(start, start + _ROWS)
        block = left[rows] @ right
        block += dense[rows]
        result[rows] = block
    result.flags.writeable = False  # The state then takes it without a copy.
    return result


def factored(state: AdapterState) -> AdapterState:
    """A (R, in) and B (out, R) of W + B·A by an SVD in float64, R what each map needs; as they are where W is zero.

    Every direction above float32 noise is kept. A dense SVD a map, for the export alone.
    """
    tensors: dict[str, NDArray[np.floating]] = {}
    for path in state.module_paths():
        if not state.factor(path, "W").any():
            tensors[f"{path}:A"], tensors[f"{path}:B"] = state.factor(path, "A"), state.factor(path, "B")
            continue
        u, singular, v_t = np.linalg.svd(state.product(path), full_matrices=False)
        kept = max(1, int(np.count_nonzero(singular > FLOAT32_NOISE * singular[0])))
        roots = np.sqrt(singular[:kept])  # Half to each side, so that neither is out of float32's range.
        tensors[f"{path}:A"] = roots[:, None] * v_t[:kept]
        tensors[f"{path}:B"] = u[:, :kept] * roots
    return AdapterState(tensors)
