"""The words of the consoles: each sentence is there in each language with the same places, and none is left over."""

import ast
import re
from pathlib import Path
from string import Formatter

import pytest

from tests.client.job_terms import CHANGES, SETTINGS, entry_of, rows_of
from yoriai.client.offer.joining import joining
from yoriai.console.retelling import retold, sentences_told
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


OTHERS = [language for language in LANGUAGES if language != "en"]
# Modules whose refusals an operator reads, and what stands for the values that are no single word.
REASONS = ("client/offer/policy.py", "client/offer/approval.py", "client/offer/costing.py", "privacy/ledger/rule.py",
           "client/versions/judging.py")  # fmt: skip
VALUES = {
    "needs": "this job's 51 rounds need",
    "terms(self.policy.unit, effective)": "per owner (add or remove one owner), by RDP at order 8",
    "remedy": "lower local_steps or rounds, or raise noise_multiplier",
    "free": "wait for the end of what holds unused rounds, or give it up (yoriai site release DIR RUN)",
}


def reasons() -> set[str]:
    """Every sentence of a refusal, with something in its places: where it is raised, or its remedy is put together."""
    found: set[str] = set()
    for module in REASONS:
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if called and node.func.id in ("PolicyError", "BudgetError"):  # type: ignore[attr-defined]
                found |= {sample(text) for text in node.args if not isinstance(text, ast.Name)}  # type: ignore[attr-defined]
                for part in node.keywords:  # type: ignore[attr-defined]
                    if part.arg == "remedy" and not isinstance(part.value, ast.Name):
                        found.add(sample(part.value))
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("remedy", "why", "free"):
                found.add(sample(node.value.body if isinstance(node.value, ast.IfExp) else node.value))
    return found


def sample(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return str(text.value)
    assert isinstance(text, ast.JoinedStr), ast.unparse(text)
    return "".join(
        VALUES.get(ast.unparse(part.value), "x7") if isinstance(part, ast.FormattedValue) else sample(part)
        for part in text.values
    )


def untold(language: str, text: str) -> list[str]:
    """What stays English of a text."""
    return [piece for piece, known in retold(language, text) if not known]


@pytest.mark.parametrize("language", OTHERS)
def test_each_reason_of_policy_budget_and_votes_is_told_in_the_language(language: str) -> None:
    assert len(reasons()) > 40
    assert {text: left for text in reasons() if (left := untold(language, text))} == {}


@pytest.mark.parametrize("language", OTHERS)
def test_each_row_of_a_jobs_terms_is_told_in_the_language_and_what_is_the_coordinators_stays(language: str) -> None:
    rows = [row for setting, (value, more) in CHANGES.items() for row in rows_of({**more, setting: value})]
    rows += [row for setting, value in SETTINGS.items() for row in rows_of({setting: value})]
    rows += rows_of({"purpose": "found nothing; expected none"}, noise_multiplier=0.1)
    texts = {text for row in rows if row.name not in ("run", "labels", "template") for text in (row.text, *row.unusual)}
    assert {text: left for text in texts | {row.name for row in rows} if (left := untold(language, text))} == {}
    purpose = retold(language, "in the coordinator's words: found nothing; expected none")
    assert "found nothing; expected none" in "".join(piece for piece, _ in purpose)


@pytest.mark.parametrize("done", [None, 0, 1, 49])
@pytest.mark.parametrize("language", OTHERS)
def test_when_a_yes_would_count_is_told_in_the_language(language: str, done: int | None) -> None:
    entry = entry_of().model_copy(update={"offered_at": 0.0, "offered_after": done, "offers": 2})
    for now in (0.0, 1e6):
        assert untold(language, joining(entry, now).text) == []


def test_a_text_that_is_not_known_stays_whole_and_english_and_long_ones_cost_no_time() -> None:
    assert retold("ja", "no such thing; at all") == (("no such thing", False), ("; ", True), ("at all", False))
    assert retold("en", "anything: x") == (("anything: x", True),)
    hostile = "site " + "x: found " * 200
    assert "".join(piece for piece, _ in retold("es", hostile)).endswith("found ")
    assert retold("es", "; " * 5000) == (("; " * 5000, False),)


def test_the_sentences_told_again_are_the_same_in_each_language_with_the_same_places() -> None:
    japanese, spanish = sentences_told("ja"), sentences_told("es")
    assert list(japanese) == list(spanish)
    assert all(places(japanese[one]) == places(one) == places(spanish[one]) for one in japanese)


@pytest.mark.parametrize("language", OTHERS)
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
