"""What `--help` shows of every command is what was written."""

import re
from collections.abc import Iterator

import click

from yoriai.cli import command

# What the terminal takes for a style, and shows as nothing; behind a backslash it is text.
MARKUP = re.compile(r"(?<!\\)\[[a-z/]")


def helps(of: click.Command) -> Iterator[str]:
    """The helps of a command, of its options, and of all commands below."""
    yield of.help or ""
    yield from (str(getattr(option, "help", None) or "") for option in of.params)
    for below in getattr(of, "commands", {}).values():
        yield from helps(below)


def test_no_help_has_brackets_that_the_terminal_takes_for_markup() -> None:
    found = list(helps(command()))
    assert len(found) > 300
    assert [text for text in found if MARKUP.search(text)] == []
