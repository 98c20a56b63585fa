"""Bars that stay in their place, lines for a log, and a clock that goes on after an interruption."""

import io
import json
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from tests.world import Notebook
from yoriai.client.base.quiet import quiet_libraries
from yoriai.simulations.experiment.observers import Bars, Lines, screen
from yoriai.simulations.run.timing import Stopwatch


def terminal(width: int = 80) -> Console:
    """A terminal whose screen is a text."""
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def text(console: Console) -> str:
    """All that was written."""
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_bars_on_a_terminal_and_lines_elsewhere() -> None:
    assert isinstance(screen(terminal()), Bars)
    assert isinstance(screen(Console(file=io.StringIO())), Lines)


def test_bars_fit_80_columns_and_are_gone_at_the_end() -> None:
    console = terminal()
    with Bars(console) as bars:
        for what, done, total in (
            ("base model: download", 50_000_000, 92_871_040),
            ("prefix of site a-very-long-name-of-a-site", 3, 9),
            ("sites (train)", 1, 3),
            ("steps at site c", 1, 1),
            ("rounds", 1, 50),
            ("measuring", 0, 0),
        ):
            bars.advance(what, done, total)
        bars._progress.refresh()
        drawn = text(console)
        bars.say("a line with [brackets]")
    assert all(len(line.split("\x1b[")[0]) <= 80 for line in drawn.replace("\r", "\n").splitlines())
    assert "1/50" in drawn
    assert "a line with [brackets]" in text(console)
    assert text(console).endswith("\x1b[2K")  # The last thing is that the bars' lines are cleared.


def test_a_stage_that_comes_back_begins_anew() -> None:
    bars = Bars(terminal())
    for _ in range(2):
        for done in range(4):
            bars.advance("sites (train)", done, 3)
            bars.advance(f"steps at site {done}", 1, 1)
    assert len(bars._progress.tasks) == 3
    bars.advance("rounds", 2, 2)
    assert [task.visible for task in bars._progress.tasks] == [False, False, False]


@pytest.mark.parametrize(("rounds", "lines"), [(1, 1), (3, 3), (10, 10), (50, 10), (99, 10)])
def test_a_log_hears_of_about_every_tenth_of_the_rounds(rounds: int, lines: int) -> None:
    console = Console(file=io.StringIO(), width=20)
    with Lines(console) as log:
        for done in range(1, rounds + 1):
            log.advance("sites (train)", 1, 3)
            log.advance("rounds", done, rounds)
        log.advance("download", 0, 2_000_000)
        log.advance("download", 1_000_000, 2_000_000)
        log.say("a line that is longer than twenty characters [x]")
    shown = text(console).splitlines()
    assert len(shown) == lines + 2
    assert shown[lines - 1].startswith(f"round {rounds} of {rounds}, ")
    assert shown[-2:] == ["download, 2 MB", "a line that is longer than twenty characters [x]"]


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def rounds_told(log: Lines, clock: Clock, spans: list[int], total: int) -> None:
    """A training whose rounds take so long each."""
    for done, seconds in enumerate(spans, 1):
        log.advance("sites (train)", 0, 3)
        clock.now += seconds
        log.advance("rounds", done, total)


def test_a_log_says_how_long_it_took_and_how_long_it_will_take() -> None:
    """The first round computes hidden states too, and says nothing of the others once there is one of them."""
    console, clock = Console(file=io.StringIO()), Clock()
    log = Lines(console, clock=clock)
    clock.now = 21.0  # Loading.
    rounds_told(log, clock, [20, 15, 15], 20)
    assert text(console).splitlines() == [
        "round 2 of 20, 56 s elapsed, about 4 min left",
    ]


def test_the_last_round_has_nothing_left_and_the_next_training_counts_for_itself() -> None:
    console, clock = Console(file=io.StringIO()), Clock()
    log = Lines(console, clock=clock)
    rounds_told(log, clock, [60, 60], 2)
    clock.now += 600  # Measuring.
    rounds_told(log, clock, [1, 2], 3)
    assert text(console).splitlines() == [
        "round 1 of 2, 60 s elapsed, about 60 s left",
        "round 2 of 2, 2 min elapsed",
        "round 1 of 3, 12 min elapsed, about 2 s left",
        "round 2 of 3, 12 min elapsed, about 2 s left",
    ]


def test_a_log_that_is_silent_for_long_says_what_is_being_done() -> None:
    console, clock = Console(file=io.StringIO()), Clock()
    log = Lines(console, clock=clock)
    log.advance("prefix of site a", 100, 800)
    for _ in range(12):
        clock.now += 1
        log.heartbeat.look()
    log.advance("rounds", 1, 3)
    clock.now += 10
    log.heartbeat.look()
    assert text(console).splitlines() == [
        "prefix of site a, 100/800, 10 s so far",
        "round 1 of 3, 12 s elapsed",
        "round 2 of 3, 10 s so far",
    ]


def test_a_log_on_a_full_disk_stops_no_training() -> None:
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - closing it fails as well
    with Lines(Console(file=full)) as log:
        log.say("a line")
        log.advance("rounds", 1, 3)
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_time_is_booked_on_sites_and_parts_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    heard = Notebook()
    watch = Stopwatch(tmp_path / "s.json", ["a", "b"], heard)
    for at, what, done, total in (
        (1.0, "sites (train)", 0, 2),
        (4.0, "steps at site a", 1, 1),
        (5.0, "sites (train)", 1, 2),
        (7.0, "sites (train)", 2, 2),
        (9.0, "sites (train)", 0, 1),  # Only one is asked.
        (9.5, "steps at site b", 1, 1),
        (10.0, "sites (train)", 1, 1),
    ):
        now[0] = at
        watch.advance(what, done, total)
    watch.lap("train")
    watch.save()
    assert watch.sites() == {"a": 4.0, "b": 3.0}
    assert len(heard.advances) == 7
    now[0] = 100.0
    again = Stopwatch(tmp_path / "s.json", ["a", "b"], heard)
    now[0] = 102.0
    again.lap("train")
    assert again.parts() == {"train": 12.0, "total": 12.0}
    assert again.sites() == {"a": 4.0, "b": 3.0}
    assert json.loads((tmp_path / "s.json").read_text())["total"] == 10.0


def test_only_the_known_warnings_are_hidden() -> None:
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
            warnings.warn("another one", FutureWarning, stacklevel=1)
            assert not logging.is_progress_bar_enabled()
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
    assert [str(warning.message)[:11] for warning in caught] == ["another one", "`is_gradien"]
    assert logging.get_verbosity() == before
    assert logging.is_progress_bar_enabled() == bars
