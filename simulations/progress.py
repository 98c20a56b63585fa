"""What a run tells whoever watches it. The library is silent; the command line draws bars."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Observer(Protocol):
    """Gets each advance of a run; `total` of 0 means that the end is not known."""

    def advance(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what` (a download, the prefix of a site, rounds, sites of a round, steps)."""
        ...

    def say(self, text: str) -> None:
        """One line worth keeping on the screen."""
        ...


class Silent:
    """Says nothing."""

    def advance(self, what: str, done: int, total: int) -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        """Ignored."""


class Bars:
    """Progress bars on a terminal, one for each thing under way. A context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """Draw or move the bar of `what`; a finished one is taken away."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total or None)
        task = self._tasks[what]
        self._progress.update(task, completed=done, total=total or None)
        if total and done >= total:
            self._progress.remove_task(self._tasks.pop(what))

    def say(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, highlight=False)


def refusal_lines(refused: Mapping[str, str]) -> list[str]:
    """One line a site that refused, with its reason."""
    return [f"site {site} does not take part: {reason}" for site, reason in sorted(refused.items())]
