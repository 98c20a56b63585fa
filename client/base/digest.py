"""What names a base: its class, configuration and weights, and all that decides which tokens a text becomes."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

# Entries of a model's configuration that say how it was stored, not what it computes.
_STORAGE_ONLY = {
    "_name_or_path",
    "architectures",  # Written when a model is saved; the digest takes the class itself.
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# Of a tokenizer's own file: left there by the last call, or by whoever saved it, and no part of a record's tokens.
_CALL_ONLY = {"padding", "truncation"}


def base_digest(model: nn.Module, tokenizer: Any) -> str:
    """The digest of a base, as `yoriai.base_digest` has it: two SHA-256 in hexadecimal, one behind the other."""
    return weights_digest(model) + tokenizer_digest(tokenizer)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the class, the configuration and every weight, in the order of their names."""
    configuration: Mapping[str, Any] = model.config.to_dict()  # type: ignore[operator, union-attr]
    relevant = {key: value for key, value in configuration.items() if key not in _STORAGE_ONLY}
    digest = hashlib.sha256(json.dumps([type(model).__name__, relevant], sort_keys=True, default=str).encode())
    for weight_name, weight in sorted(model.state_dict().items()):
        digest.update(f"{weight_name}:{weight.dtype}:{tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (hex) over vocabulary, merges, normaliser, added and special tokens, and the chat template.

    Over what they are, not over files: blanks, the order of keys, and the file that holds the template do not count.
    Padding does not either, for no record's tokens depend on it.

    Args:
        tokenizer: of transformers.
    """
    special = {name: _plain(value) for name, value in tokenizer.special_tokens_map.items() if name != "pad_token"}
    parts = [_algorithm(tokenizer), special, bool(getattr(tokenizer, "split_special_tokens", False))]
    template = tokenizer.chat_template
    parts.append({name: _lines(t) for name, t in template.items()} if isinstance(template, dict) else _lines(template))
    return hashlib.sha256(b"yoriai/tokenizer/1\0" + json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _algorithm(tokenizer: Any) -> dict[str, Any]:
    """How a text is cut: the tokenizers library's own description, or else the class with the files that it saves."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        description: dict[str, Any] = json.loads(backend.to_str())
        return {key: value for key, value in description.items() if key not in _CALL_ONLY}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(name) for name in tokenizer.save_vocabulary(folder) or ()]
        contents = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    added = {str(index): repr(token) for index, token in tokenizer.added_tokens_decoder.items()}
    return {"class": type(tokenizer).__name__, "files": contents, "added": added}


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _lines(template: str | None) -> str | None:
    """A template as Jinja reads it: any line end is a line feed, and the last one is dropped."""
    return None if template is None else template.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
