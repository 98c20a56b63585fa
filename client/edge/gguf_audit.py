"""A GGUF file from elsewhere is looked at before llama.cpp or transformers maps it: a model, or an adapter.

Names and shapes are held against what llama.cpp has for the file's own family, values against each other. The chat
template is told by its digest: it is a program that runs wherever the model is asked in turns, so whoever has that of
the base should compare.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGUFReader
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES
from gguf.quants import dequantize

from yoriai.client.base.gguf_header import GgufHeader, read_header
from yoriai.client.model.adapter_audit import Audit, file_digest, look_at_pairs, printable
from yoriai.errors import BaseModelError

_ARCHITECTURES: Final = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
_TEMPLATE: Final = "tokenizer.chat_template"
_A, _B = ".lora_a", ".lora_b"
# In a template these lead from a value to Python's or the engine's insides.
_ODD_TEMPLATE: Final = ("__", "import ", "|attr(", "self.", "lipsum", "cycler", "request.")
_UNUSUAL: Final = 30.0
_MOST_VALUES: Final = 2_000_000_000


def audit_gguf(path: Path, base: Path | None = None) -> Audit:
    """Look at a file.

    Args:
        base: the GGUF file that it is to go with, or to be compared with.
    """
    found = Audit("GGUF file")
    try:
        header, of_base = read_header(path), read_header(base) if base else None
    except BaseModelError as error:
        found.faults.append(str(error))
        return found
    found.kind = "GGUF adapter" if header.is_adapter else "GGUF model"
    found.digest, found.size_bytes = file_digest(path), path.stat().st_size
    found.facts |= {"family": printable(header.architecture), "tensors": str(len(header.tensors))}
    if header.architecture not in _ARCHITECTURES:
        found.faults.append("a family that llama.cpp's own tables do not have")
        return found
    if of_base is not None and of_base.architecture != header.architecture:
        found.faults.append(f"the base is of another family: {of_base.architecture}")
        return found
    _look_at_names(header, of_base, found)
    _look_at_template(header, of_base, found)
    if not found.faults:
        _look_at_adapter(path, header, of_base, found) if header.is_adapter else _look_at_values(path, header, found)
    return found


def _look_at_names(header: GgufHeader, of_base: GgufHeader | None, found: Audit) -> None:
    layers = header.layers or (of_base.layers if of_base else 0)
    known = _known(_ARCHITECTURES[header.architecture], layers or _layers_named(header))
    names = [name.removesuffix(_A).removesuffix(_B) if header.is_adapter else name for name in header.tensors]
    if foreign := sorted(set(names) - known):
        found.faults.append(f"{len(foreign)} tensors that do not belong, first {printable(foreign[0])}")
    begin = ("general.", "tokenizer.", "quantize.", "adapter.", "imatrix.", f"{header.architecture}.")
    if odd := [key for key in header.fields if not key.startswith(begin)]:
        found.warnings.append(f"{len(odd)} keys that llama.cpp does not read, first {printable(odd[0])}")


def _known(arch: MODEL_ARCH, layers: int) -> set[str]:
    stems = [TENSOR_NAMES[tensor] for tensor in MODEL_TENSORS[arch]]
    full = {stem.format(bid=layer) for stem in stems for layer in range(layers if "{bid}" in stem else 1)}
    return {f"{stem}.{part}" for stem in full for part in ("weight", "bias")}


def _layers_named(header: GgufHeader) -> int:
    numbers = [name.split(".")[1] for name in header.tensors if name.startswith("blk.")]
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 5), default=0)


def _look_at_template(header: GgufHeader, of_base: GgufHeader | None, found: Audit) -> None:
    template = header.fields.get(_TEMPLATE)
    if template is None:
        found.facts["chat template"] = "none"
        return
    text = str(template)
    found.facts["chat template"] = f"SHA-256 {_digest(text)[:16]}…, {len(text)} characters"
    if header.is_adapter:
        found.faults.append("an adapter with a chat template of its own")
    if odd := [mark for mark in _ODD_TEMPLATE if mark in text]:
        found.warnings.append(f"the chat template reaches for the engine's insides: {', '.join(odd)}")
    if of_base is not None and str(of_base.fields.get(_TEMPLATE)) != text:
        found.warnings.append("another chat template than the base's")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _look_at_adapter(path: Path, header: GgufHeader, of_base: GgufHeader | None, found: Audit) -> None:
    alpha = header.fields.get("adapter.lora.alpha")
    if header.fields.get("adapter.type") != "lora" or not isinstance(alpha, float) or not math.isfinite(alpha):
        found.faults.append("an adapter that is no LoRA, or names no alpha")
        return
    tensors = _values(path)
    pairs, odd = {}, []
    for name in sorted({name.removesuffix(_A).removesuffix(_B) for name in tensors}):
        a, b = tensors.get(name + _A), tensors.get(name + _B)
        expected = of_base.tensors[name].shape if of_base is not None and name in of_base.tensors else None
        fits = a is not None and b is not None and a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
        if a is None or b is None or not fits or (of_base is not None and expected != (b.shape[0], a.shape[1])):
            odd.append(name)
        else:
            pairs[name] = (a, b, alpha / len(a))
    if odd:
        where = " with each other or with the base" if of_base else ""
        found.faults.append(f"{len(odd)} maps whose A and B do not go together{where}, first {printable(odd[0])}")
        return
    found.facts |= {"alpha": f"{alpha:g}", "rank": str(max((len(a) for a, _, _ in pairs.values()), default=0))}
    look_at_pairs(pairs, found)


def _values(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in GGUFReader(path).tensors
    }


def _look_at_values(path: Path, header: GgufHeader, found: Audit) -> None:
    """Finite, and of the size that other layers' tensors of the same name have."""
    if sum(math.prod(tensor.shape) for tensor in header.tensors.values()) > _MOST_VALUES:
        found.warnings.append("too large to look at every value; only its header was read")
        return
    sizes: dict[str, dict[str, float]] = {}
    for tensor in GGUFReader(path).tensors:
        try:
            values: Any = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            found.warnings.append(f"{tensor.tensor_type.name} is not looked into")
            continue
        root = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        if not math.isfinite(root):
            found.faults.append(f"values that are not finite in {printable(tensor.name)}")
            return
        part = ".".join(word for word in tensor.name.split(".") if not word.isdecimal())
        sizes.setdefault(part, {})[tensor.name] = root
    for same in sizes.values():
        median, largest = float(np.median(list(same.values()))), max(same, key=same.__getitem__)
        if len(same) > 2 and same[largest] > _UNUSUAL * median:
            found.warnings.append(f"{printable(largest)} is {same[largest] / max(median, 1e-30):.3g} times the others")
