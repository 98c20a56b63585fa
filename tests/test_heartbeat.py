"""A line about a long step: when it comes, what it says, and that none comes after the end."""

import io
import threading

import pytest

from tests.waiting import wait_for
from yoriai import terminal
from yoriai.system.heartbeat import Heartbeat
from yoriai.system.log import EventLog


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at 0."""
    return Clock()


def told_over(clock: Clock, heartbeat: Heartbeat, seconds: int) -> None:
    """Look once a second, for so long."""
    for _ in range(seconds):
        clock.now += 1
        heartbeat.look()


def test_the_first_line_comes_after_ten_seconds_and_the_next_ones_every_twenty(clock: Clock) -> None:
    told: list[tuple[str, float]] = []
    heartbeat = Heartbeat(lambda what, seconds: told.append((what, seconds)), clock=clock)
    heartbeat.doing("loading")
    told_over(clock, heartbeat, 60)
    assert told == [("loading", 10.0), ("loading", 30.0), ("loading", 50.0)]


def test_where_something_else_is_told_it_is_silent(clock: Clock) -> None:
    told: list[str] = []
    heartbeat = Heartbeat(lambda what, _: told.append(what), clock=clock)
    heartbeat.doing("training")
    for _ in range(5):
        told_over(clock, heartbeat, 9)
        heartbeat.told()
    assert told == []


def test_steps_that_change_without_a_line_are_a_silence_all_the_same(clock: Clock) -> None:
    told: list[tuple[str, float]] = []
    heartbeat = Heartbeat(lambda what, seconds: told.append((what, seconds)), clock=clock)
    for step in range(4):
        heartbeat.doing(f"step {step}", "1 of 2")
        told_over(clock, heartbeat, 4)
    assert told == [("step 2, 1 of 2", 2.0)]


def test_who_does_nothing_is_not_told_of(clock: Clock) -> None:
    told: list[str] = []
    heartbeat = Heartbeat(lambda what, _: told.append(what), clock=clock)
    told_over(clock, heartbeat, 100)
    heartbeat.doing("answering")
    told_over(clock, heartbeat, 9)
    heartbeat.doing("")
    told_over(clock, heartbeat, 100)
    assert told == []


def test_nothing_is_told_after_the_end() -> None:
    """The thread is in the middle of a line when the block ends: the end waits for it, and no other follows."""
    told: list[str] = []
    began, goes_on = threading.Event(), threading.Event()

    def slow(what: str, _: float) -> None:
        began.set()
        goes_on.wait(30)
        told.append(what)

    with Heartbeat(slow, first_s=0.0, again_s=0.0, look_s=0.001) as heartbeat:
        heartbeat.doing("loading")
        assert began.wait(30)
        threading.Timer(0.05, goes_on.set).start()
    at_the_end = len(told)
    assert at_the_end >= 1
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    heartbeat.doing("more")
    assert len(told) == at_the_end


def test_a_reader_that_went_away_ends_neither_the_step_nor_the_lines() -> None:
    tries: list[str] = []

    def closed(what: str, _: float) -> None:
        tries.append(what)
        raise BrokenPipeError

    with Heartbeat(closed, first_s=0.0, again_s=0.0, look_s=0.001) as heartbeat:
        heartbeat.doing("loading")
        wait_for(lambda: len(tries) > 2)


def test_a_long_step_of_a_command_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard output it would stand in the JSON that another program reads."""
    heard = ["", ""]

    def has_told() -> bool:
        heard[:] = [before + new for before, new in zip(heard, capsys.readouterr(), strict=True)]
        return bool(heard[1])

    with terminal.say_while("loading the base model", first_s=0.0):
        wait_for(has_told)
    assert heard[1].startswith("loading the base model, ")
    assert "\x1b" not in heard[1]
    assert heard[0] == ""


def test_a_service_tells_in_its_log() -> None:
    stream = io.StringIO()
    heartbeat = EventLog(stream).heartbeat("waiting")
    heartbeat.doing("the SuperLink")
    heartbeat._due = 0.0
    heartbeat.look()
    assert 'waiting what="the SuperLink" seconds=0' in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (41.3, "41 s"), (99.7, "2 min"), (241, "4 min"), (5999, "100 min"), (9000, "2.5 h")],
)
def test_a_span_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert terminal.rough_time(seconds) == text
