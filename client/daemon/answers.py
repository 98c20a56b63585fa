"""What may be taken for an answer at a site's sockets, before any of it is shown or acted on.

In `node/` who took over the SuperNode may listen in the keeper's stead, and root may ask. So an answer has exactly the
form that is expected, or is none; and no text of it can redraw a terminal.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from yoriai.errors import DaemonError
from yoriai.terminal import one_line


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Hello(_Answer):
    """The daemon's site and versions."""

    site: str
    socket: int
    protocol: int
    version: str


class Budget(_Answer):
    """The data set's, in epsilon."""

    epsilon_budget: float
    left: float


class DaemonHealth(_Answer):
    """What a daemon is at; other users than its own and root get the state alone."""

    state: str
    messages: int = 0
    waiting: int = 0
    job: str = ""
    round: int = 0
    last_error: str = ""
    budget: Budget | None = None


class NodeHealth(_Answer):
    """What the keeper of a SuperNode says. Nothing beyond it is passed on: anybody may have answered.

    `waits`: it is down until the site's daemon is ready. `accepted`: whether the server took the node when it was
    asked last; None if it was not heard. `server_says`: why not.
    """

    model_config = ConfigDict(extra="ignore")

    site: str
    server: str
    version: str
    running: bool
    pid: int | None
    restarts: int
    since: str
    waits: bool = False
    accepted: bool | None = None
    server_says: str = ""


Form = TypeVar("Form", bound=_Answer)


def answer_of(form: type[Form], note: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in plain values, as far as it was given.

    Raises:
        DaemonError: it has not this form.
    """
    try:
        return form.model_validate(_shown(note)).model_dump(exclude_unset=True)
    except (ValidationError, RecursionError):
        raise DaemonError(
            "what answers at the site's socket does not answer as Yoriai does",
            remedy="see which process listens there (ss -xlp), and start the site anew",
        ) from None


def error_texts(note: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a refusal."""
    return {key: one_line(str(note.get(key, ""))) for key in ("what", "found", "expected", "remedy")}


def _shown(value: Any) -> Any:
    """Every text in it as it may stand on a terminal."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(str(key)): _shown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return value
