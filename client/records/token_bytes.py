"""How many bytes of text each token stands for, whatever characters it cuts through.

A byte-level tokenizer may begin a token in the middle of a character. Decoded by itself such a part becomes U+FFFD, of
three bytes; so tokens are looked up, and not decoded.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # SentencePiece's way to write a byte that no piece holds.


def token_bytes(tokenizer: Any) -> NDArray[np.int64]:
    """Bytes of UTF-8 by token id, (V,); none for special tokens.

    Args:
        tokenizer: of transformers.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    added = {index: str(token) for index, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    byte_level = _is_byte_level(tokenizer)
    sizes = np.zeros(1 + max(vocabulary.values(), default=0), np.int64)
    for token, index in vocabulary.items():
        if index in special:
            continue
        if index in added:
            sizes[index] = len(added[index].encode())
        elif byte_level:
            sizes[index] = len(token)  # One character stands for each byte.
        elif _BYTE.fullmatch(token):
            sizes[index] = 1
        else:
            sizes[index] = len(token.replace("▁", " ").removeprefix("##").encode())
    return sizes


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether the tokenizer writes each byte of a text as one character of a token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = json.loads(backend.to_str())
    return any(kind == "ByteLevel" for name in ("decoder", "pre_tokenizer") for kind in _types(parts.get(name)))


def _types(part: object) -> Iterable[str]:
    """The types of a part of a tokenizer, and of those inside it."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for inner in part.values():
            yield from _types(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _types(inner)
