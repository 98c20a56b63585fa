"""core: an r by r core between fixed factors of the base weight (LoRA-XS; federated and private as in Fed-SB).

    W = U S Vᵀ,   W' = W + (alpha/r) · (U_r S_r) · R · V_rᵀ,   R ← R + Σ_k w_k ΔR_k / Σ_k w_k

Factors: A = V_rᵀ (r, in) and U = U_r S_r (out, r), fixed; R (r, r), zero at first, trained. U carries the singular
values, so an entry of R is read relative to the base weight: R = c·I with alpha = r raises the top r directions by the
share c, in every map alike, and one learning rate fits small and large maps. The rank-r factors are computed once, by a
machine that has the base, and sent as bytes: an SVD is unique only up to signs, so sites that each took their own
would average R in different bases. Instead of the weight's they may be those of public texts, with the same shapes and
about the same sizes (`yoriai.client.model.public_factors`).

Bytes a round, each way and a map: 4 · r², whatever the size of the map.
A sum suffices: with U and A fixed the product is linear in R, so the mean of the products is the product of the means.
Differential privacy: the noise has r² entries a map in place of r·(in + out), so its norm falls with the square root of
that ratio at the same clip_norm. It enters once, linearly. Through U it reaches W' weighted by the singular values.

References: Bałazy et al. 2024, LoRA-XS (arXiv 2405.17604); Singhal et al. 2025, Fed-SB (arXiv 2502.15436).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import BaseFactors, Maps, add_to_trainable, any_values, as_it_was, check_rank
from yoriai.strategies.server_opt import OF_ADAPTERS


@dataclass(frozen=True)
class Core:
    """The `core` rule."""

    name: ClassVar[str] = "core"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("A", "R", "U")
    moving: ClassVar[tuple[str, ...]] = ("R",)
    server_optimizers: ClassVar[tuple[str, ...]] = OF_ADAPTERS
    carried = staticmethod(as_it_was)
    verify = staticmethod(any_values)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """R in every round."""
        return ("R",)

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """U and A from `base_factors`, R zero; the seed is not used.

        Args:
            base_factors: module path -> (U (out, r), A (r, in)): U_r S_r and V_rᵀ of the base weight, or those of
                public texts.

        Raises:
            AdapterError: no base factors, a map without them or of other shapes, values not finite, or a rank that
                does not fit a map.
        """
        check_rank(maps, rank)
        if base_factors is None:
            raise AdapterError(
                "the core rule starts from factors of the base model, and none were given",
                expected="base_factors for every map",
                remedy="compute them from the base weights when the job is submitted",
            )
        tensors: dict[str, NDArray[np.floating]] = {}
        for path, (out_features, in_features) in maps.items():
            if path not in base_factors:
                raise AdapterError(f"the map {path} has no base factors", expected="one pair for every map")
            u_s, v_t = base_factors[path]
            for what, factor, shape in (("U_S", u_s, (out_features, rank)), ("V_T", v_t, (rank, in_features))):
                if factor.shape != shape:
                    raise AdapterError(f"base factor {what} of {path}", found=str(factor.shape), expected=str(shape))
            tensors[f"{path}:A"], tensors[f"{path}:U"] = v_t, u_s
            tensors[f"{path}:R"] = np.zeros((rank, rank), np.float32)
        state = AdapterState({name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()})
        state.check_finite()
        return state

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """R + mean update; U and A stay. Raises AdapterError unless the update is R alone, of the same shapes."""
        return add_to_trainable(current, mean_update, self.trainable(round_index))

    def to_peft(self, state: AdapterState) -> AdapterState:
        """A as it is, B = U · R, under the same alpha and rank.

        The product's last bits depend on the machine's matrix library: compare versions by the digest of the core
        state, not of this export.
        """
        tensors = {}
        for path in state.module_paths():
            u, r = (state.factor(path, factor).astype(np.float64) for factor in ("U", "R"))
            tensors[f"{path}:A"] = state.factor(path, "A")
            tensors[f"{path}:B"] = (u @ r).astype(np.float32)  # (out, r)
        return AdapterState(tensors)
