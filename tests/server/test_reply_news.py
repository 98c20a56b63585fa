"""A coordinator's ear: whoever waits for a reply hears of it, of its node's leaving, and of the SuperLink's silence."""

import threading
import time
from pathlib import Path

import pytest

from tests.deploy.processes import free_port
from tests.tls import Issuer
from yoriai.server.flower import reply_news
from yoriai.server.flower.reply_news import ReplyNews, _Told

LONG_S = 30.0


@pytest.fixture
def news(tmp_path: Path) -> ReplyNews:
    """One that hears what the test tells it."""
    (tmp_path / "ca.crt").write_bytes(Issuer.make().pem)
    found = ReplyNews(free_port(), tmp_path / "ca.crt")
    found._is_deaf = False
    return found


def tell(news: ReplyNews, **what: object) -> None:
    with news._changed:
        news._note(_Told(at=1, **what))  # type: ignore[arg-type]


def waits(news: ReplyNews, message: str, node: int = 1) -> tuple[threading.Thread, list[bool]]:
    found: list[bool] = []
    began = news.turn
    thread = threading.Thread(target=lambda: found.append(news.wait(message, node, began)), daemon=True)
    thread.start()
    return thread, found


def test_a_reply_ends_the_wait_for_it_and_no_other(news: ReplyNews) -> None:
    (mine, found), (other, _) = waits(news, "m1"), waits(news, "m2", 2)
    tell(news, replies=["m1"])
    mine.join(LONG_S)
    assert found == [False]
    assert other.is_alive()
    news.wake()
    other.join(LONG_S)
    assert not other.is_alive()


def test_a_reply_that_came_before_anybody_waited_is_not_lost(news: ReplyNews) -> None:
    tell(news, replies=["m1"])
    thread, _ = waits(news, "m1")
    thread.join(LONG_S / 2)
    assert not thread.is_alive()


def test_a_node_that_leaves_after_it_was_sent_a_message_is_told_and_one_that_left_before_is_not(
    news: ReplyNews,
) -> None:
    tell(news, left=[1])
    thread, found = waits(news, "m1")
    thread.join(0.1)
    assert thread.is_alive()
    news.has_left(1)
    thread.join(LONG_S)
    assert found == [True]


def test_a_superlink_that_keeps_no_questions_is_not_asked_without_a_pause(news: ReplyNews) -> None:
    pauses: list[float | None] = []

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return self.is_set()

    news._over, answers = Over(), iter([7, 7, 8, 8])

    def ask(_after: str) -> _Told:
        at = next(answers, None)
        if at is None:
            news._over.set()
        return _Told(at=at or 8)

    news._ask = ask  # type: ignore[method-assign]
    news._hear()
    assert pauses == [reply_news._PAUSE_S] * 3  # After each that told nothing new.


def test_where_the_superlink_cannot_be_asked_whoever_waits_looks_for_itself(
    news: ReplyNews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_news, "_DEAF_S", 0.05)
    with news.listening():
        started = time.monotonic()
        for _ in range(3):
            assert not news.wait("m1", 1, news.turn)
        assert time.monotonic() - started < LONG_S / 2
