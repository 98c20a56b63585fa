"""A job that waits for an answer is an alarm: in the log, in the metrics, and by the command of site.toml."""

import io
import json
from pathlib import Path

import pytest

from tests.client.books import terms
from tests.client.daemons import MARKER
from tests.waiting import wait_for
from yoriai import wire
from yoriai.client.daemon.alarms import Alarms
from yoriai.client.daemon.daemon_config import config_in
from yoriai.client.daemon.message_worker import Health, MessageWorker
from yoriai.client.daemon.site_metrics import daemon_readings
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.config import SiteConfig, parse_site
from yoriai.system.log import EventLog


def hook(tmp_path: Path, end: str = "") -> tuple[str, Path]:
    """A command that writes down its environment, a line each time."""
    said, command = tmp_path / "said", tmp_path / "hook"
    command.write_text(
        f'#!/bin/sh\necho "$YORIAI_ALARM $YORIAI_SITE $YORIAI_RUN ${{TOKEN:-none}} $#" >> {said}\n{end}\n'
    )
    command.chmod(0o700)
    return str(command), said


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_that_waits_runs_the_command_once_a_day_with_the_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", MARKER)
    command, said = hook(tmp_path)
    now, log = [0.0], io.StringIO()
    alarms = Alarms("north", [command], EventLog(log), clock=lambda: now[0])
    for at in (0.0, 20.0, 40.0, 86_399.0):
        now[0] = at
        alarms.job_waits("run-1; touch x")
    wait_for(lambda: lines(said))
    now[0] = 86_401.0
    alarms.job_waits("run-1; touch x")
    wait_for(lambda: len(lines(said)) >= 2)
    assert lines(said) == ["job_waits north run-1; touch x none 0"] * 2
    assert [line.split()[1] for line in log.getvalue().splitlines()] == ["alarm", "alarm"]


def test_a_run_whose_name_no_environment_can_hold_is_told_all_the_same(tmp_path: Path) -> None:
    command, said = hook(tmp_path)
    Alarms("north", [command], EventLog(io.StringIO())).job_waits("run\0-1")
    wait_for(lambda: lines(said))
    assert lines(said) == ["job_waits north run?-1 none 0"]


def test_a_version_that_drifts_is_an_alarm_of_its_own_beside_a_job_of_the_same_run(tmp_path: Path) -> None:
    command, said = hook(tmp_path)
    alarms = Alarms("north", [command], EventLog(io.StringIO()), clock=lambda: 0.0)
    for _ in range(2):
        alarms.job_waits("run-1")
        alarms.drifts("run-1")
    wait_for(lambda: len(lines(said)) >= 2)
    assert sorted(lines(said)) == ["drift north run-1 none 0", "job_waits north run-1 none 0"]


@pytest.mark.parametrize(("command", "why"), [("/no/such/command", "FileNotFoundError"), ("exit 3", "3")])
def test_a_command_that_fails_is_a_line_in_the_log_and_no_more(tmp_path: Path, command: str, why: str) -> None:
    line = command if command.startswith("/") else hook(tmp_path, command)[0]
    log = io.StringIO()
    Alarms("north", [line], EventLog(log)).job_waits("run-1")
    wait_for(lambda: "alarm_failed" in log.getvalue())
    assert why in log.getvalue().splitlines()[-1]


def test_an_offer_that_waits_raises_the_alarm_and_one_that_is_accepted_does_not() -> None:
    heard: list[str] = []
    worker = MessageWorker(
        lambda _: pytest.fail("not opened"),
        EventLog(io.StringIO()),
        waiting=1,
        on_failure=lambda: None,
        on_job_waits=heard.append,
    )
    worker._log_reply(wire.encode(wire.Acceptance(run_id="run-0", site="north")))
    worker._log_reply(wire.encode(wire.Refusal(run_id="run-2", site="north", reason="no")))
    worker._log_reply(wire.encode(wire.Refusal(run_id="run-1", site="north", reason="waits", waiting=True)))
    assert heard == ["run-1"]


def test_the_metrics_count_the_jobs_that_wait(tmp_path: Path) -> None:
    folder: SiteFolder = make_site(tmp_path / "site", SiteConfig(name="north"))
    config = config_in(folder.path)

    def waiting() -> float:
        found = {reading.name: reading.values for reading in daemon_readings(config, Health())}
        return next(iter(found["site_jobs_waiting"].values()))

    book = JobBook(folder.jobs)
    assert waiting() == 0.0
    book.consider(terms("run-1"))
    book.consider(terms("run-2"))
    assert waiting() == 2.0
    book.decide(book.find("run-1"), "approved", by="hana")
    assert waiting() == 1.0


def test_the_command_is_a_setting_of_the_site() -> None:
    text = 'schema = 1\nname = "north"\n[alarms]\ncommand = ["/bin/tell", "x"]\n'
    assert json.loads(parse_site(text).model_dump_json())["alarms"]["command"] == ["/bin/tell", "x"]
