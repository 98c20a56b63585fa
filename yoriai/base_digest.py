"""The digest that names a base: SHA-256 over configuration and weights, then over tokenizer and chat template.

Earlier versions wrote the first half alone. Such a digest is still taken for what it says: it names the weights, and
of the tokenizer nothing.
"""

from dataclasses import dataclass
from typing import Final

PATTERN: Final = "^([0-9a-f]{64}){1,2}$"
_HALF: Final = 64


@dataclass(frozen=True)
class Difference:
    """What tells two bases apart: in words, and the halves of their digests that say so."""

    what: str
    found: str
    expected: str


def difference(found: str, expected: str) -> Difference | None:
    """The first half in which two digests differ; None if they agree on all of which both speak."""
    if of_weights(found) != of_weights(expected):
        return Difference("weights or configuration", of_weights(found), of_weights(expected))
    ours, theirs = found[_HALF:], expected[_HALF:]
    if ours and theirs and ours != theirs:
        return Difference("tokenizer or chat template", ours, theirs)
    return None


def of_weights(digest: str) -> str:
    """The first half, which is all that earlier versions wrote."""
    return digest[:_HALF]
