"""What has come whole at the SuperLink, and who waits for it: sites for a message, a coordinator for replies.

Flower's SuperNodes ask every few seconds whether there is a message, and a coordinator asks for each reply. Here the
question is kept until there is something to say, or until it has been kept for as long as a proxy bears.
"""

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

# A push whose parts never come is forgotten when so many others have begun, and old news when there is so much newer.
_MOST_SESSIONS: Final = 4096
_MOST_NEWS: Final = 4096


@dataclass
class _Parcel:
    """A message that was announced, and its parts that have not come yet."""

    message_id: str
    to: int | str
    missing: set[str]


@dataclass(frozen=True)
class News:
    """What has happened since somebody asked last.

    Attributes:
        at: what to ask from next.
        replies: messages that have been answered, by id.
        left: nodes that have signed off, by number.
        is_cut: whether older news is no longer known; whoever waits then asks for everything.
    """

    at: int
    replies: Sequence[str] = ()
    left: Sequence[int] = ()
    is_cut: bool = False


@dataclass
class Arrivals:
    """Safe for several threads; who waits does so in one event loop.

    Attributes:
        is_closed: nobody waits any longer.
    """

    is_closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sessions: OrderedDict[str, list[_Parcel]] = field(default_factory=OrderedDict)
    _for_nodes: Counter[int] = field(default_factory=Counter)
    _seen: dict[int, int] = field(default_factory=dict)
    _news: deque[tuple[int, int | str]] = field(default_factory=lambda: deque(maxlen=_MOST_NEWS))
    _at: int = 0
    _waiting: dict[int | None, set["asyncio.Future[None]"]] = field(default_factory=dict)

    # Told by the SuperLink

    def expects(self, session: str, message_id: str, to: int | str, objects: set[str]) -> None:
        """A message was announced, to a node by its number or as the reply to a message; these parts are to come."""
        with self._lock:
            parcel = _Parcel(message_id, to, set(objects))
            if not parcel.missing:
                self._arrived(parcel)
                return
            self._sessions.setdefault(session, []).append(parcel)
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)

    def has_part(self, session: str, object_id: str) -> None:
        """A part has come."""
        with self._lock:
            parcels = self._sessions.get(session, [])
            for parcel in parcels:
                parcel.missing.discard(object_id)
            for parcel in [parcel for parcel in parcels if not parcel.missing]:
                parcels.remove(parcel)
                self._arrived(parcel)
            if not parcels:
                self._sessions.pop(session, None)

    def now(self, node_id: int) -> int:
        """How many messages have come for a node."""
        with self._lock:
            return self._for_nodes[node_id]

    def has_asked(self, node_id: int, since: int, *, in_vain: bool) -> None:
        """A node has got a message, or there was none of those that had come before `since`, as `now` gave it."""
        with self._lock:
            self._seen[node_id] = since if in_vain else min(self._seen.get(node_id, -1) + 1, since)

    def has_left(self, node_id: int) -> None:
        """A node has signed off; when it is back, it may get again what it had not confirmed."""
        with self._lock:
            self._seen.pop(node_id, None)
            self._tell(node_id)

    def is_over(self) -> None:
        """The SuperLink is to end. Called within the event loop, by a signal, so it takes no lock."""
        self.is_closed = True
        for waiting in list(self._waiting.values()):
            for future in list(waiting):
                _wake(future)

    # Asked for

    async def for_node(self, node_id: int, longest_s: float) -> None:
        """Return when there may be a message for a node: at once for one that has not been asked for yet."""
        await self._wait(node_id, longest_s, lambda: self._for_nodes[node_id] > self._seen.get(node_id, -1))

    async def since(self, at: int | None, longest_s: float) -> News:
        """The news after `at`; None: where to begin, at once."""
        if at is None:
            return News(self._at)
        await self._wait(None, longest_s, lambda: self._at != at)
        with self._lock:
            oldest = self._news[0][0] if self._news else self._at + 1
            if at > self._at or at + 1 < oldest:
                return News(self._at, is_cut=True)
            fresh = [what for number, what in self._news if number > at]
            replies, left = [x for x in fresh if isinstance(x, str)], [x for x in fresh if isinstance(x, int)]
            return News(self._at, replies, left)

    # Both

    def _arrived(self, parcel: _Parcel) -> None:
        if isinstance(parcel.to, int):
            self._for_nodes[parcel.to] += 1
            self._ring(parcel.to)
        else:
            self._tell(parcel.to)

    def _tell(self, what: int | str) -> None:
        self._at += 1
        self._news.append((self._at, what))
        self._ring(None)

    def _ring(self, key: int | None) -> None:
        for future in self._waiting.get(key, ()):
            future.get_loop().call_soon_threadsafe(_wake, future)

    async def _wait(self, key: int | None, longest_s: float, is_there: Callable[[], bool]) -> None:
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            if self.is_closed or is_there():
                return
            self._waiting.setdefault(key, set()).add(future)
        try:
            await asyncio.wait({future}, timeout=longest_s)
        finally:
            with self._lock:
                self._waiting[key].discard(future)
                if not self._waiting[key]:
                    del self._waiting[key]


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def as_json(news: News) -> Mapping[str, object]:
    """News in plain values."""
    return {"at": news.at, "replies": list(news.replies), "left": list(news.left), "is_cut": news.is_cut}
