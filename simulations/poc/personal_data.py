"""Likely personal data in records, by patterns: what to look at before records are used, and never a promise.

Only counts and places come out, no text. A pattern finds what looks like such a thing; names without a title, places,
and whatever is written unusually are not found.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

_DIGITS = re.compile(r"\D")


def _luhn(text: str) -> bool:
    """Whether digits end in their check digit, as card numbers do."""
    digits = [int(one) for one in _DIGITS.sub("", text)]
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * one, 10)) for one in digits[-2::-2])
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and total % 10 == 0


def _iban(text: str) -> bool:
    """Whether an account number leaves 1 when divided by 97 (ISO 13616)."""
    plain = text.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(one, 36)) for one in moved)) % 97 == 1


def _phone(text: str) -> bool:
    return 9 <= len(_DIGITS.sub("", text)) <= 15


def _any(_text: str) -> bool:
    return True


_BYTE: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_KINDS: Final[Mapping[str, tuple[re.Pattern[str], Callable[[str], bool]]]] = {
    "e-mail address": (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), _any),
    "telephone number": (re.compile(r"(?<![\w.,/-])(?:\+\d{1,3}[ .-]?|\(?0)\d[\d ().-]{6,16}\d(?![\w,/-])"), _phone),
    "card number": (re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"), _luhn),
    "bank account": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), _iban),
    "internet address": (re.compile(rf"(?<![\d.])(?:{_BYTE}\.){{3}}{_BYTE}(?![\d.])"), _any),
    "name with a title": (
        re.compile(
            r"\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Sra|Srta|Herr|Frau|Mme)\.? [A-ZÀ-Þ][a-zà-ÿ]+|"
            r"[\u4e00-\u9fff\u30a0-\u30ff]{1,6}(?:さん|様|氏)(?![\u4e00-\u9fff])"
        ),
        _any,
    ),
}  # fmt: skip
KINDS: Final = tuple(_KINDS)


def kinds_in(text: str) -> list[str]:
    """What of these a text seems to hold.

    >>> kinds_in("ring Mr Smith, +44 20 7946 0958")
    ['telephone number', 'name with a title']
    """
    return [
        kind
        for kind, (pattern, is_one) in _KINDS.items()
        if any(is_one(match.group()) for match in pattern.finditer(text))
    ]


def found_in(texts: Iterable[str]) -> dict[str, int]:
    """How many texts seem to hold each kind; kinds that none holds are left out."""
    counts = dict.fromkeys(KINDS, 0)
    for text in texts:
        for kind in kinds_in(text):
            counts[kind] += 1
    return {kind: count for kind, count in counts.items() if count}
