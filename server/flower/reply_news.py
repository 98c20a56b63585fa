"""A coordinator's ear at the SuperLink: which messages have been answered, and which nodes have left.

One question is under way at a time for all sites together, and the SuperLink keeps it until there is news. Flower has
only a question for each reply, which has to be asked again and again.
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
from pydantic import BaseModel, ConfigDict

NEWS: Final = "/yoriai/news"
"""Where the SuperLink tells it."""

# Longer than the SuperLink keeps a question, whatever it is set to.
_PATIENCE_S: Final = 60.0
# Where it cannot be asked, whoever waits looks for itself so often; and else, should a word have been lost.
_DEAF_S: Final = 1.0
_LOOK_S: Final = 30.0
# A SuperLink that keeps no questions (hold_s = 0) answers at once, with nothing.
_PAUSE_S: Final = 0.2
_MOST_REMEMBERED: Final = 4096


class _Told(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    at: int
    replies: list[str] = []
    left: list[int] = []
    is_cut: bool = False


class ReplyNews:
    """Hears of replies in a thread of its own. Safe for several threads.

    Args:
        port: of the SuperLink, on loopback.
        authority: file with the CA of its certificate.
    """

    def __init__(self, port: int, authority: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._client = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=_PATIENCE_S)
        self._changed, self._over = threading.Condition(), threading.Event()
        self._replies: dict[str, None] = {}
        self._left_at: dict[int, int] = {}
        self._turn = self._woken = 0
        self._is_deaf = True
        self._thread = threading.Thread(target=self._hear, name="news of replies", daemon=True)

    @contextmanager
    def listening(self) -> Iterator["ReplyNews"]:
        """Listen meanwhile."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self.wake()

    @property
    def turn(self) -> int:
        """What has happened so far; `wait` counts a node as gone that has left later."""
        return self._turn

    def wait(self, message_id: str, node_id: int, began: int) -> bool:
        """Return when a message may have been answered, or sooner or later. Whether its node has left meanwhile.

        Args:
            began: `turn`, as it was before the message was sent.
        """
        with self._changed:
            woken = self._woken

            def is_due() -> bool:
                return message_id in self._replies or self._woken != woken or self._has_left(node_id, began)

            self._changed.wait_for(is_due, _DEAF_S if self._is_deaf else _LOOK_S)
            self._replies.pop(message_id, None)
            return self._has_left(node_id, began)

    def has_left(self, node_id: int) -> None:
        """Somebody else has seen that a node is gone."""
        with self._changed:
            self._note(_Told(at=0, left=[node_id]))

    def wake(self) -> None:
        """Let everybody look for themselves."""
        with self._changed:
            self._note(_Told(at=0, is_cut=True))

    def _has_left(self, node_id: int, began: int) -> bool:
        return self._left_at.get(node_id, 0) > began

    def _note(self, told: _Told) -> None:
        self._turn += 1
        self._woken += told.is_cut
        self._left_at.update(dict.fromkeys(told.left, self._turn))
        self._replies.update(dict.fromkeys(told.replies))
        while len(self._replies) > _MOST_REMEMBERED:
            del self._replies[next(iter(self._replies))]
        self._changed.notify_all()

    def _hear(self) -> None:
        after = ""
        while not self._over.is_set():
            told = self._ask(after)
            with self._changed:
                self._is_deaf = told is None
                self._note(told or _Told(at=0, is_cut=True))
            before, after = after, str(told.at) if told is not None else ""
            if told is None:
                self._over.wait(_DEAF_S)
            elif after == before:
                self._over.wait(_PAUSE_S)

    def _ask(self, after: str) -> _Told | None:
        try:
            answer = self._client.get(NEWS, params={"after": after})
            return _Told.model_validate_json(answer.raise_for_status().content)
        except (httpx.HTTPError, ValueError):
            return None
