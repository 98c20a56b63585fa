"""Server-sent events of pages: one when a page's live part has become another one, as long as somebody looks."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

from yoriai.console.drawing import Drawer, Viewer, digest_of
from yoriai.console.pages import Asked, Console, Page
from yoriai.errors import YoriaiError

MOST_STREAMS: Final = 16


class Streams:
    """The streams of one console. A page that nobody looks at is not drawn.

    Args:
        console: whose pages they are of.
        sleep: between two looks.
        in_thread: runs what reads files where it holds nobody up.
    """

    def __init__(
        self,
        console: Console,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self.console = console
        self._drawer, self._sleep, self._in_thread = Drawer(console), sleep, in_thread
        self._open = 0

    @property
    def are_full(self) -> bool:
        """Whether no further one is opened."""
        return self._open >= MOST_STREAMS

    async def changes(self, page: Page, asked: Asked, viewer: Viewer, known: str) -> AsyncGenerator[bytes, None]:
        """The live part of a page each time that it is another one; a comment where it is not, to see who has gone.

        Args:
            known: by `digest_of`, the state that is shown already; empty if none is.
        """
        self._open += 1
        try:
            while True:
                live = await self._in_thread(self._live_part, page, asked, viewer)
                digest = digest_of(live)
                yield b": the same\n\n" if digest == known else _event({"digest": digest, "html": live})
                known = digest
                await self._sleep(page.every_s)
        finally:
            self._open -= 1

    def _live_part(self, page: Page, asked: Asked, viewer: Viewer) -> str:
        try:
            return self._drawer.live_part(page, page.values(asked), viewer)
        except YoriaiError as error:
            return self._drawer.fault(viewer, str(error))


def _event(content: Mapping[str, str]) -> bytes:
    return f"event: page\ndata: {json.dumps(content)}\n\n".encode()
