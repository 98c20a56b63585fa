"""Named float32 matrices as bytes: a safetensors file whose metadata says what it is and in which version.

Nothing here unpickles, and nothing is believed before the library has checked lengths and offsets.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from yoriai.errors import AdapterError

FloatArray = NDArray[np.float32]

_LENGTH_BYTES = 8  # A safetensors file opens with the length of its JSON header, little-endian.


def encode(tensors: Mapping[str, FloatArray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; equal tensors and metadata give equal bytes, in every process.

    The library writes the metadata in an order that changes from process to process, so the header is written anew.
    """
    data = save({name: tensors[name] for name in sorted(tensors)}, metadata=dict(metadata))
    header, body = _split(data)
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # The format wants the tensors aligned to eight bytes.
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + body


def decode(data: bytes, *, format_name: str, version: str) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Read what `encode` wrote.

    Raises:
        AdapterError: the bytes are cut or damaged, are of another format or version, or hold anything but float32.
    """
    try:
        tensors = load(bytes(data))
        header, _ = _split(data)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        # The library's own text may quote parts of the file, so only the kind of fault is passed on.
        raise AdapterError(
            f"{format_name}: the bytes cannot be read ({type(error).__name__})",
            found=f"{len(data)} bytes",
            expected="a whole safetensors file",
            remedy="fetch or store the file again",
        ) from error
    metadata = dict(header.get("__metadata__") or {})
    expected = {"format": format_name, "version": version}
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise AdapterError(
                f"{format_name}: the {key} in the file's metadata is not the one this Yoriai reads",
                found=str(metadata.get(key, "none"))[:40],
                expected=value,
                remedy="use the release of Yoriai that wrote the file",
            )
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise AdapterError(f"{format_name}: tensor {name[:200]}", found=str(tensor.dtype), expected="float32")
    return tensors, metadata


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a file whose lengths the library has made or checked."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header: dict[str, Any] = json.loads(data[_LENGTH_BYTES:end])
    return header, data[end:]
