"""The commands scenario: the notation on small templates, the promises about split and labels with the real files."""

import json
import zipfile
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest

from yoriai.client.base import assets
from yoriai.errors import RecordError
from yoriai.simulations.scenarios.commands import (
    ASSET,
    INTENTS,
    LABELS,
    LANGUAGES,
    TEMPLATE,
    CommandTemplate,
    commands,
    default_job,
    load_templates,
)
from yoriai.simulations.scenarios.partition import Record, SiteRecords, infer_task_kind
from yoriai.simulations.scenarios.templates import Grammar, sentences
from yoriai.simulations.scenarios.vocabulary import WORDS

GRAMMAR = Grammar(
    rules={"the": "[the|my]", "lamp": "<the> {lamp:name}", "either": "a|b", "loop": "x <loop>"},
    lists={"lamp": ("desk lamp", "light[s]"), "empty": ()},
)
ALL = 60


def _all(template: str) -> set[str]:
    return set(sentences(template, GRAMMAR, ALL, "key"))


def _wheel(path: Path, **files: dict[str, object]) -> Path:
    """A wheel whose languages have one turn-on template each, but for the files given."""
    with zipfile.ZipFile(path, "w") as archive:
        for language in LANGUAGES:
            file = files.get(language) or _file({"HassTurnOn": [f"turn on {language}"]})
            archive.writestr(f"home_assistant_intents/data/{language}.json", json.dumps(file))
    return path


def _file(intents: dict[str, list[str]], **block: object) -> dict[str, object]:
    return {
        "intents": {name: {"data": [{"sentences": texts, **block}]} for name, texts in intents.items()},
        "lists": {"position": {"range": {"from": 10, "to": 30, "step": 10}}, "anything": {"wildcard": True}},
        "expansion_rules": {},
    }


def _texts(templates: tuple[CommandTemplate, ...], language: str = "en") -> list[tuple[str, str]]:
    return [
        (text, template.label) for template in templates if template.language == language for text in template.sentences
    ]


def _prompts(sites: tuple[SiteRecords, ...], part: str) -> set[str]:
    return {record.prompt or "" for site in sites for record in getattr(site, part)}


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The real files, from the cache or from their wheel (775 kB)."""
    return assets.fetch(ASSET)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("turn  on", {"turn on"}),
        ("Turn ON", {"turn on"}),
        ("(a|b) c", {"a c", "b c"}),
        ("[very] good", {"good", "very good"}),
        ("[a|b] c", {"c", "a c", "b c"}),
        ("light[s]", {"light", "lights"}),
        ("5( |-)minute", {"5 minute", "5-minute"}),
        ("(a;b;c)", {" ".join(order) for order in permutations("abc")}),
        ("(a;[b])", {"a", "a b", "b a"}),
        ("((a|b);c)", {"a c", "c a", "b c", "c b"}),
        ("a|b", {"a", "b"}),
        ("<either> c", {"a c", "b c"}),
        ("<lamp> on", {f"{the}{lamp} on" for the in ("", "the ", "my ") for lamp in ("desk lamp", "light", "lights")}),
    ],
)
def test_a_template_gives_all_its_sentences_and_no_others(template: str, expected: set[str]) -> None:
    assert _all(template) == expected


def test_no_more_sentences_than_asked_for_and_none_twice() -> None:
    drawn = sentences("<lamp> (a|b) (c|d)", GRAMMAR, 5, "key")
    assert len(drawn) == len(set(drawn)) == 5


def test_the_draw_depends_on_the_key_alone() -> None:
    template = "<lamp> (a|b) (c|d) (e|f) (g|h)"
    assert sentences(template, GRAMMAR, 4, "key") == sentences(template, GRAMMAR, 4, "key")
    assert sentences(template, GRAMMAR, 4, "key") != sentences(template, GRAMMAR, 4, "other")


@pytest.mark.parametrize("template", ["(a", "a)", "[a)", "(a]", "<a", "{a", "a>", "([a)]"])
def test_a_bracket_without_a_partner_is_refused(template: str) -> None:
    with pytest.raises(RecordError, match="no partner"):
        _all(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("<nothing>", "unknown rule.*nothing"),
        ("{nothing}", "unknown list.*nothing"),
        ("{empty}", "unknown list.*empty"),
        ("<loop>", "contains itself"),
        ("(a|b;c)", "mixes"),
    ],
)
def test_a_template_that_cannot_be_resolved_is_refused(template: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        _all(template)


def test_ranges_are_counted_in_their_steps(tmp_path: Path) -> None:
    file = _file({"HassSetPosition": ["to {position:level}"]})
    texts = _texts(load_templates(_wheel(tmp_path / "w.whl", en=file)))
    assert {text for text, _ in texts} == {"to 10", "to 20", "to 30"}


def test_a_name_is_of_a_domain_that_the_template_asks_for(tmp_path: Path) -> None:
    file = _file({"HassTurnOn": ["open {name}"]}, requires_context={"domain": ["cover", "valve"]})
    texts = _texts(load_templates(_wheel(tmp_path / "w.whl", en=file)))
    assert {text for text, _ in texts} == {"open left blind", "open garage door"}


def test_a_text_under_two_intents_is_dropped_in_every_language(tmp_path: Path) -> None:
    english = _file({"HassTurnOn": ["Go", "start"], "HassTurnOff": ["halt"]})
    spanish = _file({"HassTurnOff": ["go", "para"]})
    templates = load_templates(_wheel(tmp_path / "w.whl", en=english, es=spanish))
    assert _texts(templates) == [("halt", "turn off"), ("start", "turn on")]
    assert _texts(templates, "es") == [("para", "turn off")]


def test_of_a_text_twice_under_one_intent_the_first_stays(tmp_path: Path) -> None:
    files = {language: _file({"HassTurnOn": ["(go|go)", "go", f"now {language}"]}) for language in ("en", "es")}
    templates = load_templates(_wheel(tmp_path / "w.whl", **files))
    assert _texts(templates) == [("go", "turn on"), ("now en", "turn on")]
    assert _texts(templates, "es") == [("now es", "turn on")]


def test_of_two_templates_one_tests_and_a_single_one_trains(tmp_path: Path) -> None:
    file = _file({"HassTurnOn": ["one", "two"], "HassTurnOff": ["three"]})
    site = commands(wheel=_wheel(tmp_path / "w.whl", en=file))[0]
    assert [record.response for record in site.test] == ["turn on"]
    assert sorted(record.response or "" for record in site.train) == ["turn off", "turn on"]


def test_the_seed_decides_which_templates_test(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "w.whl", en=_file({"HassTurnOn": [f"text {number}" for number in range(50)]}))
    drawn = [_prompts(commands(seed, wheel=wheel)[:1], "test") for seed in (0, 1)]
    assert len(drawn[0]) == len(drawn[1]) == 10
    assert drawn[0] != drawn[1]


def test_intents_take_turns_however_many_templates_each_has(tmp_path: Path) -> None:
    many = [f"many {number}" for number in range(500)]
    file = _file({"HassTurnOn": many, "HassTurnOff": [f"few {number}" for number in range(10)]})
    site = commands(wheel=_wheel(tmp_path / "w.whl", en=file))[0]
    assert Counter(record.response for record in site.train) == {"turn on": 242, "turn off": 8}
    assert Counter(record.response for record in site.test) == {"turn on": 58, "turn off": 2}


@pytest.mark.parametrize("content", [b"", b"PK", b"[]"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.whl").write_bytes(content)
    with pytest.raises(RecordError, match="not the voice commands"):
        load_templates(tmp_path / "w.whl")


def test_a_wheel_with_other_contents_is_refused(tmp_path: Path) -> None:
    others: tuple[dict[str, object], ...] = ({"intents": {}}, {"intents": [], "lists": {}, "expansion_rules": {}})
    for number, file in enumerate(others):
        with pytest.raises(RecordError, match="not the voice commands"):
            load_templates(_wheel(tmp_path / f"{number}.whl", en=file))


def test_labels_are_those_of_at_least_four_languages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [json.loads(archive.read(f"home_assistant_intents/data/{language}.json")) for language in LANGUAGES]
    languages = Counter(intent for file in files for intent in file["intents"])
    assert {intent for intent, count in languages.items() if count >= 4} == set(INTENTS)
    assert len(set(LABELS)) == len(INTENTS) == 38


def test_every_label_is_trained_somewhere_and_every_test_label_too(wheel: Path) -> None:
    sites = commands(wheel=wheel)
    assert {record.response for site in sites for record in site.train} == set(LABELS)
    for site in sites:
        assert {record.response for record in site.test} <= {record.response for record in site.train}


def test_the_published_counts(wheel: Path) -> None:
    sites = commands(wheel=wheel)
    assert {site.name: (len(site.train), len(site.test)) for site in sites} == dict.fromkeys(LANGUAGES, (250, 60))
    assert sites == commands(wheel=wheel)
    assert sites != commands(seed=1, wheel=wheel)


def test_no_text_is_at_two_places(wheel: Path) -> None:
    for validation in (False, True):
        sites = commands(wheel=wheel, validation=validation)
        texts = Counter(record.prompt for site in sites for record in site.train + site.test)
        assert set(texts.values()) == {1}


def test_all_sentences_of_a_template_are_on_one_side(wheel: Path) -> None:
    sites = commands(wheel=wheel)
    train, test = _prompts(sites, "train"), _prompts(sites, "test")
    templates = load_templates(wheel)
    assert not [1 for template in templates if train & set(template.sentences) and test & set(template.sentences)]


def test_validation_never_touches_the_test_templates(wheel: Path) -> None:
    tests = _prompts(commands(wheel=wheel), "test")
    put_away = {text for t in load_templates(wheel) if tests & set(t.sentences) for text in t.sentences}
    tuning = commands(wheel=wheel, validation=True)
    assert all(len(site.test) == 60 for site in tuning)
    assert not put_away & (_prompts(tuning, "train") | _prompts(tuning, "test"))


def test_prompts_are_lower_case_and_short(wheel: Path) -> None:
    records: list[Record] = [record for site in commands(wheel=wheel) for record in site.train + site.test]
    assert all(record.prompt == " ".join((record.prompt or "").lower().split()) for record in records)
    assert not [record for record in records if set(record.prompt or "") & set("<>{}[]()|;")]
    assert max(len(record.prompt or "") for record in records) < 100


def test_the_job_has_the_scenarios_labels_and_its_template_holds_the_prompt_once(wheel: Path) -> None:
    assert infer_task_kind([record for site in commands(wheel=wheel) for record in site.train])[0] == "classify"
    assert (default_job().task.labels, default_job().task.template) == (LABELS, TEMPLATE)
    assert TEMPLATE.count("{prompt}") == 1


def test_every_language_has_the_same_kinds_of_words() -> None:
    assert len({frozenset(words) for words in WORDS.values()}) == 1
    assert {len(words["area"]) for words in WORDS.values()} == {12}
    assert not [1 for words in WORDS.values() for listed in words.values() if len(set(listed)) < len(listed)]
