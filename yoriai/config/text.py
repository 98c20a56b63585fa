"""TOML text: a commented file written from the models themselves, and the line on which a setting stands in a file."""

import re
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from yoriai.config.faults import KeyPath, Place, bare_type, dotted, expected_of, keys_of, toml_value

_COLUMNS = 90
# Strings and comments are matched whole, so that a bracket or a line's end inside one is not taken for structure.
_TOKENS = re.compile(
    r'''
      """ (?: \\. | [^\\] )*? "{3,5}  # A text over many lines; it may end in two quotes of its own.
    | \'{3} .*? \'{3,5}
    | " (?: \\. | [^"\\] )* "
    | \' [^\']* \'
    | [#] [^\n]*
    | [\[\]{}\n]
    ''',
    re.DOTALL | re.VERBOSE,
)


def template_of(
    model: type[BaseModel], values: Mapping[str, Any] | None = None, *, left_open: Collection[str] = ()
) -> str:
    """A complete file for `model`: each setting with its meaning and its value.

    Args:
        model: the model of the whole file.
        values: tables of values by key; a setting that is not there has its default, or else an example.
        left_open: dotted keys that are shown switched off, because something else decides where they are not named.
    """
    return "\n".join(_table(model, "", values or {}, left_open)).lstrip("\n") + "\n"


def _table(model: type[BaseModel], name: str, values: Mapping[str, Any], left_open: Collection[str]) -> Iterator[str]:
    yield ""
    yield from _comment(" ".join((model.__doc__ or "").split()))
    if name:
        yield f"[{name}]"
    inner: list[tuple[str, type[BaseModel]]] = []
    for key, field in keys_of(model).items():
        kind = bare_type(field)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((f"{name}.{key}".removeprefix("."), kind))
        else:
            yield ""
            lines = list(_setting(key, field, values.get(key)))
            is_open = f"{name}.{key}" in left_open
            yield from [*lines[:-1], f"#{lines[-1].removeprefix('#')}"] if is_open else lines
    for inner_name, kind in inner:
        yield ""
        yield from _table(kind, inner_name, values.get(inner_name.rpartition(".")[2], {}), left_open)


def _setting(key: str, field: FieldInfo, value: object) -> Iterator[str]:
    yield from _comment(f"{field.description} Expected: {expected_of(field)}.")
    if value is None and not field.is_required():
        value = field.get_default(call_default_factory=True)
    if value is not None:
        yield f"{key} = {toml_value(value)}"
        return
    example = (field.examples or [""])[0]
    # A setting that may be left out is shown switched off.
    yield f"{'' if field.is_required() else '#'}{key} = {toml_value(example)}"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, _COLUMNS - 2, break_on_hyphens=False))


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line on which each key and table of a valid TOML text begins.

    The text is cut into its statements, and tomllib reads each one alone: quoted keys, dotted keys and inline tables
    need no grammar of ours. An item of a list has no line of its own; it is at its list's.
    """
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, statement in _statements(text):
        tree = tomllib.loads(statement)
        is_header = statement.lstrip().startswith("[")
        if is_header:
            table = ()
        paths = list(_paths(tree))
        for path in paths:
            found.setdefault(table + path, line)
        if is_header and paths:
            table = max(paths, key=len)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with its first line: it ends where a line does, outside every string and bracket."""
    text = text.replace("\r\n", "\n") + "\n"
    depth, start, line = 0, 0, 1
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if token[0] == "\n" and depth == 0:
            statement = text[start : token.end()]
            yield line, statement
            start, line = token.end(), line + statement.count("\n")


def _paths(tree: object) -> Iterator[KeyPath]:
    """Every key path in a tree of tables; the first table of an array of tables stands for all."""
    if isinstance(tree, list):
        tree = tree[0] if tree else None
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (key,)
            yield from ((key, *rest) for rest in _paths(value))


def file_place(source: str, text: str) -> Place:
    """Places such as 'job.toml line 7: privacy.epsilon'; a missing key is placed at its table, or at line 1."""
    lines = key_lines(text)

    def place(path: KeyPath) -> tuple[int, str]:
        line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)
        return line, f"{source} line {line}: {dotted(path)}"

    return place
