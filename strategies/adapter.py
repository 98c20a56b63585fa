"""An adapter as a value: named float32 factors that never change, their digest, their bytes, their arithmetic.

A tensor is called "<module path>:<factor>", for instance "model.layers.22.self_attn.q_proj:A". The factors of one map,
with r the rank: A (r, in), B (out, r), for the `core` rule U (out, r) and R (r, r), for `flora` and `fedex` a dense
W (out, in). Everything that goes over all tensors goes in sorted order of their names, so that two machines agree on
positions without talking about them.
"""

import hashlib
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.state_encoding import FloatArray, decode, encode

FORMAT = "yoriai-adapter"
VERSION = "1"

_NAME = re.compile(r"[A-Za-z0-9_.\-]+:[A-Z][A-Za-z0-9_]*")


@dataclass(frozen=True, eq=False, repr=False)
class AdapterState:
    """Immutable named matrices; the tensors given are copied, cast to float32 and made read-only.

    A state may hold any part of an adapter: an update holds just the factors that were trained.

    Raises:
        AdapterError: no tensors, a malformed name, or a tensor that is not a non-empty matrix of floats.
    """

    tensors: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        if not self.tensors:
            raise AdapterError("an adapter state holds no tensors", expected="at least one")
        frozen = {name: _frozen(name, self.tensors[name]) for name in sorted(self.tensors)}
        object.__setattr__(self, "tensors", MappingProxyType(frozen))

    def __eq__(self, other: object) -> bool:
        """Bit for bit: two NaNs of the same bits are equal, 0.0 and -0.0 are not."""
        if not isinstance(other, AdapterState):
            return NotImplemented
        own, others = self.tensors, other.tensors
        if own.keys() == others.keys() and all(own[name] is others[name] for name in own):
            return True  # Read-only arrays, which parts and unions of a state share.
        return self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        """Without values: a state may be an update, and a repr may end in a log."""
        return f"AdapterState({len(self.tensors)} tensors, {self.size_bytes} bytes)"

    def __reduce__(self) -> tuple[type["AdapterState"], tuple[dict[str, FloatArray]]]:
        """Copy by the tensors: a mapping proxy cannot be copied across processes by itself."""
        return (type(self), (dict(self.tensors),))

    @property
    def n_params(self) -> int:
        """Entries of all factors together."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors alone, as they travel uncompressed: four a parameter."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def norm(self) -> float:
        """L2 norm over all tensors together, in float64."""
        return l2_norm(self.tensors.values())

    def module_paths(self) -> tuple[str, ...]:
        """Sorted paths of the linear maps that this state has a factor of."""
        return tuple(sorted({name.partition(":")[0] for name in self.tensors}))

    def factors(self) -> tuple[str, ...]:
        """Sorted factors that occur in this state, such as ("A", "B")."""
        return tuple(sorted({name.partition(":")[2] for name in self.tensors}))

    def factor(self, path: str, factor: str) -> FloatArray:
        """One read-only matrix. Raises AdapterError when the state lacks it."""
        name = tensor_name(path, factor)
        if name not in self.tensors:
            raise AdapterError(f"tensor {name} is missing", found=f"factors {', '.join(self.factors())}")
        return self.tensors[name]

    def select(self, factors: Iterable[str]) -> Self:
        """The part of the state that consists of these factors, over all maps; AdapterError when one is in no map."""
        wanted = frozenset(factors)
        if missing := wanted - set(self.factors()):
            raise AdapterError(
                f"the adapter has no factor {', '.join(sorted(missing))}", found=f"factors {', '.join(self.factors())}"
            )
        return type(self)({name: t for name, t in self.tensors.items() if name.partition(":")[2] in wanted})

    def merged_with(self, other: "AdapterState") -> Self:
        """The union of both; where both have a tensor, `other`'s is taken and must have the same shape."""
        for name in self.tensors.keys() & other.tensors.keys():
            _require_shape(name, other.tensors[name], self.tensors[name].shape)
        return type(self)({**self.tensors, **other.tensors})

    def flatten(self) -> FloatArray:
        """All parameters as one new (n,) float32 vector: sorted names, each matrix row by row."""
        return np.concatenate([tensor.ravel() for tensor in self.tensors.values()])

    def unflatten(self, vector: ArrayLike) -> Self:
        """Inverse of `flatten`: a state with this one's names and shapes and the (n,) vector's values, as float32.

        Raises:
            AdapterError: the vector is not one-dimensional, or not of n entries.
        """
        values = np.asarray(vector)
        count = sum(tensor.size for tensor in self.tensors.values())
        if values.shape != (count,):
            raise AdapterError("a flat adapter has the wrong shape", found=str(values.shape), expected=str((count,)))
        parts, start = {}, 0
        for name, tensor in self.tensors.items():
            parts[name] = values[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size
        return type(self)(parts)

    def digest(self) -> str:
        """Hex SHA-256 of a canonical encoding: name, dtype, shape and little-endian bytes of each tensor, by name.

        Every field of varying length is preceded by its length, so no two states share an encoding.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(f"{FORMAT}-digest-{VERSION}\n".encode())
        sha.update(struct.pack("<Q", len(self.tensors)))
        for name, tensor in self.tensors.items():
            for text in (name.encode(), b"<f4"):
                sha.update(struct.pack("<Q", len(text)) + text)
            sha.update(struct.pack(f"<Q{tensor.ndim}Q", tensor.ndim, *tensor.shape))
            sha.update(tensor.astype("<f4", copy=False).tobytes())
        return sha.hexdigest()

    def to_bytes(self) -> bytes:
        """A safetensors file with format "yoriai-adapter", version "1" as metadata; equal states give equal bytes."""
        return encode(self.tensors, {"format": FORMAT, "version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`, exact to the bit. Raises AdapterError on anything else."""
        tensors, _ = decode(data, format_name=FORMAT, version=VERSION)
        return cls(tensors)

    def check_finite(self) -> None:
        """Raises AdapterError naming the first tensor that holds a NaN or an infinity."""
        for name, tensor in self.tensors.items():
            if not np.isfinite(tensor).all():
                raise AdapterError(f"tensor {name} holds values that are not finite", expected="finite values")

    def product(self, path: str) -> NDArray[np.float64]:
        """What the factors of one map add to its weight before the scale alpha/r: B·A, U·R·A or W + B·A.

        (out, in), float64.

        Raises:
            AdapterError: factors are missing or their shapes do not fit.
        """
        left = ("U", "R") if tensor_name(path, "R") in self.tensors else ("B",)
        matrices = [self.factor(path, factor).astype(np.float64) for factor in (*left, "A")]
        result = matrices[0]
        for matrix in matrices[1:]:
            if result.shape[1] != matrix.shape[0]:
                shapes = " and ".join(str(m.shape) for m in matrices)
                raise AdapterError(f"the factors of {path} do not fit", found=shapes, expected="equal inner dimensions")
            result = result @ matrix
        if (name := tensor_name(path, "W")) in self.tensors:
            _require_shape(name, self.tensors[name], result.shape)
            result += self.tensors[name]
        return result


def l2_norm(tensors: Iterable[np.ndarray]) -> float:
    """L2 norm over all tensors together, in float64.

    Not by BLAS: its threads would be woken for a moment's work, and wait in busy loops for more.
    """
    return math.sqrt(math.fsum(float(np.sum(np.square(tensor, dtype=np.float64))) for tensor in tensors))


def tensor_name(path: str, factor: str) -> str:
    """The one place that knows how names are put together."""
    return f"{path}:{factor}"


def zeros_like(state: AdapterState) -> AdapterState:
    """A state of the same names and shapes, all zero."""
    return AdapterState({name: np.zeros_like(tensor) for name, tensor in state.tensors.items()})


def scaled(state: AdapterState, scale: float) -> AdapterState:
    """scale · state, computed in float64 and rounded once."""
    _require_finite(scale, "a scale")
    return elementwise(lambda x: scale * x, state)


def add_scaled(a: AdapterState, b: AdapterState, scale: float) -> AdapterState:
    """a + scale · b, computed in float64 and rounded once.

    Raises:
        AdapterError: names or shapes differ (the first such tensor is named), or the scale is not finite.
    """
    _require_finite(scale, "a scale")
    return elementwise(lambda x, y: x + scale * y, a, b)


def difference(a: AdapterState, b: AdapterState) -> AdapterState:
    """a − b, rounded once. Raises AdapterError where names or shapes differ."""
    return elementwise(np.subtract, a, b)


def weighted_mean(updates: Mapping[str, tuple[float, AdapterState]]) -> AdapterState:
    """Σ weight · state / Σ weight over sites: added in float64, in sorted order of the sites' names, rounded once.

    Bit-for-bit reproducible: the order of the mapping does not matter, and each entry is made by elementwise IEEE
    products and sums in a fixed order, without a reduction whose order a library or a processor could choose. The mean
    of equal states is that state.

    Raises:
        AdapterError: no updates, a negative or non-finite weight, all weights zero, or names or shapes that differ
            between sites.
    """
    if not updates:
        raise AdapterError("a sum over sites has no updates", expected="at least one site")
    sites = sorted(updates)
    first = updates[sites[0]][1]
    sums = {name: np.zeros(tensor.shape, np.float64) for name, tensor in first.tensors.items()}
    for site in sites:
        weight, state = updates[site]
        _require_finite(weight, f"the weight of site {site}")
        if weight < 0:
            raise AdapterError(f"the weight of site {site} is negative", found=str(weight), expected="0 or more")
        _require_same_layout(first, state)
        for name, tensor in state.tensors.items():
            sums[name] += weight * tensor.astype(np.float64)
    total = sum(updates[site][0] for site in sites)
    if total == 0:
        raise AdapterError("all weights of a mean are zero", expected="at least one positive weight")
    return _rounded({name: values / total for name, values in sums.items()})


def elementwise(
    operation: Callable[..., NDArray[np.float64]], first: AdapterState, *others: AdapterState
) -> AdapterState:
    """Apply a function of float64 arrays to each tensor of states with the same names and shapes; rounded once.

    Raises:
        AdapterError: names or shapes differ; the first such tensor is named.
    """
    for other in others:
        _require_same_layout(first, other)
    return _rounded(
        {
            name: operation(*(state.tensors[name].astype(np.float64) for state in (first, *others)))
            for name in first.tensors
        }
    )


def _rounded(tensors: Mapping[str, NDArray[np.float64]]) -> AdapterState:
    return AdapterState({name: _to_float32(values) for name, values in tensors.items()})


def _frozen(name: str, tensor: ArrayLike) -> FloatArray:
    if not _NAME.fullmatch(name):
        raise AdapterError(
            "a tensor's name is malformed",
            found=name[:200],
            expected='"<module path>:<factor>", such as "layers.0.q:A"',
        )
    array = np.asarray(tensor)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind != "f":
        raise AdapterError(
            f"tensor {name}", found=f"{array.dtype} of shape {array.shape}", expected="a non-empty matrix of floats"
        )
    # A read-only array that owns its memory cannot change under us, so slices of states share it without a copy.
    if array.base is None and not array.flags.writeable and array.flags.c_contiguous and array.dtype == np.float32:
        return array
    return _to_float32(array)


def _to_float32(values: NDArray[np.floating]) -> FloatArray:
    """A read-only C-contiguous copy in native byte order; what overflows becomes infinite, see `check_finite`."""
    with np.errstate(over="ignore"):
        copied = np.array(values, dtype=np.float32, order="C", copy=True)
    copied.flags.writeable = False
    return copied


def _require_same_layout(a: AdapterState, b: AdapterState) -> None:
    if odd := sorted(a.tensors.keys() ^ b.tensors.keys()):
        raise AdapterError(f"tensor {odd[0]} is in one adapter state and not in the other", expected="the same names")
    for name, tensor in a.tensors.items():
        _require_shape(name, b.tensors[name], tensor.shape)


def _require_shape(name: str, tensor: FloatArray, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise AdapterError(f"tensor {name} has the wrong shape", found=str(tensor.shape), expected=str(shape))


def _require_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise AdapterError(f"{what} is not finite", found=str(value), expected="a finite number")
