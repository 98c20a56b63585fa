"""What has come whole at the SuperLink: who waits hears of it then, and neither sooner nor only later."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from yoriai.server.flower.reply_news import NEWS
from yoriai.server.service import arrivals
from yoriai.server.service.arrivals import Arrivals, News
from yoriai.server.service.superlink import telling

LONG_S = 30.0


def timed(waiting: Awaitable[object]) -> float:
    """The seconds that it takes."""

    async def run() -> float:
        started = time.monotonic()
        await waiting
        return time.monotonic() - started

    return asyncio.run(run())


async def beside(waiting: Awaitable[Any], act: Callable[[], None]) -> Any:
    """What comes of waiting, when something happens after the wait has begun."""
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.05)
    assert not task.done()
    act()
    return await asyncio.wait_for(task, LONG_S / 2)


def asked_in_vain(there: Arrivals, node: int = 1) -> None:
    there.has_asked(node, there.now(node), in_vain=True)


def test_a_node_that_never_asked_does_not_wait() -> None:
    assert timed(Arrivals().for_node(1, LONG_S)) < LONG_S / 2


def test_a_node_without_a_message_waits_as_long_as_it_may() -> None:
    there = Arrivals()
    asked_in_vain(there)
    assert timed(there.for_node(1, 0.1)) >= 0.09


def test_a_node_hears_of_its_message_when_the_last_part_has_come() -> None:
    there = Arrivals()
    asked_in_vain(there)

    async def run() -> None:
        task = asyncio.ensure_future(there.for_node(1, LONG_S))
        there.expects("s", "m", 1, {"a", "b"})
        there.has_part("s", "a")
        await asyncio.sleep(0.05)
        assert not task.done()
        there.has_part("s", "b")
        await asyncio.wait_for(task, LONG_S / 2)

    asyncio.run(run())


def test_a_message_to_another_node_wakes_nobody_else() -> None:
    there = Arrivals()
    asked_in_vain(there)
    there.expects("s", "m", 2, set())
    assert timed(there.for_node(1, 0.1)) >= 0.09


def test_a_message_that_came_while_the_node_was_told_that_there_is_none_is_not_lost() -> None:
    there = Arrivals()
    before = there.now(1)
    there.expects("s", "m", 1, set())
    there.has_asked(1, before, in_vain=True)
    assert timed(there.for_node(1, LONG_S)) < LONG_S / 2


def test_after_a_message_a_node_waits_for_the_next_and_not_where_another_is_there_already() -> None:
    there = Arrivals()
    asked_in_vain(there)
    for number in range(2):
        there.expects("s", f"m{number}", 1, set())
    there.has_asked(1, there.now(1), in_vain=False)
    assert timed(there.for_node(1, LONG_S)) < LONG_S / 2
    there.has_asked(1, there.now(1), in_vain=False)
    assert timed(there.for_node(1, 0.1)) >= 0.09


def test_a_node_that_is_back_does_not_wait_for_what_it_may_have_lost() -> None:
    there = Arrivals()
    asked_in_vain(there)
    there.has_left(1)
    assert timed(there.for_node(1, LONG_S)) < LONG_S / 2


def test_each_message_of_a_push_is_there_when_its_own_parts_are() -> None:
    there = Arrivals()
    for node in (1, 2):
        asked_in_vain(there, node)
        there.expects("s", f"m{node}", node, {"shared", f"own {node}"})
    there.has_part("s", "shared")
    there.has_part("s", "own 1")
    assert (there.now(1), there.now(2)) == (1, 0)


def test_a_coordinator_hears_of_replies_and_of_nodes_that_leave_from_where_it_asked_last() -> None:
    there = Arrivals()
    start = asyncio.run(there.since(None, LONG_S)).at
    there.expects("s", "r1", "m1", set())
    found: News = asyncio.run(there.since(start, LONG_S))
    assert (found.replies, found.left) == (["m1"], [])

    def leave() -> None:
        there.has_left(7)
        there.expects("s", "r2", "m2", set())

    found = asyncio.run(beside(there.since(found.at, LONG_S), leave))
    assert (found.replies, found.left, found.is_cut) == (["m2"], [7], False)


def test_who_asks_from_too_far_back_or_from_another_superlinks_news_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Arrivals()
    for number in range(arrivals._MOST_NEWS + 2):
        there.expects("s", f"r{number}", f"m{number}", set())
    assert asyncio.run(there.since(1, LONG_S)).is_cut
    assert not asyncio.run(there.since(2, LONG_S)).is_cut
    assert asyncio.run(there.since(10**9, LONG_S)).is_cut


def test_parts_that_never_come_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_MOST_SESSIONS", 3)
    there = Arrivals()
    for number in range(10):
        there.expects(f"s{number}", "m", 1, {"a"})
    assert list(there._sessions) == ["s7", "s8", "s9"]


def test_at_the_end_nobody_waits() -> None:
    there = Arrivals()
    asked_in_vain(there)
    asyncio.run(beside(there.for_node(1, LONG_S), there.is_over))
    assert timed(there.for_node(1, LONG_S)) < LONG_S / 2


def test_the_superlink_tells_news_at_a_path_of_its_own_and_leaves_all_others_to_flower() -> None:
    there = Arrivals()
    seen = []

    async def flowers(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    app = telling(flowers, there, LONG_S)

    async def run() -> None:
        await asyncio.wait_for(app({"path": "/v1/fleet/push-object"}, None, None), LONG_S)  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            first = (await client.get(NEWS)).json()
            there.expects("s", "r", "m", set())
            told = (await client.get(NEWS, params={"after": first["at"]})).json()
            assert told == {"at": first["at"] + 1, "replies": ["m"], "left": [], "is_cut": False}

    asyncio.run(run())
    assert seen == ["/v1/fleet/push-object"]
