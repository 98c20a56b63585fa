"""Sentence templates with alternatives, and sentences drawn from them.

    turn on         text, spaces as they stand
    (a|b)           one of them
    [a|b]           one of them, or nothing
    (a;b)           all of them, in any order
    <rule>          a named template of the grammar
    {list}          one value of a named list, itself a template; what follows a colon, as in {list:slot}, is ignored

Brackets nest; `|` and `;` do not share a bracket. This is the subset of hassil's notation that Home Assistant's intents
use. A template stands for up to billions of sentences, so they are drawn, never listed.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from yoriai.errors import RecordError

_TOKEN: Final = re.compile(r"[()\[\]|;]|<[^<>]*>|\{[^{}]*\}|[^()\[\]|;<>{}]+|.", re.DOTALL)
_CLOSING: Final = {"(": ")", "[": "]"}
# Draws for each sentence asked for, before a template counts as exhausted.
_ATTEMPTS: Final = 8


@dataclass(frozen=True)
class Grammar:
    """What templates of one language refer to: rules by name, and the values of each list."""

    rules: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class _Choice:
    options: tuple["_Node", ...]


@dataclass(frozen=True)
class _Row:
    """Parts one after another as they stand, or in any order with a space between."""

    parts: tuple["_Node", ...]
    any_order: bool = False


@dataclass(frozen=True)
class _Reference:
    kind: Literal["rule", "list"]
    name: str


_Node = str | _Choice | _Row | _Reference


def sentences(template: str, grammar: Grammar, count: int, key: str) -> tuple[str, ...]:
    """Up to `count` distinct sentences: lower case, each run of white space one space.

    A choice takes each of its options with equal probability, nothing at all being one option of `[a|b]`.

    Args:
        template: in the notation above.
        grammar: resolves its references.
        count: how many at most; a template with few sentences gives fewer.
        key: decides the draw together with the template. Both go through SHA-512, so that every machine draws alike.

    Raises:
        RecordError: a bracket has no partner, or a rule or list is unknown or contains itself.
    """
    generator = random.Random(f"{key}/{template}")
    drawn: dict[str, None] = {}
    for _ in range(count * _ATTEMPTS):
        try:
            text = " ".join(_spoken(_parsed(template), grammar, generator).lower().split())
        except RecursionError:
            raise RecordError("a rule of a sentence template contains itself") from None
        if text:
            drawn[text] = None
        if len(drawn) == count:
            break
    return tuple(drawn)


def _spoken(node: _Node, grammar: Grammar, generator: random.Random) -> str:
    match node:
        case str():
            return node
        case _Choice(options):
            return _spoken(generator.choice(options), grammar, generator)
        case _Row(parts, any_order):
            order = generator.sample(parts, len(parts)) if any_order else parts
            return (" " if any_order else "").join(_spoken(part, grammar, generator) for part in order)
        case _Reference(kind, name):
            known: Mapping[str, str | Sequence[str]] = grammar.rules if kind == "rule" else grammar.lists
            if not (found := known.get(name)):
                raise RecordError(f"a sentence template refers to an unknown {kind}", found=name)
            text = found if isinstance(found, str) else generator.choice(found)
            return _spoken(_parsed(text), grammar, generator)


@cache
def _parsed(template: str) -> _Node:
    tokens = _TOKEN.findall(template)
    node, end = _group(tokens, 0, template)
    if end != len(tokens):
        raise _unbalanced(template)
    return node


def _group(tokens: list[str], start: int, template: str) -> tuple[_Node, int]:
    """The node from `start` up to a closing bracket or the end, and where it stops."""
    rows: list[list[_Node]] = [[]]
    separators = set()
    position = start
    while position < len(tokens) and (token := tokens[position]) not in (")", "]"):
        if token in ("|", ";"):
            separators.add(token)
            rows.append([])
        elif token in _CLOSING:
            inner, position = _group(tokens, position + 1, template)
            if position == len(tokens) or tokens[position] != _CLOSING[token]:
                raise _unbalanced(template)
            rows[-1].append(_Choice((*_options(inner), "")) if token == "[" else inner)
        else:
            rows[-1].append(_leaf(token, template))
        position += 1
    if len(separators) == 2:
        raise RecordError("a sentence template mixes | and ; in one bracket", found=template)
    parts = tuple(_Row(tuple(row)) for row in rows)
    if ";" in separators:
        return _Row(parts, any_order=True), position
    return parts[0] if len(parts) == 1 else _Choice(parts), position


def _options(node: _Node) -> tuple[_Node, ...]:
    return node.options if isinstance(node, _Choice) else (node,)


def _leaf(token: str, template: str) -> _Node:
    if token[0] in "<{" and len(token) > 1:
        return _Reference("rule" if token[0] == "<" else "list", token[1:-1].partition(":")[0])
    if token in ("<", ">", "{", "}"):
        raise _unbalanced(template)
    return token


def _unbalanced(template: str) -> RecordError:
    return RecordError("a bracket of a sentence template has no partner", found=template)
