"""A base in fewer bits: its matrices are rounded as in a GGUF file of that type, and computed with in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

KINDS: Final = {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}


@contextmanager
def rounded(model: Any, kind: str) -> Iterator[None]:
    """The model's matrices rounded, for as long as the context lasts; rows that have no whole blocks stay.

    Args:
        model: of transformers, on the CPU or a GPU.
        kind: of KINDS.
    """
    type_, block = KINDS[kind], GGML_QUANT_SIZES[KINDS[kind]][0]
    matrices = [one for one in model.parameters() if one.ndim == 2 and one.shape[1] % block == 0]
    kept = [one.detach().cpu().clone() for one in matrices]
    try:
        for matrix, before in zip(matrices, kept, strict=True):
            values = dequantize(quantize(before.float().numpy(), type_), type_).astype(np.float32, copy=False)
            _put(matrix, torch.from_numpy(values))
        yield
    finally:
        for matrix, before in zip(matrices, kept, strict=True):
            _put(matrix, before)


@torch.no_grad()
def _put(matrix: Any, values: torch.Tensor) -> None:
    matrix.copy_(values.to(matrix))


def bits_a_weight(kind: str) -> float:
    """Of a matrix in this type."""
    block, size = GGML_QUANT_SIZES[KINDS[kind]]
    return 8 * size / block
