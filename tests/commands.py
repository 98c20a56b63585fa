"""The real command line in this process, as an operator with an 80-column terminal sees it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from yoriai import cli
from yoriai.errors import YoriaiError

PASSPHRASE = "correct horse battery"


@dataclass(frozen=True)
class Outcome:
    """Exit code, and everything on the screen."""

    code: int
    screen: str

    @property
    def document(self) -> Any:
        """What `--json` printed; before it a slow machine is told that it is at work."""
        return json.loads(self.screen[self.screen.index("{") :])


def yoriai(*arguments: object, answers: str = "") -> Outcome:
    """Run one command; an error of Yoriai's own ends it as `yoriai.cli.main` does."""
    done = CliRunner().invoke(
        cli.command(), [str(argument) for argument in arguments], input=answers, env={"COLUMNS": "80"}
    )
    if isinstance(done.exception, YoriaiError):
        return Outcome(done.exception.exit_code, f"{done.output}error: {done.exception}\n")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Outcome(done.exit_code, done.output)


@dataclass(frozen=True)
class Office:
    """A consortium's machine: the CA's folder and the file with its passphrase."""

    folder: Path
    passphrase: Path

    def run(self, command: str, *arguments: object, answers: str = "") -> Outcome:
        """A command of `yoriai federation` on this folder."""
        place = (self.folder,) if command == "init" else ("--folder", self.folder)
        end = ("--passphrase-file", self.passphrase)
        return yoriai("federation", command, *arguments, *place, *end, answers=answers)

    def member(self, name: str) -> Path:
        """A member's certificate file."""
        return self.folder / "members" / f"{name}.cert"


def found(folder: Path, name: str = "miyagi") -> Office:
    """A consortium that has just begun."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "passphrase", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{PASSPHRASE}\n")
    office = Office(folder / "ca", folder / "passphrase")
    assert office.run("init", "--name", name).code == 0
    return office


def site(folder: Path, name: str) -> Path:
    """A site with keys and a request."""
    assert yoriai("site", "init", folder, "--name", name, "--yes").code == 0
    assert yoriai("site", "enrol", folder).code == 0
    return folder


def server(folder: Path, *options: object, name: str = "office") -> Path:
    """A coordinator's machine with a request, for sites on this machine."""
    made = yoriai("server", "init", folder, "--name", name, "--host", "127.0.0.1", *options, "--yes")
    assert made.code == 0, made.screen
    assert yoriai("server", "enrol", folder).code == 0
    return folder


def check_command(words: list[str]) -> None:
    """Raise click's error unless there is such a command, with such options and that many arguments."""
    command = cli.command()
    context = click.Context(command, info_name="yoriai")
    while isinstance(command, click.Group):
        if not words:
            return
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]}")
        command, context, words = found, click.Context(found, info_name=words[0], parent=context), words[1:]
    given, surplus, _ = command.make_parser(context).parse_args(list(words))
    if surplus:
        raise click.UsageError(f"too many arguments: {surplus}")
    # In running text a command is often named without what it works on; with anything given it has to be whole.
    missing = [param.name for param in command.params if param.required and not given.get(param.name or "")]
    if words and missing:
        raise click.UsageError(f"missing: {missing}")
