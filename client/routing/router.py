"""One text after another: kept where the local margin is above the threshold, else asked of the large model.

kept      margin > threshold
held      unsure, and the mode, the day's cap or the operator keeps it here: the local answer stands
large     unsure, redacted, written down, asked, answered
fault     asked, and no answer to believe: the local answer stands, and the reason is told
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import httpx

from yoriai.client.routing.large import Answer, Endpoint, ask, message_for
from yoriai.client.routing.leaving_log import LeavingLog
from yoriai.client.routing.redaction import Finder, redact
from yoriai.errors import StorageError

Where = Literal["kept", "held", "large", "fault"]


@dataclass(frozen=True)
class Local:
    """The small model's answer to a text: its label, and by how much that leads."""

    label: str
    margin: float


@dataclass(frozen=True)
class Routed:
    """What is answered.

    Attributes:
        label: of whoever's answer stands.
        where: as the module says.
        why: in words, where it was held or a fault.
        would_leave: the whole message to the large model, redacted; None where the answer was kept.
        tokens: prompt and answer, by the endpoint's count; None where it counted none.
    """

    label: str
    where: Where
    why: str = ""
    would_leave: str | None = None
    tokens: tuple[int, int] | None = None


class Router:
    """Decides for one version of a site.

    Args:
        threshold: the margin above which answers are kept.
        labels: of the task.
        finders: of what is taken out of a text; at least one.
        endpoint: None for a dry run, which sends nothing.
        log: of what left.
        version: that answers locally, for the log.
        client: talks to the endpoint.
    """

    def __init__(
        self,
        threshold: float,
        labels: Sequence[str],
        finders: Sequence[Finder],
        *,
        endpoint: Endpoint | None,
        log: LeavingLog,
        version: str,
        client: httpx.Client,
    ) -> None:
        self._threshold, self._labels, self._finders = threshold, tuple(labels), tuple(finders)
        self._endpoint, self._log, self._version, self._client = endpoint, log, version, client

    def route(self, text: str, local: Local, *, allow: Callable[[str], bool], hint: str = "") -> Routed:
        """Answer one text.

        Args:
            allow: asked with the whole message before it leaves; False keeps it here.
            hint: a line more for the large model; it leaves too.

        Raises:
            StorageError: the log cannot be written. Nothing has left then.
        """
        if local.margin > self._threshold:
            return Routed(local.label, "kept")
        message = message_for(redact(text, self._finders).text, self._labels, hint)
        if self._endpoint is None:
            return Routed(local.label, "held", "a dry run", message)
        if not allow(message):
            return Routed(local.label, "held", "not allowed to leave", message)
        number = self._log.begin(to=self._endpoint.url, version=self._version, text=message)
        if number is None:
            return Routed(local.label, "held", "the day's cap is reached", message)
        answer = ask(self._client, self._endpoint, message, self._labels)
        if isinstance(answer, Answer):
            tokens = answer.prompt_tokens, answer.answer_tokens
            found = Routed(answer.label, "large", would_leave=message, tokens=tokens)
            outcome, values = "answered", {"prompt_tokens": tokens[0], "answer_tokens": tokens[1]}
        else:
            found, outcome, values = Routed(local.label, "fault", answer.why, message), answer.why, {}
        with suppress(StorageError):  # That it left is written down; what came of it is worth having all the same.
            self._log.end(number, outcome, **values)
        return found
