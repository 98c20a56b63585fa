"""`bench redact`: how much of what is marked in texts redaction takes out, and what else goes with it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from yoriai.client.routing.redaction import Finder, Span, merge
from yoriai.errors import ConfigError

_MARK: Final = re.compile(r"\{([A-Z]+):([^{}]+)\}")


@dataclass(frozen=True)
class Marked:
    """A text, and what of it ought to be taken out.

    Attributes:
        spans: in order, without overlap.
    """

    language: str
    text: str
    spans: tuple[Span, ...]


def shipped() -> tuple[Marked, ...]:
    """Made-up texts of a workshop in English, Spanish and Japanese, fifteen each, three of them without a name."""
    return read_marked(files(__package__).joinpath("texts.txt").read_text(encoding="utf-8").splitlines())


def own(path: Path) -> tuple[Marked, ...]:
    """Texts of a file. Raises ConfigError if it cannot be read, or a line has not the form of the shipped ones."""
    try:
        return read_marked(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", found=type(error).__name__, expected="text in UTF-8") from None


def read_marked(lines: Iterable[str]) -> tuple[Marked, ...]:
    """Lines of a language, a tab, and a text with {KIND:…} around what ought to go.

    Raises:
        ConfigError: a line has another form; by its number alone, for what stands in it may be private.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        language, tab, text = line.partition("\t")
        if not tab or not language.isalpha():
            raise ConfigError(f"line {number} has no language", expected="en, a tab, and a text with {PERSON:…} in it")
        found.append(_marked(language, text))
    return tuple(found)


def _marked(language: str, text: str) -> Marked:
    plain, spans, place = "", [], 0
    for match in _MARK.finditer(text):
        plain += text[place : match.start()]
        spans.append(Span(len(plain), len(plain) + len(match[2]), match[1]))
        plain, place = plain + match[2], match.end()
    return Marked(language, plain + text[place:], tuple(spans))


def measure(texts: Sequence[Marked], finders: Sequence[Finder]) -> dict[str, Any]:
    """By kind: how many are marked, and of these taken out whole, and in part; and letters that were not marked.

    A name is taken out whole if no letter or digit of it is left.
    """
    marked, whole, part = Counter[str](), Counter[str](), Counter[str]()
    others = lost = 0
    for one in texts:
        covered = _places(merge(span for find in finders for span in find(one.text)))
        letters = {place for place, letter in enumerate(one.text) if letter.isalnum()}
        private = _places(one.spans) & letters
        others, lost = others + len(letters - private), lost + len((letters - private) & covered)
        for span in one.spans:
            own = _places([span]) & letters
            marked[span.kind] += 1
            whole[span.kind] += own <= covered
            part[span.kind] += bool(own & covered) and not own <= covered
    kinds = {kind: {"marked": marked[kind], "whole": whole[kind], "part": part[kind]} for kind in sorted(marked)}
    return {"texts": len(texts), "kinds": kinds, "other_letters": others, "other_letters_taken": lost}


def _places(spans: Iterable[Span]) -> set[int]:
    return {place for span in spans for place in range(span.start, span.end)}


def rows(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row a language, a column a kind: taken out of marked, with those in part; then what else was taken."""
    kinds = sorted({kind for one in found.values() for kind in one["kinds"]})
    head = ["language", "texts", *(kind.lower() for kind in kinds), "other letters taken"]
    return [head, *([language, str(one["texts"]), *_cells(one, kinds)] for language, one in found.items())]


def _cells(one: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    cells = []
    for kind in kinds:
        counts = one["kinds"].get(kind)
        part = f", {counts['part']} in part" if counts and counts["part"] else ""
        cells.append("–" if counts is None else f"{counts['whole']} of {counts['marked']}{part}")
    return [*cells, f"{one['other_letters_taken'] / max(1, one['other_letters']):.0%}"]
