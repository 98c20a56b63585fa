"""What `--help` shows of every command is what was written."""

import re
from collections.abc import Iterator

import click
from typer.main import get_command

from yoriai.cli import app

# What the terminal takes for a style, and shows as nothing; behind a backslash it is text.
MARKUP = re.compile(r"(?<!\\)\[[a-z/]")


def helps(command: click.Command) -> Iterator[str]:
    """The helps of a command, of its options, and of all commands below."""
    yield command.help or ""
    yield from (str(getattr(option, "help", None) or "") for option in command.params)
    for below in getattr(command, "commands", {}).values():
        yield from helps(below)


def test_no_help_has_brackets_that_the_terminal_takes_for_markup() -> None:
    found = list(helps(get_command(app)))
    assert len(found) > 300
    assert [text for text in found if MARKUP.search(text)] == []
