"""Which texts a reader takes for one: labels and names that differ only in what is hardly seen."""

import re
import unicodedata
from collections.abc import Iterable

# Joiners, marks of direction, soft hyphens, variation selectors, the byte-order mark.
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


def alike(text: str) -> str:
    """A text without case, Unicode form, characters of no width, and all but single spaces between words.

    >>> alike(" Pump   NORD ")
    'pump nord'
    """
    plain = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return unicodedata.normalize("NFKC", " ".join(plain.lower().split()))


def twins(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different texts that are alike: each text with the first that it could be taken for.

    >>> twins(["Pump", "valve", "pump", "PUMP"])
    [('Pump', 'pump'), ('Pump', 'PUMP')]
    """
    first: dict[str, str] = {}
    pairs = [(first.setdefault(alike(text), text), text) for text in dict.fromkeys(texts)]
    return [pair for pair in pairs if pair[0] != pair[1]]
