"""Metrics as Prometheus reads them."""

import socket
import urllib.request
from collections.abc import Iterable

import pytest

from tests.deploy.processes import free_port
from yoriai.errors import ConfigError
from yoriai.system.metrics import Reading, served


def readings() -> Iterable[Reading]:
    yield Reading("rounds", "Rounds.", "counter", {("a",): 3.0}, ("run",))
    yield Reading("budget_left", "Epsilon.", "gauge", {(): 1.5})


def test_readings_are_served_on_loopback_as_they_stand_and_no_longer_than_the_process_wants() -> None:
    port = free_port()
    with served(port, readings):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        assert 'yoriai_rounds_total{run="a"} 3.0' in lines
        assert "yoriai_budget_left 1.5" in lines
        assert "# TYPE yoriai_rounds_total counter" in lines
    with socket.socket() as found:
        assert found.connect_ex(("127.0.0.1", port)) != 0


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} for metrics"), served(port, readings):
            pass


def test_port_0_serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would take 0 for any free port: nothing listens anywhere."""
    listened: list[socket.socket] = []
    listen = socket.socket.listen

    def noted(place: socket.socket, *backlog: int) -> None:
        listened.append(place)
        listen(place, *backlog)

    monkeypatch.setattr(socket.socket, "listen", noted)
    with served(free_port(), readings):
        assert len(listened) == 1
    with served(0, readings):
        assert len(listened) == 1
