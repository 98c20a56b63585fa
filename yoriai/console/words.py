"""What a console says in English, Japanese and Spanish; the English sentence is the key of the others.

Sentences that commands and parties made, such as an error or a reason, are shown as they are, marked as English.
"""

import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Final

LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "ja": "日本語", "es": "Español"}
Translate = Callable[..., str]


@cache
def sentences(language: str) -> Mapping[str, str]:
    """All sentences of a language by the English ones; none for English."""
    if language == "en":
        return {}
    file = resources.files("yoriai.console") / f"words.{language}.toml"
    found: dict[str, str] = tomllib.loads(file.read_text(encoding="utf-8"))
    return found


def translator(language: str) -> Translate:
    """Says an English sentence in a language, with values in its places; one that it lacks stays English."""
    known = sentences(language)

    def say(english: str, **values: object) -> str:
        text = known.get(english, english)
        return text.format(**values) if values else text

    return say


def language_of(asked: str, header: str) -> str:
    """The language to use.

    Args:
        asked: what was chosen; empty if nothing was.
        header: Accept-Language.
    """
    wished = [asked, *(part.partition(";")[0].strip().lower()[:2] for part in header.split(",")[:10])]
    return next((language for language in wished if language in LANGUAGES), "en")
