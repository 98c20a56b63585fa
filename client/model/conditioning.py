"""Public conditioning: states of public texts say how a base's states are spread, before any record is looked at.

    z = (x − m) / s,   C = Σ z zᵀ / n = V diag(λ) Vᵀ,   f(x) = D (x − m),   D = diag(1 / √(λ_q + ρ λ̄)) V_qᵀ diag(1 / s)

with the mean m and the scale s of each entry, the q largest eigenvalues λ_q, their mean λ̄ over all, and a ridge ρ. In
f(x) the directions along which public texts differ count about alike, so that a softmax head reaches its optimum in few
steps of plain gradient descent, and under privacy each step costs. Nothing here comes from a record: it costs no
privacy. Whitening before a private linear model is the idea of AdaDPS (Li et al. 2022, arXiv 2202.05963).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import ConfigError

RIDGE: Final = 1.0
# An entry that public texts hardly move is not blown up to the size of the others.
_LEAST_SCALE: Final = 1e-3
_TINY: Final = float(np.finfo(np.float32).tiny)


def conditioning(states: NDArray[np.floating], directions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean m (1, H) and the map D (directions, H) of the formula above, from public states (n, H).

    Raises:
        ConfigError: there are fewer public texts, or fewer entries, than directions.
    """
    count, width = states.shape
    if directions > min(count - 1, width):
        raise ConfigError(
            "head.directions is above what can be found",
            found=f"{directions} directions in states of {width} entries of {count} public texts",
            expected=f"at most {min(count - 1, width)}",
            remedy="lower it" if width < count else "lower it, or give more public texts",
        )
    values = states.astype(np.float64)
    mean = values.mean(0)
    spread = values.std(0)
    scale = spread + _LEAST_SCALE * float(np.sqrt((spread**2).mean())) + _TINY
    z = (values - mean) / scale
    eigenvalues, vectors = np.linalg.eigh(z.T @ z / count)
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    kept = np.maximum(eigenvalues[:directions], 0.0) + RIDGE * max(float(eigenvalues.mean()), _TINY)
    onto = (vectors[:, :directions] / np.sqrt(kept)).T / scale
    return mean[None].astype(np.float32), onto.astype(np.float32)
