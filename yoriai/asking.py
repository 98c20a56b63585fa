"""What commands ask on the terminal: values, passphrases, and a yes before something that cannot be taken back."""

import os
import sys
from collections.abc import Callable
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
