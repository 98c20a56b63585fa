"""The engine in this process: every site is an object, one base in memory serves them in turn."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

_LOG = logging.getLogger(__name__)


class InProcessTransport:
    """Calls each site in turn, in the order of names.

    Args:
        handlers: what answers a message, by site.
        on_stage: called with the stage and the sites before the first of them is asked.
        on_site: called as (stage, sites done, sites in all).
        on_replies: called with each stage's replies by site.

    Attributes:
        seconds: time spent inside each site's handler; what is left of a run is the engine's own.
    """

    def __init__(
        self,
        handlers: Mapping[str, Callable[[bytes], bytes]],
        *,
        on_stage: Callable[[str, Collection[str]], None] | None = None,
        on_site: Callable[[str, int, int], None] | None = None,
        on_replies: Callable[[str, Mapping[str, bytes]], None] | None = None,
    ) -> None:
        self._handlers = dict(sorted(handlers.items()))
        self._on_stage, self._on_site, self._on_replies = on_stage, on_site, on_replies
        self.seconds = dict.fromkeys(self._handlers, 0.0)

    def sites(self) -> Sequence[str]:
        """Every site, always."""
        return tuple(self._handlers)

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """Replies by site; a handler that raises is a missing reply, as it would be in a process of its own.

        A call cannot be cut short in process, so `timeout_s` is not enforced here.
        """
        replies = {}
        if self._on_stage is not None:
            self._on_stage(stage, payloads.keys())
        for done, site in enumerate(sorted(payloads)):
            if self._on_site is not None:
                self._on_site(stage, done, len(payloads))
            started = time.monotonic()
            try:
                replies[site] = self._handlers[site](payloads[site])
            except Exception as error:  # The type alone: the text might quote a record.
                _LOG.error("site %s failed in stage %s: %s", site, stage, type(error).__name__)
            self.seconds[site] += time.monotonic() - started
        if self._on_site is not None:
            self._on_site(stage, len(payloads), len(payloads))
        if self._on_replies is not None:
            self._on_replies(stage, replies)
        return replies
