"""How llama.cpp names and orders the maps that an adapter sits on, by family of bases.

A family that is not listed is refused: an adapter under wrong names, or with its rows in another order, loads without a
word and answers as something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from gguf import get_tensor_name_map
from gguf.constants import MODEL_ARCH
from numpy.typing import NDArray

from yoriai.client.base.gguf_header import GgufHeader
from yoriai.errors import AdapterError, BaseModelError


@dataclass(frozen=True)
class Family:
    """One family of bases.

    Attributes:
        architecture: as GGUF files name it.
        rotary_pairs: whether llama.cpp has the two halves of each head's rotary positions row beside row in q and k.
    """

    architecture: str
    arch: MODEL_ARCH
    rotary_pairs: bool

    def name_of(self, path: str, layers: int) -> str:
        """The tensor of a linear map, such as blk.3.attn_q.weight.

        Args:
            path: of the map in transformers, such as model.layers.3.self_attn.q_proj.
            layers: of the base.

        Raises:
            AdapterError: the family has no such map.
        """
        found = get_tensor_name_map(self.arch, layers).get_name(path)
        if found is None:
            raise AdapterError(
                f"llama.cpp has no name for the map {path} in the family {self.architecture}",
                remedy="export with --format merged or peft",
            )
        return f"{found}.weight"

    def rows(self, name: str, matrix: NDArray[np.float32], header: GgufHeader) -> NDArray[np.float32]:
        """A map's rows in llama.cpp's order: (out, …) -> (out, …).

        Args:
            name: of the tensor.
            header: of the base.
        """
        key = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(name.split(".")[-2])
        if not self.rotary_pairs or key is None:
            return matrix
        heads = int(header.fields[f"{self.architecture}.attention.{key}"])
        halves = matrix.reshape(heads, 2, len(matrix) // heads // 2, *matrix.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(matrix.shape))


FAMILIES: Final[Mapping[str, Family]] = {
    family.architecture: family
    for family in (Family("llama", MODEL_ARCH.LLAMA, True), Family("gemma3", MODEL_ARCH.GEMMA3, False))
}


def family_of(header: GgufHeader) -> Family:
    """The family of a base. Raises BaseModelError, with its name, for one that is not listed."""
    if header.architecture not in FAMILIES:
        raise BaseModelError(
            "Yoriai does not know how llama.cpp has the maps of this family",
            found=header.architecture or "a file that names no architecture",
            expected=" or ".join(FAMILIES),
            remedy="export with --format merged, and convert that with llama.cpp's own script",
        )
    return FAMILIES[header.architecture]
