"""What commands and parties have said in English, said again in the language of who looks.

A reason or a row of a job's terms reaches a page as an English text with its values in it, sometimes from a file or
from another machine. The sentences that such texts are made of stand in `retold.<language>.toml`, with places for their
values. A text is told again sentence by sentence, and what is not known there stays English, so nothing is left out.

A value stays as it is: names, labels and purposes are another party's words. The places `unit`, `units`, `state` and
`rest` hold words of Yoriai's own, which are told again. A place holds one word, but for those of `_HOLDS`.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib import resources
from string import Formatter
from typing import Final

_OURS: Final = frozenset({"unit", "units", "state", "rest"})
_CLAUSE: Final = r"(?:(?!; ).)+?"
_HOLDS: Final = {"text": _CLAUSE, "names": _CLAUSE, "day": _CLAUSE, "rest": _CLAUSE, "quoted": ".+?"}
_WORD: Final = r"[^\s;]+?"
_LONGEST: Final = 2000  # Beyond it is a list of another party's words, and no sentence.
_JOINTS: Final = ("; ", ": ")
# A piece, and whether it is in the language that was asked for.
Piece = tuple[str, bool]


@lru_cache(maxsize=4096)
def retold(language: str, text: str) -> tuple[Piece, ...]:
    """The pieces of a text, which stand one after the other, each told again where its sentence is known."""
    if language == "en" or len(text) > _LONGEST:
        return ((text, language == "en"),)
    return tuple(_pieces(language, text))


@cache
def sentences_told(language: str) -> Mapping[str, str]:
    """All sentences of a language by the English ones."""
    file = resources.files("yoriai.console") / f"retold.{language}.toml"
    found: dict[str, str] = tomllib.loads(file.read_text(encoding="utf-8"))
    return found


def _pieces(language: str, text: str) -> Iterator[Piece]:
    """Whole, or else sentence by sentence: cut at each semicolon, then behind a colon whose first half is known."""
    if (whole := _told(language, text)) is not None:
        yield whole, True
        return
    for joint in _JOINTS:
        first, found, rest = text.partition(joint)
        if found and (joint == "; " or _told(language, first) is not None):
            yield from _pieces(language, first)
            yield joint, True
            yield from _pieces(language, rest)
            return
    yield text, False


def _told(language: str, text: str) -> str | None:
    """A text that is one sentence of those that are known."""
    for pattern, sentence in _patterns(language):
        if found := pattern.fullmatch(text):
            return sentence.format(**{name: _value(language, name, value) for name, value in found.groupdict().items()})
    return None


def _value(language: str, name: str, value: str) -> str:
    return "".join(piece for piece, _ in _pieces(language, value)) if name in _OURS else value


@cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Each sentence's form, the most definite first: of two that fit, the one with more words of its own counts."""
    told = sentences_told(language)
    return [(_form(english), told[english]) for english in sorted(told, key=_own_length, reverse=True)]


def _form(english: str) -> re.Pattern[str]:
    parts, known = [], set[str]()
    for words, name, _, _ in Formatter().parse(english):
        parts.append(re.escape(words))
        if name in known:
            parts.append(f"(?P={name})")
        elif name is not None:
            known.add(name)
            parts.append(f"(?P<{name}>{_HOLDS.get(name, _WORD)})")
    return re.compile("".join(parts), re.DOTALL)


def _own_length(english: str) -> int:
    return sum(len(words) for words, _, _, _ in Formatter().parse(english))
