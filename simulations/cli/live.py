"""`simulate --live`: the round view of a server's console, on a run that is at work on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yoriai.config import load_job
from yoriai.console.pages import Asked, Console, Page
from yoriai.console.running import served
from yoriai.errors import CheckpointError, ConfigError
from yoriai.server.round.manifest import summary_of
from yoriai.server.service.status import took_part
from yoriai.simulations.experiment.observers import Observer

_EVERY_S = 2.0


class Watched:
    """An observer that passes on what it is told, and remembers what is at work, for the page.

    Args:
        folder: of the run; it may be made later.
        observer: is told as without the page.
    """

    def __init__(self, folder: Path, observer: Observer) -> None:
        self._folder, self._observer = folder, observer
        self._now: tuple[str, int, int] = ("", 0, 0)

    def advance(self, what: str, done: int, total: int) -> None:
        """As the observer."""
        self._now = (what, done, total)
        self._observer.advance(what, done, total)

    def say(self, text: str) -> None:
        """As the observer."""
        self._observer.say(text)

    def values(self, _asked: Asked) -> dict[str, Any]:
        """What the page shows: rounds, who was in them, and what is at work."""
        what, done, total = self._now
        try:
            summary, rounds = summary_of(self._folder), load_job(self._folder / "job.toml").federation.rounds
        except (CheckpointError, ConfigError):  # Before the run has a folder.
            return {"what": what, "done": done, "total": total, "rounds": None, "took_part": [], "sites": []}
        shown = took_part(summary.records)
        sites = sorted({site for one in shown for site in (*one["sites"], *one["without"])})
        return {"what": what, "done": done, "total": total, "rounds": rounds, "took_part": shown, "sites": sites}


@contextmanager
def live_page(folder: Path, observer: Observer) -> Iterator[Observer]:
    """Show a run on a page of this machine for this block; the observer to tell of it."""
    watched = Watched(folder, observer)
    page = Page("/", "Training", "live.html.j2", watched.values, every_s=_EVERY_S)
    with served(Console("simulation", folder.name, "yoriai.simulations", (page,)), 0) as access:
        observer.say(f"live     {access.links['read']}")
        yield watched
