"""GGUF files for llama.cpp: an adapter beside its base, or a model that the adapter is merged into.

A merged model is F16 or Q8_0 and nothing smaller. A base that came in 4 bits had its weights chosen to fit their
grid; with an adapter added they no longer do, and rounding them to 4 bits again moves answers further than the adapter
did (docs/decisions/0040-exports-are-judged.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, ReaderTensor
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from yoriai.client.base.gguf_header import GgufHeader, read_header
from yoriai.client.edge.adapter_folder import Factors, Pair
from yoriai.client.edge.families import Family, family_of
from yoriai.errors import AdapterError

MERGED_TYPES: Final = ("f16", "q8_0")
_TYPES: Final = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_A, _B = ".lora_a", ".lora_b"
_OWN: Final = ("GGUF.", "general.architecture", "general.file_type")  # The writer has these from elsewhere.

Pairs = Mapping[str, Pair]


@dataclass(frozen=True)
class Stored:
    """An adapter as llama.cpp has it: scale · B A is added to each tensor.

    Attributes:
        pairs: A (rank, in) and B (out, rank) by the tensor's name, rows in llama.cpp's order.
        alpha: the scale times the rank.
    """

    pairs: Pairs
    alpha: float

    def delta(self, name: str) -> NDArray[np.float32]:
        """What one tensor gets added, (out, in)."""
        a, b = self.pairs[name]
        return (self.alpha / len(a) * (b.astype(np.float64) @ a)).astype(np.float32)


def stored(factors: Factors, base: Path) -> Stored:
    """The factors under llama.cpp's names, with their rows in its order.

    Args:
        base: its GGUF file.

    Raises:
        BaseModelError: the base is no whole GGUF file, or of a family that is not known.
        AdapterError: a map has no name, or another shape in the base.
    """
    header = read_header(base)
    family = family_of(header)
    pairs = dict(_stored(path, pair, family, header) for path, pair in factors.pairs.items())
    return Stored(pairs, factors.alpha)


def _stored(path: str, pair: Pair, family: Family, header: GgufHeader) -> tuple[str, Pair]:
    a, b = pair
    name = family.name_of(path, header.layers)
    expected = header.tensors[name].shape if name in header.tensors else None
    if expected != (len(b), a.shape[1]):
        raise AdapterError(
            f"the map {path} is another one in the base's file",
            found=f"{name} of shape {expected}",
            expected=str((len(b), a.shape[1])),
            remedy="name the file that the adapter was trained on",
        )
    return name, (a, family.rows(name, b, header))


def write_adapter(path: Path, adapter: Stored, architecture: str) -> None:
    """Write an adapter file, F32. Raises OSError where it cannot be written."""
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.alpha)
    for name, (a, b) in adapter.pairs.items():
        writer.add_tensor(f"{name}{_A}", a)
        writer.add_tensor(f"{name}{_B}", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_adapter(path: Path) -> Stored:
    """What `write_adapter` wrote. Raises BaseModelError if it is no whole GGUF file."""
    alpha = float(read_header(path).fields["adapter.lora.alpha"])
    tensors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    names = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    return Stored({name: (tensors[name + _A], tensors[name + _B]) for name in names}, alpha)


def write_merged(path: Path, adapter: Stored, base: Path, kind: str) -> None:
    """Write the base with the adapter merged into it: its settings and tokenizer, and each matrix as `kind`.

    Args:
        base: its GGUF file, of any type that gguf reads.
        kind: of MERGED_TYPES, or f32.

    Raises:
        BaseModelError: the base is no whole GGUF file.
        OSError: it cannot be written.
    """
    architecture, reader = read_header(base).architecture, GGUFReader(base)
    writer = GGUFWriter(path, architecture)
    tensor_type, file_type = _TYPES[kind]
    writer.add_file_type(file_type)
    for field in reader.fields.values():
        if not field.name.startswith(_OWN):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    # Sizes first, then one tensor at a time: the whole model as float32 may be more than the machine has.
    for tensor in reader.tensors:
        as_type = _type_of(tensor, tensor_type)
        block, block_bytes = GGML_QUANT_SIZES[as_type]
        size = tensor.n_elements // block * block_bytes
        writer.add_tensor_info(tensor.name, _shape(tensor), np.dtype(np.float32), size, raw_dtype=as_type)
    _begin(writer)
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if tensor.name in adapter.pairs:
            weight = weight + adapter.delta(tensor.name)
        writer.write_tensor_data(quantize(weight, _type_of(tensor, tensor_type)))
    writer.close()


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    """As numpy has it."""
    return tuple(int(length) for length in reversed(tensor.shape))


def _type_of(tensor: ReaderTensor, wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """What a tensor is stored as: vectors stay F32, as llama.cpp wants them, and rows without whole blocks are F16."""
    shape = _shape(tensor)
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    whole = shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0
    return wanted if whole else GGMLQuantizationType.F16


def _begin(writer: GGUFWriter) -> None:
    """Write all but the tensors themselves."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
