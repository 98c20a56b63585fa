"""From what pydantic and tomllib refuse to what a person can mend: place, found, expected, remedy.

Nothing here knows a setting by name but `schema`; the texts follow from the models' own types and bounds, so that they
cannot drift.
"""

import difflib
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from yoriai.errors import ConfigError, YoriaiError

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list of texts"}
_BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}
_LONGEST_FOUND = 80
KeyPath = tuple[str | int, ...]
# Where a setting stands: a number to sort by, and the place in words.
Place = Callable[[KeyPath], tuple[int, str]]


@dataclass(frozen=True)
class Expected:
    """Annotation metadata: what a setting may hold, where its type and bounds do not say it plainly enough."""

    text: str


def toml_value(value: object) -> str:
    """The value as TOML writes it on one line; what TOML cannot write (None, an object) as its type's name."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    try:
        return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")
    except (TypeError, ValueError):
        return f"a value of type {type(value).__name__}"


def bare_type(field: FieldInfo) -> Any:
    """The field's type without the `| None` that only says that it may be left out."""
    annotation = _unwrapped(field)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _unwrapped(field: FieldInfo) -> Any:
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(arm for arm in get_args(annotation) if arm is not type(None))
    return annotation


def expected_of(field: FieldInfo) -> str:
    """What this setting may hold, in words: 'a number above 0 and at most 1', 'one of "local", "none"'."""
    # pydantic unpacks Annotated into the field's metadata, but not where it stands inside `| None`.
    metadata = [*field.metadata, *getattr(_unwrapped(field), "__metadata__", ())]
    told = [mark.text for mark in metadata if isinstance(mark, Expected)]
    if told:
        return told[-1]
    kind = bare_type(field)
    if get_origin(kind) is Literal:
        choices = [toml_value(choice) for choice in get_args(kind)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if _is_table(kind):
        return "a table with " + ", ".join(keys_of(kind))
    bounds = [
        f"{word} {getattr(mark, name):g}"
        for mark in field.metadata
        for name, word in _BOUNDS.items()
        if hasattr(mark, name)
    ]
    return " ".join([_TYPE_NAMES[get_origin(kind) or kind], " and ".join(bounds)]).strip()


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's fields by the key that stands in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def dotted(path: KeyPath) -> str:
    """`("task", "labels", 1)` as `task.labels[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def syntax_error(source: str, text: str, error: ValueError | RecursionError) -> ConfigError:
    """The one fault of a text that is not TOML at all, placed where tomllib stopped, or else at the end."""
    found = str(error)
    told = re.search(r" \(at line (\d+), column (\d+)\)$", found)
    place = f"line {told[1]} column {told[2]}" if told else f"line {len(text.rstrip().splitlines())}"
    fault = ConfigError(
        f"{source} {place}: this is not TOML",
        found=re.sub(r" \(at [^()]*\)$", "", found),
        expected='lines like `key = value`, and texts in "quotes"',
        remedy="mend this line; the settings are checked after that",
    )
    return all_faults(source, [fault])


def all_faults(source: str, faults: Iterable[YoriaiError]) -> ConfigError:
    """One error that carries every fault; its message lists them, so that no caller can show only the first."""
    every = tuple(faults)
    if len(every) == 1:
        only = every[0]
        return ConfigError(only.what, faults=every, found=only.found, expected=only.expected, remedy=only.remedy)
    return ConfigError("\n  ".join([f"{source}: {len(every)} faults", *map(str, every)]), faults=every)


def faults_of(error: ValidationError, model: type[BaseModel], place: Place) -> list[YoriaiError]:
    """Each of pydantic's complaints about `model` as a fault, in the order of their places.

    Args:
        error: what validating a `model` raised.
        model: the model of the whole file.
        place: where a setting stands.
    """
    complaints = sorted(error.errors(include_url=False), key=lambda details: place(details["loc"])[0])
    return [_fault(details, model, place(details["loc"])[1]) for details in complaints]


def schema_fault(where: str, *, found: str = "") -> YoriaiError:
    """The file's `schema` line is not there, or names a version that this code does not read."""
    if not found:
        return ConfigError(f"{where} is missing", expected="1", remedy="add `schema = 1` at the top of the file")
    remedy = "write `schema = 1`, or install the Yoriai that wrote this file"
    return ConfigError(f"{where}: this Yoriai reads schema 1", found=found, remedy=remedy)


def _fault(details: ErrorDetails, model: type[BaseModel], where: str) -> YoriaiError:
    path, found = details["loc"], _shown(details["input"])
    if details["type"] == "extra_forbidden":
        return _unknown(path, model, where, details["input"])
    if path == ("schema",):
        return schema_fault(where, found=found)
    field = _field_at(path, model)
    expected = expected_of(field)
    if details["type"] == "missing":
        remedy = f"add `{path[-1]} = ...` {_home(path)}"
        return ConfigError(f"{where} is missing", expected=expected, remedy=remedy)
    return ConfigError(f"{where} {_complaint(details)}", found=found, expected=expected, remedy=_remedy(details, field))


def _complaint(details: ErrorDetails) -> str:
    kind = details["type"]
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "literal_error":
        return "is not one of the choices"
    if kind.startswith(("greater_than", "less_than")) or kind == "finite_number":
        return "is out of range"
    return "has the wrong type" if kind.endswith("_type") else "is not valid"


def _remedy(details: ErrorDetails, field: FieldInfo) -> str:
    found, kind = details["input"], bare_type(field)
    if get_origin(kind) is Literal:
        near = difflib.get_close_matches(str(found), [str(choice) for choice in get_args(kind)], n=1)
        if near:
            return f"did you mean {toml_value(near[0])}?"
    if _is_table(kind):
        name = dotted(details["loc"])
        return f"write [{name}] on a line of its own, and the settings below it"
    if field.is_required():
        return "change it"
    default = field.get_default(call_default_factory=True)
    return (
        "change or remove it" if default is None else f"change it, or remove it for the default {toml_value(default)}"
    )


def _unknown(path: KeyPath, model: type[BaseModel], where: str, value: object) -> YoriaiError:
    key = str(path[-1])
    here = keys_of(model if len(path) == 1 else bare_type(_field_at(path[:-1], model)))
    found = f"[{dotted(path)}]" if isinstance(value, Mapping) else _shown(value)
    remedy = _nearest(key, here, model)
    return ConfigError(f"{where} is not a setting", found=found, expected=f"one of {', '.join(here)}", remedy=remedy)


def _nearest(key: str, here: Iterable[str], model: type[BaseModel]) -> str:
    """The known name that was likely meant: this very key in another table, or the likest here, or else anywhere."""
    homes: dict[str, list[str]] = {}
    for known in _settings(model):
        homes.setdefault(str(known[-1]), []).append(_home(known))
    if key in homes:
        return f"{key} belongs {' or '.join(homes[key])}"
    near = difflib.get_close_matches(key, here, n=1)
    if near:
        return f"did you mean {near[0]}?"
    far = difflib.get_close_matches(key, homes, n=1)
    return f"did you mean {far[0]}? It belongs {' or '.join(homes[far[0]])}" if far else "remove it"


def _settings(model: type[BaseModel]) -> Iterator[KeyPath]:
    """The path of each setting and each table of the model."""
    for name, field in keys_of(model).items():
        yield (name,)
        kind = bare_type(field)
        if _is_table(kind):
            yield from ((name, *rest) for rest in _settings(kind))


def _home(path: KeyPath) -> str:
    return "at the top of the file, before the first table" if len(path) == 1 else f"under [{dotted(path[:-1])}]"


def _field_at(path: KeyPath, model: type[BaseModel]) -> FieldInfo:
    """The deepest field on a path that is not empty; an item of a list is described by its list."""
    field = keys_of(model)[str(path[0])]
    kind = bare_type(field)
    return _field_at(path[1:], kind) if len(path) > 1 and _is_table(kind) else field


def _is_table(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: object) -> str:
    text = toml_value(value)
    return text if len(text) <= _LONGEST_FOUND else text[: _LONGEST_FOUND - 3] + "..."
