"""From a row to what it teaches: which columns hold prompt and response, a text, or messages, and their values.

Columns that are named win over those that are guessed; where a guess could go two ways, the user is asked.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from yoriai.client.records.rows import kind_of
from yoriai.config import RecordsSection
from yoriai.errors import ConfigError, RecordError

_ROLES: Final = ("system", "user", "assistant")
_SHAPES: Final = '{"prompt", "response"}, {"text"} or {"messages": [{"role", "content"}, ...]}'
# Next to a text, each of these may be what is to be learnt of it.
_LIKE_LABELS: Final = ("label", "labels", "class", "category", "target", "answer", "output", "completion")
_NAME_THEM: Final = (
    "name the columns: --prompt-field and --response-field (at a site, records.prompt_field and "
    "records.response_field); --prompt-field alone is a column that is the whole record"
)
_EXACT: Final = 2**53  # Beyond it a whole number written as a fraction need not be the one that was meant.


@dataclass(frozen=True)
class Reading:
    """How a file's records are to be read.

    Attributes:
        encoding: of its text; empty stands for UTF-8.
        prompt_field: the column or key of the prompt; of the text or the messages, where there is no response. Empty
            stands for `prompt` with `response`, `text`, or `messages`, whichever is there.
        response_field: that of the response; empty stands for `response`, if it is there.

    Raises:
        ConfigError: both name one column.
    """

    encoding: str = ""
    prompt_field: str = ""
    response_field: str = ""

    def __post_init__(self) -> None:
        """Refuse one column for both."""
        if self.prompt_field and self.prompt_field == self.response_field:
            raise ConfigError("prompt and response are one column", found=self.prompt_field, remedy="name two columns")

    @classmethod
    def of(cls, settings: RecordsSection) -> Self:
        """As a site's file has it."""
        return cls(settings.encoding, settings.prompt_field, settings.response_field)


@dataclass(frozen=True)
class Contents:
    """What a row holds: a prompt with its response, a text, or messages as (role, content); and by which keys."""

    keys: tuple[str, ...]
    prompt: str | None = None
    response: str | None = None
    text: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None


def contents(place: str, row: Mapping[str, object], reading: Reading) -> Contents:
    """What a row holds, by the columns that are named or, without names, by those that are there.

    Raises:
        RecordError: a column that is named is missing, the shape is unknown or could be two, a value is no text.
    """
    keys = _named(place, row, reading) if reading.prompt_field or reading.response_field else _guessed(place, row)
    if len(keys) == 2:
        prompt, response = keys
        return Contents(keys, prompt=_filled(place, prompt, row[prompt]), response=_answer(place, response, row))
    value = row[keys[0]]
    if keys == ("messages",) or isinstance(value, list):
        return Contents(keys, messages=_messages(place, value))
    return Contents(keys, text=_filled(place, keys[0], value))


def as_text(place: str, value: object) -> str:
    """A value of another column, or an owner, as one text: 7, 7.0 and "7" are one.

    Raises:
        RecordError: it has too many levels.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return _number(value)
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except RecursionError:
        raise RecordError(f"{place}: a value has too many levels", remedy="take it out") from None


def is_missing(value: object) -> bool:
    """Whether a value stands for none: null, or NaN as tables write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _named(place: str, row: Mapping[str, object], reading: Reading) -> tuple[str, ...]:
    prompt, response = reading.prompt_field, reading.response_field
    for name in (prompt, response):
        if name and name not in row:
            raise RecordError(f"{place}: no column or key {name!r}, which was named", remedy="correct the name")
    if not prompt:
        there = [key for key in ("prompt", "text") if key in row and key != response]
        if len(there) != 1:
            raise RecordError(
                f"{place}: which column is the prompt?",
                found=" and ".join(there) or "neither prompt nor text",
                remedy="name it too: --prompt-field (at a site, records.prompt_field)",
            )
        return there[0], response
    if not response and (prompt == "response" or "response" not in row):
        return (prompt,)
    return prompt, response or "response"


def _guessed(place: str, row: Mapping[str, object]) -> tuple[str, ...]:
    known = tuple(key for key in ("prompt", "response", "text", "messages") if key in row)
    labels = [key for key in row if key.lower() in _LIKE_LABELS and not is_missing(row[key])]
    if known not in (("prompt", "response"), ("text",), ("messages",)):
        raise RecordError(
            f"{place}: unknown kind of record",
            found="the fields " + ", ".join((*known, *labels)) if known else "none of the known fields",
            expected=_SHAPES,
            remedy=_NAME_THEM,
        )
    if known == ("text",) and labels:
        raise RecordError(
            f"{place}: a text alone, or a text with its label?",
            found="the fields " + ", ".join((*known, *labels)),
            expected="one of the two to be named",
            remedy=f"--prompt-field text --response-field {labels[0]}, or --prompt-field text for the texts alone (at "
            "a site, records.prompt_field and records.response_field)",
        )
    return known


def _messages(place: str, value: object) -> tuple[tuple[str, str], ...]:
    """Turns that a chat template can render and a loss can be taken on: somebody speaks before the assistant does."""
    turns: list[tuple[str, str]] = []
    for turn in value if isinstance(value, list) else ():
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in _ROLES:
            raise RecordError(f"{place}: a message without a known role", expected=", ".join(_ROLES))
        turns.append((role, _filled(place, "content", turn.get("content"))))
    roles = [role for role, _ in turns]
    if "assistant" not in roles or roles[0] == "assistant":
        raise RecordError(
            f"{place}: nothing to learn from these messages", expected="an assistant's turn after another's"
        )
    return tuple(turns)


def _answer(place: str, key: str, row: Mapping[str, Any]) -> str:
    """The response; a number or truth value, as labels often are, becomes the text that JSON has for it."""
    value = row[key]
    if isinstance(value, int | float) and math.isfinite(value):
        return _number(value)
    return _filled(place, key, value)


def _number(value: float) -> str:
    """1, 1.0 and 1e0 are one number, `1`; true is no number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return json.dumps(value)


def _filled(place: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "an empty text" if isinstance(value, str) else kind_of(value)
        raise RecordError(
            f"{place}: field {key} holds no text",
            found=found,
            expected="a text that is not empty",
            remedy="fill it, or take the record out",
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RecordError(f"{place}: field {key} is not valid Unicode", found="half of a surrogate pair")
    return value
