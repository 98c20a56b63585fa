"""Flower's runtime as the engine: the same bits as in process, quietly, and nothing is left behind.

Every run of Flower costs some 15 seconds, so each test holds several claims about one run.
"""

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import flwr.supercore.logger  # noqa: F401 - sets the level of its log when it is first imported
import pytest

from tests.simulations.miniature import SIZES, Miniature, StubSpec
from tests.simulations.ray_nodes import carrying
from yoriai import wire
from yoriai.client.records.records import SiteRecords
from yoriai.errors import RoundError
from yoriai.server.round.messenger import Transport
from yoriai.simulations.engines.flower_engine import run_in_flower
from yoriai.simulations.run.simulated_federation import Federation, run_federation

_SECONDS_TO_DIE = 20.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("world"))


@pytest.fixture
def leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test starts is gone at its end: processes, files, settings."""
    mark = f"mark-{uuid.uuid4()}"
    monkeypatch.setenv("YORIAI_TEST_MARK", mark)  # Every process that is started inherits it.
    environment, level = _settings(), logging.getLogger("flwr").level
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="yf") as folder:  # Ray's sockets want a short path.
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        left = os.listdir(folder)
    assert left == []
    assert _settings() == environment
    assert logging.getLogger("flwr").level == level
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while carrying("YORIAI_TEST_MARK", mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert carrying("YORIAI_TEST_MARK", mark) == set()


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("rule", ["core", "fedavg"])
def test_both_engines_give_the_same_bits_and_flower_stays_quiet(
    rule: str, world: Miniature, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, object] = {"federation__rule": rule, "federation__rounds": 2}
    in_process = world.run(world.federation(tmp_path / "inprocess", **settings))
    federation = _with_absent_site(world.federation(tmp_path / "flower", engine="flower", **settings))
    session = world.session(federation)
    capfd.readouterr()
    outcome = run_federation(federation, session)
    shown = capfd.readouterr()
    assert outcome.checkpoint.adapter == in_process.checkpoint.adapter
    assert outcome.checkpoint.lanes == in_process.checkpoint.lanes
    assert [record.answered for record in outcome.checkpoint.rounds] == [tuple(sorted(SIZES))] * 2
    assert outcome.refused == {"absent": "not connected"}
    assert outcome.epsilon == in_process.epsilon
    assert shown.out == ""
    for noise in ("DEBUG", "INFO", "WARNING", "ClientAppActor", "DEPRECATED"):
        assert noise not in shown.err


@pytest.mark.usefixtures("leaves_nothing")
def test_site_that_raises_is_a_missing_reply_and_the_coordinators_error_comes_out(world: Miniature) -> None:
    federation = world.federation(Path("unused"))
    found: list[tuple[object, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        specs = {
            name: StubSpec(federation.job, SiteRecords(name, (), ()), Path(folder) / name)
            for name in ("broken", "raising", "working")
        }

        def run(transport: Transport) -> None:
            assert (
                len(carrying("YORIAI_TEST_MARK", os.environ["YORIAI_TEST_MARK"])) >= 3
            )  # So that the search for what is left can find.
            found.append((transport.sites(), transport.exchange("train", {"raising": b"1", "working": b"2"}, 60.0)))
            raise RoundError("the coordinator's own", remedy="see above")

        with pytest.raises(RoundError, match="the coordinator's own; see above"):
            run_in_flower(specs, world.session(federation).base.digest, run)
    assert found == [(("raising", "working"), {"working": b"2working"})]


def _with_absent_site(federation: Federation) -> Federation:
    """The roster names one site more than there are."""
    weights = {**federation.roster.weights, "absent": 2}
    return replace(federation, roster=wire.Roster(serial=1, weights=weights))


def _settings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
