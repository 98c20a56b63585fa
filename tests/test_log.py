"""The log of a long-lived process."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from yoriai.system.log import EventLog, LogFile, take_over_libraries


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, kept = logging.getLogger(), {}
    names = ["", *logging.root.manager.loggerDict]
    for name in names:
        kept[name] = (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate)
    yield
    logging.captureWarnings(False)
    for name, (handlers, propagate) in kept.items():
        logging.getLogger(name or None).handlers[:] = handlers
        logging.getLogger(name or None).propagate = propagate
    root.handlers[:] = kept[""][0]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_event_is_one_line_whatever_its_values_hold(as_json: bool) -> None:
    stream = io.StringIO()
    log = EventLog(stream, as_json=as_json)
    log.event("refused", reason='no\n2026-01-01 accepted run="x"\u2028\x1b[2J', round=2, stage=None)
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().isprintable() is False  # The line feed alone.
    assert stream.getvalue()[:-1].isprintable()


def test_json_lines_hold_time_event_and_values() -> None:
    stream = io.StringIO()
    EventLog(stream, as_json=True).event("released", run="r", size_bytes=7, stage=None)
    line = json.loads(stream.getvalue())
    assert line.pop("at").endswith("Z")
    assert line == {"event": "released", "run": "r", "size_bytes": 7}


def test_a_long_text_is_cut() -> None:
    stream = io.StringIO()
    EventLog(stream).event("refused", reason="x" * 10_000)
    assert len(stream.getvalue()) < 600


def test_a_stream_that_cannot_be_written_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    EventLog(stream).event("started")


@pytest.mark.usefixtures("_logging_as_before")
def test_what_libraries_say_is_logged_by_its_place_without_its_text() -> None:
    stream, own = io.StringIO(), io.StringIO()
    library = logging.getLogger("a.package")
    library.addHandler(logging.StreamHandler(own))
    take_over_libraries(EventLog(stream, as_json=True))
    library.error("quotes %s", "swordfish")
    warnings.warn("quotes swordfish", UserWarning, stacklevel=1)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["place"].partition(":")[0] for event in events] == ["a.package", "py.warnings"]
    assert "swordfish" not in stream.getvalue() + own.getvalue()


def test_a_log_file_begins_again_at_its_limit_and_keeps_one_older_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = EventLog(LogFile(path, limit_bytes=300), as_json=True)
    for number in range(40):
        log.event("round", round=number)
    kept = [json.loads(line)["round"] for place in (path.with_name("log.jsonl.1"), path) for line in place.open()]
    assert kept == list(range(kept[0], 40))
    assert max(place.stat().st_size for place in tmp_path.iterdir()) <= 300
    assert sorted(place.name for place in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    EventLog(LogFile(tmp_path / "none" / "log.jsonl")).event("round", round=1)
    assert not (tmp_path / "none").exists()
