"""What changes by itself: events come when a page is another one, and looking for a day leaves nothing behind."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.console.stored import Visitor, opened
from yoriai.console.access import Access
from yoriai.console.drawing import Viewer
from yoriai.console.pages import Asked, Console, Page
from yoriai.console.recent import Recent, Unchanged
from yoriai.console.streams import MOST_STREAMS, Streams
from yoriai.errors import StorageError

_DAY_LOOKS = 17_280  # One in five seconds.


def console(said: Callable[[], str], *, every_s: float = 0.02) -> Console:
    def values(_asked: Asked) -> dict[str, object]:
        return {"lines": (said(),), "back": "", "is_fault": False}

    page = Page("/", "Overview", "note.html.j2", values, every_s=every_s)
    return Console(
        "server", "office", "yoriai.console", (page, Page("/still", "Log", "note.html.j2", values, every_s=0))
    )


@contextmanager
def events(access: Access, page: str = "/", known: str = "") -> Iterator[Iterator[str]]:
    """The lines of a page's event stream."""
    visitor = Visitor(access)
    with visitor.client.stream("GET", "/events", params={"page": page, "known": known}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.iter_lines()


def test_an_event_comes_when_the_page_is_another_one_and_none_while_it_is_the_same() -> None:
    now = ["first"]
    with opened(console(lambda: now[0])) as access, events(access) as lines:
        got = _next(lines)
        assert "first" in got["html"]
        assert [next(line for line in lines if line) for _ in range(3)] == [": the same"] * 3
        now[0] = "<b>second</b>"
        assert "&lt;b&gt;second&lt;/b&gt;" in _next(lines)["html"]


def test_who_shows_the_state_that_they_have_is_sent_nothing_until_it_changes() -> None:
    with opened(console(lambda: "first")) as access:
        digest = Visitor(access).page("/").partition('data-digest="')[2].partition('"')[0]
        with events(access, known=digest) as lines:
            assert next(lines) == ": the same"


def test_what_cannot_be_read_for_a_while_is_said_and_comes_back() -> None:
    now = ["broken"]

    def said() -> str:
        if now[0] == "broken":
            raise StorageError("the file is damaged")
        return now[0]

    with opened(console(said)) as access, events(access) as lines:
        assert "the file is damaged" in _next(lines)["html"]
        now[0] = "there again"
        assert "there again" in _next(lines)["html"]


@pytest.mark.parametrize("page", ["/still", "/none", "http://evil.example/", "", "//evil.example/"])
def test_a_page_that_is_not_there_or_stays_as_it_is_has_no_events(page: str) -> None:
    with opened(console(lambda: "first")) as access:
        assert Visitor(access).client.get("/events", params={"page": page}).status_code == 404


def test_too_many_open_pages_are_refused_and_one_that_is_closed_makes_room() -> None:
    async def look() -> None:
        streams = Streams(console(lambda: "first"), asyncio.sleep)
        page, viewer = streams.console.pages[0], Viewer()
        opened_ones = [streams.changes(page, Asked(), viewer, "") for _ in range(MOST_STREAMS)]
        for one in opened_ones:
            await anext(one)
        assert streams.are_full
        await opened_ones[0].aclose()
        assert not streams.are_full
        for one in opened_ones[1:]:
            await one.aclose()

    asyncio.run(look())


def test_a_day_of_looking_at_a_page_that_changes_now_and_then_leaves_nothing_behind() -> None:
    looks = [0]

    def said() -> str:
        looks[0] += 1
        return f"{'x' * 2000} {looks[0] // 720}"  # Another one each hour.

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    async def day(streams: Streams, count: int) -> None:
        stream = streams.changes(streams.console.pages[0], Asked(), Viewer(), "")
        for _ in range(count):
            await anext(stream)
        await stream.aclose()

    def grown() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    streams = Streams(console(said), no_sleep, in_thread=_at_once)
    asyncio.run(day(streams, 500))
    tracemalloc.start()
    try:
        before = grown()
        asyncio.run(day(streams, _DAY_LOOKS))
        assert grown() - before < 64 * 1024
    finally:
        tracemalloc.stop()
    assert looks[0] == 500 + _DAY_LOOKS


async def _at_once(function: Callable[..., str], *given: object) -> str:
    return function(*given)


def test_many_who_look_at_once_cost_what_one_costs_and_an_error_is_not_kept() -> None:
    read, now = [], [0.0]
    kept = Recent(lambda: read.append(1) or len(read), 10.0, clock=lambda: now[0])
    assert [kept() for _ in range(5)] == [1] * 5
    now[0] = 10.0
    assert kept() == 2
    kept.forget()
    assert kept() == 3
    failing = Recent(lambda: (_ for _ in ()).throw(StorageError("damaged")), 10.0)
    for _ in range(2):
        with pytest.raises(StorageError):
            failing()


def test_what_is_read_from_a_source_is_kept_as_long_as_the_source_is_the_same() -> None:
    read, mark = [], ["a"]
    kept = Unchanged(lambda: read.append(1) or len(read), lambda: mark[0])
    assert [kept(), kept()] == [1, 1]
    mark[0] = "b"
    assert kept() == 2


def _next(lines: Iterator[str]) -> dict[str, str]:
    data = next(line for line in lines if line.startswith("data: "))
    found: dict[str, str] = json.loads(data.removeprefix("data: "))
    return found
