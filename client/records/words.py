"""The words of a text as hashes: what a classifier is given beside a model's states, and what naive Bayes counts.

A word is a run of letters, digits and underscores, lower case, after Unicode's NFKC. Scripts that are written without
spaces give runs as long as sentences, so a run of them is taken as its pairs of neighbouring characters; the one
character of a run of one stands by itself.
"""

import hashlib
import re
import unicodedata
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Han with its extensions and kana; Thai, Lao, Khmer and Burmese are written without spaces too.
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f"
_RUN: Final = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")
_FIRST_UNSPACED: Final = re.compile(rf"[{_UNSPACED}]")


def no_words() -> NDArray[np.uint32]:
    """The hashes of a text without a word."""
    return np.zeros(0, np.uint32)


def words(text: str) -> list[str]:
    """The words of a text in their order, each as often as it stands there."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        pairs = len(run) > 1 and _FIRST_UNSPACED.match(run)
        found += [run[i : i + 2] for i in range(len(run) - 1)] if pairs else [run]
    return found


def word_hashes(text: str) -> NDArray[np.uint32]:
    """The distinct words, each as the first four bytes of its SHA-256; sorted, so that their order tells nothing."""
    digests = {hashlib.sha256(word.encode("utf-8", "replace")).digest()[:4] for word in words(text)}
    return np.array(sorted(int.from_bytes(digest, "little") for digest in digests), np.uint32)
