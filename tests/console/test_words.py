"""The words of the consoles: each sentence is there in each language with the same places, and none is left over."""

import ast
import re
from pathlib import Path
from string import Formatter

import pytest

from yoriai.console.words import LANGUAGES, language_of, sentences, translator

ROOT = Path(__file__).parents[2]
TEMPLATES = [*sorted(ROOT.glob("*/console/templates/*.j2")), ROOT / "simulations" / "templates" / "live.html.j2"]
# Where a sentence that a template says is made in Python: as a keyword or as a plain string.
FOLDERS = ("client", "server", "simulations", "yoriai")
MODULES = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).glob("console/*.py"))),
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*/*_alarms.py"))),
    ROOT / "yoriai" / "alarms" / "alarm.py",
    ROOT / "simulations" / "cli" / "live.py",
]


def said() -> set[str]:
    """Every sentence that a template says by itself."""
    found: set[str] = set()
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'\bt\("([^"]*)"', text))
        for choice in re.findall(r"\bt\(\{([^}]*)\}", text):
            found |= set(re.findall(r': "([^"]*)"', choice))
    return found


def literals() -> set[str]:
    """Every text in the code whose sentences are shown."""
    found: set[str] = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_sentence_of_every_page_is_there_in_the_language(language: str) -> None:
    assert len(said()) > 150
    assert said() - set(sentences(language)) == set()


def test_every_language_says_the_same_things_with_the_same_places() -> None:
    japanese, spanish = sentences("ja"), sentences("es")
    assert list(japanese) == list(spanish)
    for english in japanese:
        assert places(japanese[english]) == places(english), english
        assert places(spanish[english]) == places(english), english


def test_no_sentence_is_left_over() -> None:
    settings = {"record", "owner", "local", "distributed"}  # Of privacy.unit and privacy.noise.
    rest = set(sentences("ja")) - said() - literals() - settings
    # Of alarms about papers, whose subject is put before.
    assert {text for text in rest if not re.match(r"(The certificate of|Of the papers) \{paper\} ", text)} == set()


def test_titles_of_pages_and_actions_are_said_in_each_language() -> None:
    titles: set[str] = set()
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        titles |= set(re.findall(r'(?:Page|Action)\("[^"]*", "([^"]+)"', text))
        titles |= set(re.findall(r'title="([^"]+)",(?: lines=|\n)', text))
        titles |= set(re.findall(r'_told\(request, "([^"]+)"', text))
    assert len(titles) > 15
    assert titles - set(sentences("es")) == set()


def test_a_sentence_that_is_not_known_stays_english_and_braces_of_a_name_are_text() -> None:
    say = translator("ja")
    assert say("none such {n}", n=3) == "none such 3"
    assert say("{site} has not been connected for {hours} h.", site="{hours}", hours=2).startswith("{hours} は")


@pytest.mark.parametrize(
    ("asked", "header", "language"),
    [("", "", "en"), ("es", "ja", "es"), ("", "ja-JP,en;q=0.5", "ja"), ("xx", "de, es;q=0.3", "es"), ("", "*", "en")],
)
def test_the_language_is_the_chosen_one_then_the_browsers_then_english(asked: str, header: str, language: str) -> None:
    assert language_of(asked, header) == language
