"""How long a SuperNode waits between two questions to its server."""

from typing import Final

# A server that answers with nothing after this long has kept the question, and is asked again at once.
_KEPT_S: Final = 5.0
# After a message more of them come, for as long as other sites train.
_BUSY_FOR_S: Final = 60.0


class Pacing:
    """See the module. Pure: the caller brings the time, in seconds of any beginning.

    Args:
        busy_s: pause while messages come.
        idle_s: pause between jobs.
        now: when it begins.
    """

    def __init__(self, busy_s: float, idle_s: float, now: float) -> None:
        self._busy_s, self._idle_s = busy_s, max(busy_s, idle_s)
        self._asked_at = now
        self._message_at = float("-inf")

    def message(self, now: float) -> None:
        """A message has come."""
        self._message_at = self._asked_at = now

    def pause(self, now: float) -> float:
        """Nothing has come: how long to wait before the next question, in seconds, which are taken to pass."""
        kept = now - self._asked_at >= _KEPT_S
        pause_s = self._busy_s if kept or now - self._message_at < _BUSY_FOR_S else self._idle_s
        self._asked_at = now + pause_s
        return pause_s
