"""The header of a GGUF file, read before any library maps the file: every length is held against what is there.

A reader that trusts them loops for as long as a count says, and one that maps a file which is cut short reads past its
end. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from yoriai.errors import BaseModelError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32


@dataclass(frozen=True)
class GgufTensor:
    """One tensor's place.

    Attributes:
        shape: as numpy has it, the longest stride first: (out, in) of a linear map.
        kind: of its values.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    size_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        fields: by key; arrays as tuples.
        tensors: by name.
    """

    fields: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The family, as llama.cpp calls it; empty if the file names none."""
        return str(self.fields.get("general.architecture", ""))

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter, and no model."""
        return self.fields.get("general.type") == "adapter"

    @property
    def layers(self) -> int:
        """Decoder layers of a model."""
        return int(self.fields.get(f"{self.architecture}.block_count", 0))


def read_header(path: Path) -> GgufHeader:
    """The header of a file.

    Raises:
        BaseModelError: it is no GGUF file, one of another version, damaged, or cut short.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).header()
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise BaseModelError(
            f"{path.name} is no whole GGUF file",
            found=str(error) if isinstance(error, _Fault) else type(error).__name__,
            remedy="fetch it again",
        ) from None
    except OSError as error:
        raise BaseModelError(
            f"{path} cannot be read", found=error.strerror or type(error).__name__, remedy="check the path"
        ) from None


class _Fault(ValueError):
    """What is wrong, in words that quote nothing of the file."""


class _Reader:
    def __init__(self, file: BufferedReader, size: int) -> None:
        self._file, self._size = file, size

    def header(self) -> GgufHeader:
        if self._file.read(4) != _MAGIC:
            raise _Fault("another beginning than GGUF's")
        (version,) = self._take("I")
        if version not in _VERSIONS:
            raise _Fault("another version than 2 or 3, or another byte order")
        n_tensors, n_fields = self._count(), self._count()
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            key = self._string()
            if key in fields:
                raise _Fault("a key that stands there twice")
            fields[key] = self._value(*self._take("I"))
        infos = [self._tensor() for _ in range(n_tensors)]
        self._check_places(infos, int(fields.get("general.alignment", _ALIGNMENT)))
        return GgufHeader(fields, {tensor.name: tensor for tensor, _ in infos})

    def _check_places(self, infos: list[tuple[GgufTensor, int]], alignment: int) -> None:
        if alignment < 1 or alignment & (alignment - 1):
            raise _Fault("an alignment that is no power of two")
        start = -(-self._file.tell() // alignment) * alignment
        if any(start + offset + tensor.size_bytes > self._size for tensor, offset in infos):
            raise _Fault(f"{self._size} bytes, and tensors beyond its end")
        if len({tensor.name for tensor, _ in infos}) < len(infos):
            raise _Fault("a tensor that stands there twice")

    def _tensor(self) -> tuple[GgufTensor, int]:
        name, (dimensions,) = self._string(), self._take("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise _Fault("a tensor without dimensions, or with more than four")
        shape = self._take("Q" * dimensions)
        code, offset = self._take("IQ")
        kind = GGMLQuantizationType(code)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        entries = 1
        for length in shape:
            entries *= length
        if not entries or shape[0] % block:
            raise _Fault("a tensor whose shape does not go with its type")
        return GgufTensor(name, tuple(reversed(shape)), kind, entries // block * block_bytes), offset

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_SCALARS[kind])[0]
        (inner,), length = self._take("I"), self._count()
        if inner == _STRING:
            return tuple(self._string() for _ in range(length))
        code = _SCALARS[inner]  # Arrays of arrays are in no model.
        return struct.unpack(f"<{length}{code}", self._bytes(length * struct.calcsize(f"<{code}")))

    def _string(self) -> str:
        return self._bytes(self._count()).decode("utf-8", "replace")

    def _count(self) -> int:
        """A number of things of a byte each, at least: no more of them than the file has bytes."""
        (count,) = self._take("Q")
        if count > self._size:
            raise _Fault("a count beyond the file's size")
        return int(count)

    def _take(self, codes: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{codes}", self._bytes(struct.calcsize(f"<{codes}")))

    def _bytes(self, length: int) -> bytes:
        if length > self._size or len(data := self._file.read(length)) < length:
            raise _Fault("an end in the middle of its header")
        return data
