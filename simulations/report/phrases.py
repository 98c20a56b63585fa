"""The manager's page in English, Japanese and Spanish: `manager.LANGUAGE.toml`, a sentence a key, places for figures.

Every language has the same keys and the same places (`test_every_language_says_the_same_things`).
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

from yoriai.errors import ConfigError

LANGUAGES: Final = ("en", "ja", "es")


@cache
def phrases(language: str) -> Mapping[str, str]:
    """All sentences of a language. Raises ConfigError for one that is not there."""
    if language not in LANGUAGES:
        raise ConfigError("--language", found=language, expected=f"one of {', '.join(LANGUAGES)}")
    file = resources.files("yoriai.simulations.report") / f"manager.{language}.toml"
    found: dict[str, str] = tomllib.loads(file.read_text(encoding="utf-8"))
    return found
