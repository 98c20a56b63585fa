"""What a run tells whoever watches it. The library is silent; the command line draws bars, or prints lines to a log."""

import contextlib
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from yoriai.system.heartbeat import Heartbeat
from yoriai.terminal import rough_time

_ROUNDS, _SITES, _NOW = "rounds", "sites", "now"
# Stages whose units are bytes.
_BYTES = ("download", "unpack")


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


class Screen(Observer, Protocol):
    """An observer that holds the terminal, or the log, for a while."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def screen(console: Console) -> Screen:
    """Bars on a terminal, lines elsewhere."""
    return Bars(console) if console.is_interactive else Lines(console)


class Bars:
    """Three bars on a terminal, which stay where they are: the rounds, the sites of a round, and what is done just now.

    Fits 80 columns. A context manager; the bars are gone at its end.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<26.26}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[amount]:>13}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._now = ""
        self._clear()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """Move the bar that `what` belongs to."""
        if what == _ROUNDS and done >= total:
            self._clear()
            return
        bar = self._tasks[what if what == _ROUNDS else _SITES if what.startswith("sites (") else _NOW]
        if bar == self._tasks[_NOW] and what != self._now:
            self._now = what
            self._progress.reset(bar)
        amount = _amount(what, done, total)
        self._progress.update(bar, description=what, completed=done, total=total or None, amount=amount, visible=True)

    def say(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)

    def _clear(self) -> None:
        """Three new bars, top to bottom; each is seen from its first advance."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks = {
            bar: self._progress.add_task(bar, total=None, amount="", visible=False) for bar in (_ROUNDS, _SITES, _NOW)
        }


class Pace:
    """What a training still needs, by its rounds so far.

    Its first round also computes the records' hidden states, so it stands for the others only until there is one.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._from: tuple[int, float] | None = None  # Rounds done, and when; -1: the first one is at work.
        self._last = 0

    def begin(self) -> None:
        """Note that a round is at work; it counts if it is a training's first."""
        if self._from is None:
            self._from = (-1, self._clock())

    def left_s(self, done: int, total: int) -> float | None:
        """Seconds until all rounds are done, at the end of one; None if nothing tells."""
        now, each_s = self._clock(), None
        if self._from is not None and done > self._last:
            since, began = self._from
            each_s = now - began if since < 0 else (now - began) / (done - since)
        if each_s is None or since < 0:
            self._from = (done, now)
        self._last = done
        if done >= total:
            self._from, self._last = None, 0
        return None if each_s is None else each_s * (total - done)


class Lines:
    """Plain lines for a log: what is said, the rounds about every tenth of the way, and what takes long meanwhile.

    A context manager; `clock` is in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._started = clock()
        self._pace = Pace(clock)
        self._download = ""
        self.heartbeat = Heartbeat(
            lambda what, seconds: self._print(f"{what}, {rough_time(seconds)} so far"), clock=clock
        )

    def __enter__(self) -> Self:
        self.heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heartbeat.__exit__(kind, error, trace)

    def advance(self, what: str, done: int, total: int) -> None:
        """Print a line where a download begins and where a tenth of the rounds is done."""
        if what == _ROUNDS:
            self._round(done, total)
            return
        if what.startswith("sites ("):
            self._pace.begin()
        elif what.endswith(_BYTES) and what != self._download:
            self._download = what
            self.say(f"{what}, {total / 1e6:.0f} MB")
        self.heartbeat.doing(what, _amount(what, done, total))

    def say(self, text: str) -> None:
        """Print a line, however long."""
        self._print(text)
        self.heartbeat.told()

    def _round(self, done: int, total: int) -> None:
        left_s = self._pace.left_s(done, total)
        if done == total or done * 10 // total > (done - 1) * 10 // total:
            left = f", about {rough_time(left_s)} left" if left_s is not None and done < total else ""
            self.say(f"round {done} of {total}, {rough_time(self._clock() - self._started)} elapsed{left}")
        self.heartbeat.doing(f"round {done + 1} of {total}" if done < total else "after the last round")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # A log that cannot be written stops no training.
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def refusal_lines(refused: Mapping[str, str]) -> list[str]:
    """One line a site that refused, with its reason."""
    return [f"site {site} does not take part: {reason}" for site, reason in sorted(refused.items())]


def _amount(what: str, done: int, total: int) -> str:
    if what.endswith(_BYTES):
        return f"{done / 1e6:.0f}/{total / 1e6:.0f} MB"
    return f"{done}/{total}" if total else ""
