"""What is logged and counted of a coordinator's exchanges, across its restarts."""

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.waiting import wait_for
from yoriai.server.jobs.progress import WatchedTransport, read_progress
from yoriai.system import log
from yoriai.system.heartbeat import Heartbeat
from yoriai.system.log import EventLog


class Echo:
    """Two sites, of which one answers nothing in one stage."""

    names: tuple[str, ...] = ("a", "b")

    def sites(self) -> Sequence[str]:
        return self.names

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        return {site: data * 2 for site, data in payloads.items() if (site, stage) != ("b", "mask")}


def watched(place: Path) -> tuple[WatchedTransport, Echo, io.StringIO]:
    echo, stream = Echo(), io.StringIO()
    return WatchedTransport(echo, EventLog(stream, as_json=True), place, rounds=3), echo, stream


def events(stream: io.StringIO, name: str) -> list[dict[str, object]]:
    return [event for event in map(json.loads, stream.getvalue().splitlines()) if event["event"] == name]


def test_an_exchange_is_passed_on_counted_and_logged_with_who_is_missing(tmp_path: Path) -> None:
    transport, _, stream = watched(tmp_path / "p")
    transport.begin_round(2)
    assert transport.exchange("mask", {"a": b"12", "b": b"3"}, 1.0) == {"a": b"1212"}
    count = read_progress(tmp_path / "p").stages["mask"]
    assert (count.exchanges, count.bytes_down, count.bytes_up, count.missing) == (1, 3, 4, 1)
    (event,) = events(stream, "stage")
    assert {"stage": "mask", "round": 2, "asked": 2, "answered": 1, "missing": "b"}.items() <= event.items()


def test_counters_go_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        watched(tmp_path / "p")[0].exchange("agree", {"a": b"1"}, 1.0)
    assert read_progress(tmp_path / "p").stages["agree"].exchanges == 2


def test_sites_that_come_and_go_are_logged_once(tmp_path: Path) -> None:
    transport, echo, stream = watched(tmp_path / "p")
    transport.sites()
    transport.sites()
    echo.names = ("b", "c")
    transport.sites()
    assert [event["site"] for event in events(stream, "connected")] == ["a", "b", "c"]
    assert [event["site"] for event in events(stream, "disconnected")] == ["a"]


def test_an_absent_site_is_logged_again_only_for_another_reason_and_when_it_is_back(tmp_path: Path) -> None:
    transport, _, stream = watched(tmp_path / "p")
    for absent in ({"a": "late"}, {"a": "late"}, {"a": "broke\nline"}, {}):
        transport.note_absent(absent)
    assert [event["reason"] for event in events(stream, "absent")] == ["late", "broke line"]
    assert [event["site"] for event in events(stream, "back")] == ["a"]
    assert read_progress(tmp_path / "p").refusals == 2


def test_a_file_that_cannot_be_written_stops_no_exchange(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert watched(tmp_path / "p")[0].exchange("agree", {"a": b"1"}, 1.0) == {"a": b"11"}


def test_an_exchange_that_takes_long_is_told_of_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange itself ends only once the log has a line about it."""
    transport, echo, stream = watched(tmp_path / "p")
    monkeypatch.setattr(log, "Heartbeat", partial(Heartbeat, first_s=0.0, look_s=0.001))
    answer = echo.exchange

    def slow(stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        wait_for(lambda: "waiting" in stream.getvalue())
        return answer(stage, payloads, timeout_s)

    monkeypatch.setattr(echo, "exchange", slow)
    transport.exchange("agree", {"a": b"1", "b": b"1"}, 1.0)
    assert events(stream, "waiting")[0]["what"] == "2 sites in stage agree"
