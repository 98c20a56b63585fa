"""What the commands that set up a site and a server have in common: their options, questions and what they show."""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from yoriai.asking import Question, ask_settings
from yoriai.terminal import say, say_rows

if TYPE_CHECKING:
    from pydantic import BaseModel

_Config = TypeVar("_Config", bound="BaseModel")

Authority = Annotated[
    Path | None, typer.Option("--authority", help="authority.der: the CA, pinned from the first time on.")
]
Roster = Annotated[Path | None, typer.Option("--roster", help="The newest roster.")]
Revocations = Annotated[Path | None, typer.Option("--revocations", help="revocations.der: the newest revocation list.")]
Compared = Annotated[bool, typer.Option("--yes", help="Ask nothing; the CA's fingerprint has been compared.")]
Unasked = Annotated[bool, typer.Option("--yes", help="Ask nothing; what is not given has its default.")]


def option_of(question: Question, *more: str) -> Any:
    """The option that answers a question; `more` is what its declaration ends in."""
    return typer.Option(question.option + "".join(more), help=question.meaning)


def asked_config(
    questions: Mapping[str, Question],
    answers: Mapping[str, object],
    stand_ins: Mapping[str, object],
    check: Callable[[Mapping[str, object]], _Config],
) -> _Config:
    """The settings after asking for every one that was not given; a wrong answer is asked for again.

    Args:
        questions: by dotted key.
        answers: what was given, by the same keys.
        stand_ins: what a check fills in for what was not asked yet; it has no default.
        check: makes the settings, or refuses them with an error of Yoriai's.

    Raises:
        ConfigError: what was given does not go together.
        typer.Exit: there is no one to answer.
    """
    if answers:
        check({**stand_ins, **answers})
    tables: Any = check(stand_ins).model_dump()
    keys = [key for key in questions if key not in stand_ins]
    defaults = {key: reduce(lambda table, part: table[part], key.split("."), tables) for key in keys}
    return check(ask_settings(questions, answers, defaults, lambda settings: check({**stand_ins, **settings})))


def show_request(place: Path, holder: str, fingerprint: str) -> None:
    """Where the request lies, and what to read out; the caller names the command that comes next."""
    say(f"wrote {place}; take it to the consortium")
    say(f"fingerprint of {holder} key, to read out when they ask:")
    say_rows(fingerprint)
    say("next, with the files that they give you:")
