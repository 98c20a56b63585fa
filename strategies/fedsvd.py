"""fedsvd: ffa whose basis is turned after every round to the principal directions of the adapter (FedSVD).

    B̄ = B + Σ_k w_k ΔB_k / Σ_k w_k,   U S Vᵀ = SVD(B̄·A),   B ← U S,   A ← Vᵀ

A has orthonormal rows from the start, is fixed within a round and turned between rounds; the product does not change
when it turns. The SVD is never taken of a dense map: with A's rows orthonormal it is that of r by r matrices.

Bytes a round and a map: up 4 · r · out, down 4 · r · (in + out). A travels as bytes, from the first round on: the last
bits of a QR and the signs of an SVD differ between machines.
A sum suffices: with A fixed within the round the product is linear in B, so the mean of the products is the product of
the means.
Differential privacy: noise enters once, linearly, through orthonormal rows, so ‖noise·A‖ = ‖noise‖ in every map.
Turning the basis is post-processing of the released mean.

What the turning can and cannot do. The row space of B̄·A is that of A, so A only ever turns within the r directions of
its start: A_t = Q_t·A_0 with Q_t orthogonal, and the gradient by B is that of ffa times Q_tᵀ. Plain and momentum SGD
(the moment is carried over, see `carried`), joint clipping in L2 and isotropic Gaussian noise all commute with Q_t.
With them, B·A follows the trajectory of an ffa that started from the same orthonormal A, exactly but for rounding; a
test holds the two together. Two things differ: optimisers that scale each entry by itself, at the sites (Adam) or at
the coordinator (refused here, as a second moment by entry means nothing in another basis); and sites of lower rank,
which train the leading columns: here these are the principal directions of the adapter so far, under ffa random ones.

Reference: Lee et al. 2025, FedSVD (NeurIPS 2025, arXiv 2505.12805).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import BaseFactors, Maps, add_to_trainable, check_rank, kaiming_uniform, plain_lora
from yoriai.strategies.state_encoding import FloatArray

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]  # B (out, r), A (r, in)

# Of the largest singular value. B̄ is in float32: below this, a direction is rounding and no direction.
RANK_THRESHOLD = 1e-6
# On orthonormality, on the row space and on the product. Rounding to float32 takes A some 3e-8 out of the row space in
# each round, and these errors add up as a random walk does: 1e-5 is more than ten thousand rounds away.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class FedSVD:
    """The `fedsvd` rule."""

    name: ClassVar[str] = "fedsvd"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("A", "B")
    moving: ClassVar[tuple[str, ...]] = ("A", "B")
    server_optimizers: ClassVar[tuple[str, ...]] = ("none", "momentum")
    to_peft = staticmethod(plain_lora)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """B in every round."""
        return ("B",)

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """A with the row space of ffa's start and orthonormal rows, B zero; `base_factors` is not used.

        The one start whose last bits depend on the machine's matrix library: whoever begins a job sends it as bytes.

        Raises:
            AdapterError: the rank does not fit a map.
        """
        check_rank(maps, rank)
        tensors: dict[str, NDArray[np.floating]] = {}
        for path, (out_features, in_features) in maps.items():
            columns, upper = np.linalg.qr(kaiming_uniform(path, rank, in_features, seed).T)
            # A QR is unique once the diagonal of R is positive, which libraries do not agree on.
            tensors[f"{path}:A"] = (columns * np.where(np.diag(upper) < 0, -1.0, 1.0)).T
            tensors[f"{path}:B"] = np.zeros((out_features, rank))
        return AdapterState({name: tensor.astype(np.float32) for name, tensor in tensors.items()})

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """B plus its mean update, then both factors in the basis of the principal directions.

        A map keeps its A, and takes B̄ as it is, while B̄ has no r directions (a singular value of B̄·A below
        `RANK_THRESHOLD`), because the missing ones would be drawn from rounding.

        Raises:
            AdapterError: the update is not B alone, of the same shapes, the sum is not finite, or the product did not
                survive the change of basis.
        """
        moved = add_to_trainable(current, mean_update, self.trainable(round_index))
        moved.check_finite()
        tensors: dict[str, FloatArray] = {}
        for path in moved.module_paths():
            turned = _turned(path, moved.factor(path, "B"), moved.factor(path, "A"))
            tensors[f"{path}:B"], tensors[f"{path}:A"] = turned
        return AdapterState(tensors)

    def carried(self, moment: AdapterState, before: AdapterState, after: AdapterState) -> AdapterState:
        """M ← M·A_before·A_afterᵀ in each map: the same direction of the product, read in the new basis.

        Args:
            moment: of the B factors, (out, r) a map.
        """
        tensors: dict[str, NDArray[np.floating]] = {}
        for path in moment.module_paths():
            values, old, new = moment.factor(path, "B"), before.factor(path, "A"), after.factor(path, "A")
            # Where the basis stands, the moment keeps its bits: A·Aᵀ in float32 is the identity only nearly.
            stands = np.array_equal(old, new)
            tensors[f"{path}:B"] = values if stands else values @ (old.astype(np.float64) @ new.T.astype(np.float64))
        return AdapterState(tensors)

    def verify(self, offered: AdapterState, state: AdapterState) -> None:
        """A has orthonormal rows, within the row space of the offered A: the turning adds no direction to it.

        So a site knows, without the B̄ that it was turned by, that A is no worse a choice than the one it agreed to.

        Raises:
            AdapterError: A is not orthonormal, here or in the offer, has left the row space, or has another shape.
        """
        for path in state.module_paths():
            first, now = offered.factor(path, "A").astype(np.float64), state.factor(path, "A").astype(np.float64)
            if first.shape != now.shape:
                raise AdapterError(
                    f"tensor {path}:A has the wrong shape", found=str(now.shape), expected=str(first.shape)
                )
            for what, a in (("as offered", first), ("of this round", now)):
                _require_small(f"A {what} of the map {path} against orthonormal rows", a @ a.T - np.eye(len(a)))
            _require_small(f"A of the map {path} against the row space of the offer", now - (now @ first.T) @ first)


def _turned(path: str, b: FloatArray, a: FloatArray) -> tuple[FloatArray, FloatArray]:
    """B (out, r) and A (r, in) of the same product, with A the right singular vectors; as they are if B·A lacks rank.

    With L·Lᵀ = A·Aᵀ the rows of L⁻¹A are orthonormal, and B·A = (B·L)(L⁻¹A). The eigenvectors V of (B·L)ᵀ(B·L) are the
    right singular vectors of B·L, and (B·L·V)(VᵀL⁻¹A) is the product in its principal directions. All LAPACK work is
    on r by r matrices: a QR of B and A costs the same on paper, and with several threads a hundred times as much, since
    its many small steps wait for each other. Squaring loses singular values below 1e-8 of the largest, which lack rank
    anyway; V is orthogonal whatever they are. Signs: the entry of the largest size in each row of A is positive.
    """
    b64, a64 = b.astype(np.float64), a.astype(np.float64)
    lower = np.linalg.cholesky(a64 @ a64.T)  # (r, r)
    left = b64 @ lower  # (out, r)
    squares, vectors = np.linalg.eigh(left.T @ left)  # Ascending.
    if squares[0] <= RANK_THRESHOLD**2 * squares[-1]:
        return b, a
    v_t = vectors[:, ::-1].T  # (r, r)
    rows = v_t @ np.linalg.inv(lower) @ a64  # (r, in)
    peaks = np.take_along_axis(rows, np.argmax(np.abs(rows), axis=1)[:, None], axis=1)  # (r, 1)
    signs = np.where(peaks < 0, -1.0, 1.0)
    new_b = (left @ (signs * v_t).T).astype(np.float32)
    new_a = (signs * rows).astype(np.float32)
    distance = _relative_distance((new_b.astype(np.float64), new_a.astype(np.float64)), (b64, a64))
    if not distance <= TOLERANCE:
        raise AdapterError(
            f"the product of the map {path} did not survive the change of basis",
            found=f"a relative distance of {distance:.1e}",
            expected=f"at most {TOLERANCE:.0e}",
            remedy="look at the matrix library that numpy was built with, or take the rule ffa",
        )
    return new_b, new_a


def _relative_distance(one: Pair, other: Pair) -> float:
    """‖B₁A₁ − B₂A₂‖ / ‖B₂A₂‖ in Frobenius norm from r by r matrices alone: ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂ ∘ A₁A₂ᵀ).

    In float64 the difference of squares resolves some 1e-8.
    """

    def inner(x: Pair, y: Pair) -> float:
        return float(np.sum((x[0].T @ y[0]) * (x[1] @ y[1].T)))

    size = inner(other, other)
    return float(np.sqrt(max(inner(one, one) - 2.0 * inner(one, other) + size, 0.0) / size))


def _require_small(what: str, error: NDArray[np.float64]) -> None:
    """Raises AdapterError unless every row's norm is within TOLERANCE; a NaN is not."""
    largest = float(np.sqrt(np.max(np.sum(error**2, axis=1))))
    if not largest <= TOLERANCE:
        raise AdapterError(what, found=f"an error of {largest:.1e}", expected=f"at most {TOLERANCE:.0e}")
