"""What commands ask on the terminal: values, passphrases, and a yes before something that cannot be taken back."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import typer

from yoriai.errors import EXIT_INTERRUPTED, EXIT_REFUSED, ConfigError, YoriaiError

_Value = TypeVar("_Value")


def agree(question: str, *, yes: bool, otherwise: str) -> None:
    """Ask yes or no; go on with a yes only.

    Args:
        question: ends in a question mark.
        yes: whether the answer was given on the command line.
        otherwise: what a no means, for the last line on the screen.

    Raises:
        typer.Exit: the answer was no.
    """
    if yes:
        return
    try:
        answered = typer.confirm(question)
    except typer.Abort:
        raise _interrupted(otherwise) from None
    if not answered:
        typer.echo(otherwise)
        raise typer.Exit(EXIT_REFUSED)


def ask(question: str, default: str | None, take: Callable[[str], _Value]) -> _Value:
    """Ask until `take` accepts the answer; what it says about a wrong one is shown.

    Raises:
        typer.Exit: there is nobody to answer.
    """
    while True:
        try:
            return take(typer.prompt(question, default=default))
        except YoriaiError as error:
            typer.echo(f"  {error}")
        except typer.Abort:
            raise _interrupted("nothing was written") from None


@dataclass(frozen=True)
class Question:
    """A setting that is asked for: its option, its meaning in one line, and how an answer is read."""

    option: str
    meaning: str
    take: Callable[[str], object] = str


def ask_settings(
    questions: Mapping[str, Question],
    given: Mapping[str, object],
    defaults: Mapping[str, object],
    check: Callable[[Mapping[str, object]], object],
) -> dict[str, object]:
    """Ask for every setting that was not given; a wrong answer is asked for again.

    Args:
        questions: by dotted key, in the order in which they are asked.
        given: what the command line said already, by the same keys.
        defaults: what an empty answer stands for; a key that is not there needs an answer.
        check: gets all settings so far and refuses them with an error of Yoriai's.

    Raises:
        typer.Exit: there is nobody to answer.
    """
    settings = dict(given)
    for key, question in questions.items():
        if key in given:
            continue
        default = shown(defaults[key]) if key in defaults else None

        def take(text: str, key: str = key, default: str | None = default, question: Question = question) -> object:
            value = defaults[key] if text == default else question.take(text)
            check({**settings, key: value})
            return value

        typer.echo(question.meaning)
        settings[key] = ask(f"  {key.rpartition('.')[2].replace('_', ' ')}", default, take)
    return settings


def number(kind: type[int] | type[float]) -> Callable[[str], object]:
    """How a number is read; what is none stays a text, and the settings' own check says what was expected."""

    def take(text: str) -> object:
        try:
            return kind(text)
        except ValueError:
            return text

    return take


def shown(value: object) -> str:
    """A default as the question shows it, and as it would be typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def passphrase(file: Path | None, *, new: bool = False) -> bytes:
    """The passphrase of the CA's key, from a file or from the terminal, where it is not shown.

    Args:
        file: its first line counts; nobody else may be able to read it.
        new: whether it is being chosen, so that it is asked for twice.

    Raises:
        ConfigError: the file is open to others or cannot be read, or there is no terminal to ask on.
    """
    if file is not None:
        return _first_line(file)
    if not _can_ask():
        raise ConfigError("there is no terminal to ask for the passphrase on", remedy="name --passphrase-file FILE")
    try:
        text = typer.prompt("Passphrase of the CA's key", hide_input=True, confirmation_prompt=new)
    except typer.Abort:
        raise _interrupted("nothing was written") from None
    return str(text).encode()


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _first_line(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode & 0o777
            line = opened.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        found = error.strerror or "an input error"
        raise ConfigError(f"passphrase file {file} cannot be read", found=found, remedy="check the path") from None
    if mode & 0o077:
        raise ConfigError(f"passphrase file {file} is open to others", found=oct(mode), remedy=f"chmod 600 {file}")
    if not line:
        raise ConfigError(f"passphrase file {file} is empty", expected="the passphrase on its first line")
    return line


def _interrupted(otherwise: str) -> typer.Exit:
    typer.echo(f"\n{otherwise}")
    return typer.Exit(EXIT_INTERRUPTED)
