"""What is taken out of a text before it leaves: spans found by patterns and by Presidio, merged, each put as its kind.

What stands in no pattern and is no name that the model knows stays: a codename, a product, a street in a language whose
model was not asked for, a fact that tells who is meant. Redaction makes a leak rarer; it promises nothing, and a text
that must not leave is one that routing must not be on for.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, order=True)
class Span:
    """A part of a text, from `start` up to `end`, with what it is."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Redacted:
    """A text as it may leave.

    Attributes:
        text: with each span put as [KIND].
        kinds: of the spans, in order.
    """

    text: str
    kinds: tuple[str, ...]


Finder = Callable[[str], Iterable[Span]]

# In all but mail addresses and places a letter is one of ASCII: in Japanese no blank stands around a number.
_PATTERNS: Final = {
    # Japanese, from the prefecture to the last number of the block.
    "ADDRESS": r"(?:東京都|北海道|(?:京都|大阪)府|[\u4e00-\u9fff]{2,3}県)[^\s、。\d]{1,25}"
    r"\d+(?:丁目|番地?|号|[\d\u2010-\u2013-])*",
    "URL": r"(?a)\b(?:https?|ftp)://[^\s<>\"']+|\bwww\.[^\s<>\"']+",
    # From the beginning of a word on, and looked ahead from its @: each letter of a long one is read twice, no more.
    "EMAIL": r"(?<![\w.+-])[\w.+-]+@(?=(?P<ahead>[\w-]+(?:\.[\w-]+)+))",
    "IP": r"(?a)(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"
    r"|(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])",
    "MAC": r"(?a)(?<![\w:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![\w:-])",
    "IBAN": r"(?a)\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
    "PHONE": r"(?a)(?<![\w.])(?:\+|00)?\d(?:[ ()./\u2010-\u2013-]{0,2}\d){6,14}(?![\w])",
    "SECRET": r"(?a)\b(?:sk|pk|ghp|gho|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{12,}\b",
    # A serial, customer, order or identity number: letters and digits mixed, or five digits and more, with letters
    # before or after them.
    "NUMBER": r"(?a)(?<![\w-])(?=[\w-]*\d[\w-]*\d[\w-]*\d)(?=[\w-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+(?![\w-])"
    r"|(?<![\w.,])[A-Za-z]{0,4}\d{5,}[A-Za-z]{0,2}(?!\w)",
}


def patterns(own: Sequence[str] = ()) -> Finder:
    """Finds what has a form: addresses, numbers, keys, and what the operator's own patterns describe.

    Args:
        own: regular expressions.

    Raises:
        re.error: one of them is none.
    """
    compiled = [(kind, re.compile(pattern)) for kind, pattern in _PATTERNS.items()]
    compiled += [("OWN", re.compile(pattern)) for pattern in own]

    def find(text: str) -> Iterable[Span]:
        folded = _folded(text)
        for kind, pattern in compiled:
            last = "ahead" if kind == "EMAIL" else 0
            for match in pattern.finditer(folded if kind != "OWN" else text):
                if match.end(last) > match.start():
                    yield Span(match.start(), match.end(last), kind)

    return find


def _folded(text: str) -> str:
    """With the wide digits and letters of Japanese texts as those of ASCII, each in its place."""
    plain = (unicodedata.normalize("NFKC", letter) for letter in text)
    return "".join(folded if len(folded) == 1 else letter for folded, letter in zip(plain, text, strict=True))


def redact(text: str, finders: Iterable[Finder]) -> Redacted:
    """Take out whatever any finder finds; overlapping spans are one, of the longest one's kind."""
    merged = merge(span for find in finders for span in find(text))
    pieces, place = [], 0
    for span in merged:
        pieces += [text[place : span.start], f"[{span.kind}]"]
        place = span.end
    return Redacted("".join([*pieces, text[place:]]), tuple(span.kind for span in merged))


def merge(spans: Iterable[Span]) -> list[Span]:
    """Spans in order that do not overlap, and cover what the given ones cover."""
    merged: list[Span] = []
    longest = 0
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            kind = span.kind if span.end - span.start >= longest else last.kind
            longest = max(longest, span.end - span.start)
            merged[-1] = Span(last.start, max(last.end, span.end), kind)
        else:
            merged.append(span)
            longest = span.end - span.start
    return merged
