"""The low-pass option: a site's noised gradient, smoothed along the features of each map.

    y_i = (x_{i−2} + 4 x_{i−1} + 6 x_i + 4 x_{i+1} + x_{i+2}) / 16

along the `in` features of A and the `out` features of B; the directions of the rank have no order, and stay apart. The
filter passes a wave of angular frequency w by the share cos⁴(w/2): slow variation stays, the fastest vanishes. White
noise keeps 70/256 of its variance.

Beyond an edge the values are mirrored about the last one (x_{−1} = x_1). That leaves a constant constant, and it
continues a wave of the highest frequency, so that this one vanishes up to the edges, which repeating the last value
would not do. An axis of one feature stays as it is.

Post-processing of a gradient that is already private: no cost to the privacy budget, if it comes after the noise.
Reference: LA-LoRA (ICLR 2026), its low-pass filter of noised gradients.
"""

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.factors import FEATURE_AXIS

_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_REACH = len(_TAPS) // 2


def lowpass(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tensor of that name, smoothed along its features.

    Args:
        name: as in an AdapterState, such as "layers.0.q:A".
        values: A (r, in) or B (out, r).

    Returns:
        A new array of the same shape.

    Raises:
        AdapterError: the factor has no feature axis, or the values are not a non-empty matrix.
    """
    factor = name.partition(":")[2]
    if factor not in FEATURE_AXIS:
        raise AdapterError(
            f"tensor {name} has no axis of features to smooth along",
            found=f"factor {factor}",
            expected=f"one of {', '.join(sorted(FEATURE_AXIS))}",
            remedy="set training.lowpass = false, or choose a rule that trains these",
        )
    if values.ndim != 2 or values.size == 0:
        raise AdapterError(f"tensor {name}", found=f"shape {values.shape}", expected="a non-empty matrix")
    along = values if FEATURE_AXIS[factor] == 1 else values.T  # (directions, features)
    padded = np.pad(along, ((0, 0), (_REACH, _REACH)), mode="reflect")
    features = along.shape[1]
    smooth = np.zeros(along.shape, np.float64)
    for offset, tap in enumerate(_TAPS):
        smooth += tap * padded[:, offset : offset + features]
    return smooth if FEATURE_AXIS[factor] == 1 else np.ascontiguousarray(smooth.T)
