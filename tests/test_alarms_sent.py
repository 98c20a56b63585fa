"""Alarms that leave: a POST of JSON and a mail, once a day, with what is wrong and where, and nothing else."""

import io
import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.commands import server, site, yoriai
from tests.console.stored import stored_server
from tests.tls import Issuer
from tests.waiting import wait_for
from yoriai.alarms.alarm import Alarm, disk_alarms, expiry_alarms
from yoriai.alarms.sending import Sender, Watch
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.node import node_log_in
from yoriai.client.node.node_alarms import node_alarms
from yoriai.config import parse_server, parse_site
from yoriai.config.alarms import AlarmWays, ServerAlarms
from yoriai.errors import ConfigError
from yoriai.server.channels.changing import promote
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore
from yoriai.server.jobs.recording import records_of
from yoriai.server.service.server_alarms import papers_of, server_alarms
from yoriai.server.service.status import Member
from yoriai.server.versions import catalogue
from yoriai.server.versions.database import writing
from yoriai.server.versions.log import append
from yoriai.system.log import EventLog

ALARM = Alarm("site_silent", "north", "{site} has not been connected for {hours} h.", {"site": "north", "hours": 30})


@contextmanager
def receiver(answer: int = 200, location: str = "") -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address that takes webhooks, and what it took."""
    taken: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append({"type": self.headers["Content-Type"], "path": self.path, "body": body.decode()})
            self.send_response(answer)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/hook", taken
        listening.shutdown()


@contextmanager
def post_office() -> Iterator[tuple[int, list[str]]]:
    """The port of a mail server, and the mails that came."""
    mails: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline().decode().strip():
                if line.upper() == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    mails.append("".join(iter(lambda: self.rfile.readline().decode().replace("\r", ""), ".\n")))
                self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 ok\r\n")
                if line.upper() == "QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1], mails
        listening.shutdown()


def test_an_alarm_is_posted_and_mailed_once_a_day_as_long_as_it_lasts() -> None:
    now, log = [0.0], io.StringIO()
    with receiver() as (address, posted), post_office() as (port, mails):
        ways = AlarmWays(webhook=address, mail_to="hana@plant.example", mail_host="127.0.0.1", mail_port=port)
        sender = Sender(ways, "office", EventLog(log), clock=lambda: now[0])
        for at in (0.0, 300.0, 86_399.0, 86_401.0):
            now[0] = at
            sender.tell([ALARM])
    assert [json.loads(one["body"]) for one in posted] == [
        {
            "schema": 1,
            "kind": "site_silent",
            "where": "office",
            "subject": "north",
            "text": "north has not been connected for 30 h.",
        }
    ] * 2
    assert {one["type"] for one in posted} == {"application/json"}
    assert len(mails) == 2
    assert "Subject: Yoriai office: north has not been connected for 30 h." in mails[0]
    assert "To: hana@plant.example" in mails[0]
    assert log.getvalue() == ""


def test_a_receiver_that_fails_or_is_not_there_is_a_line_in_the_log_without_its_address() -> None:
    log = io.StringIO()
    with receiver(answer=500) as (address, _):
        Sender(AlarmWays(webhook=address), "office", EventLog(log)).tell([ALARM])
    ways = AlarmWays(webhook=address, mail_to="hana@plant.example", mail_host="127.0.0.1", mail_port=1)
    Sender(ways, "office", EventLog(log)).tell([ALARM])
    lines = log.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["alarm_failed"] * 3
    assert "127.0.0.1" not in log.getvalue()
    assert "plant.example" not in log.getvalue()


def test_an_alarm_follows_no_answer_elsewhere() -> None:
    with receiver() as (elsewhere, taken), receiver(answer=302, location=elsewhere) as (address, _):
        Sender(AlarmWays(webhook=address), "office", EventLog(io.StringIO())).tell([ALARM])
    assert taken == []


def test_a_name_with_line_ends_adds_no_header_to_a_mail() -> None:
    hostile = Alarm("job_waits", "x", "Job {run} waits for your answer.", {"run": "x\r\nBcc: all@evil.example"})
    with post_office() as (port, mails):
        ways = AlarmWays(mail_to="hana@plant.example", mail_host="127.0.0.1", mail_port=port)
        Sender(ways, "north", EventLog(io.StringIO())).tell([hostile])
    head = mails[0].partition("\n\n")[0]
    assert "Bcc" not in {line.partition(":")[0] for line in head.splitlines()}


def test_a_watch_looks_on_after_a_look_that_failed_and_not_at_all_without_a_way() -> None:
    looks: list[int] = []

    def look() -> list[Alarm]:
        looks.append(1)
        if len(looks) == 1:
            raise OSError
        return [ALARM]

    log = EventLog(io.StringIO())
    with Watch(look, Sender(AlarmWays(), "office", log), every_s=0.01):
        pass
    assert looks == []
    with receiver() as (address, posted), Watch(look, Sender(AlarmWays(webhook=address), "office", log), every_s=0.01):
        wait_for(lambda: posted)


def test_the_keeper_of_a_node_that_the_server_refuses_tells_of_its_clock_or_of_its_key(tmp_path: Path) -> None:
    """By Flower's own words in the node's log; who was taken, or not heard yet, is told of to nobody."""
    place = SiteFolder(site(tmp_path / "north", "north"))
    (tmp_path / "ca.crt").write_bytes(Issuer.make().pem)
    assert yoriai("site", "enrol", place.path, "--server-ca", tmp_path / "ca.crt", "--yes").code == 0
    refused = "Failed to initialize the connection to the SuperLink.\nClient error '401 Unauthorized' for url"
    node_log_in(place).write_text(refused)
    with receiver() as (address, posted):
        text = place.settings.read_text().replace('address = ""', 'address = "localhost:1"')
        place.settings.write_text(text.replace('webhook = ""', f'webhook = "{address}"'))
        command = [sys.executable, "-P", "-m", "yoriai.cli", "site", "start", str(place.path), "--only", "node"]
        with subprocess.Popen([*command, "--same-user"]) as keeper:
            try:
                wait_for(lambda: posted)
            finally:
                keeper.terminate()
    (told,) = [json.loads(one["body"]) for one in posted]
    assert (told["kind"], told["where"], told["subject"]) == ("clock", "north", "node")
    assert "this machine's clock is off, or it was revoked" in told["text"]
    assert [alarm.kind for alarm in node_alarms({"accepted": False, "server_says": "not enrolled"})] == ["site_silent"]
    assert not [
        *node_alarms({"accepted": True, "server_says": ""}),
        *node_alarms({"accepted": None, "server_says": ""}),
    ]


@pytest.mark.parametrize(
    ("left_days", "told"), [(-0.1, "has expired"), (0.5, "in 0 d"), (13.9, "in 13 d"), (14.1, ""), (400.0, "")]
)
def test_a_paper_is_told_of_from_its_threshold_on(left_days: float, told: str) -> None:
    found = list(expiry_alarms({"the roster": left_days * 86_400.0}, AlarmWays(expiry_days=14), 0.0))
    assert [told in alarm.sentence for alarm in found] == ([True] if told else [])


def test_a_disk_is_told_of_below_its_threshold_alone() -> None:
    ways = AlarmWays(disk_gib=2.0)
    assert [alarm.sentence for alarm in disk_alarms(2**30, ways)] == ["1.0 GiB of the disk are free."]
    assert list(disk_alarms(2 * 2**30, ways)) == []


def test_a_member_that_was_silent_for_long_is_told_of_and_one_that_is_connected_or_was_just_here_is_not(
    tmp_path: Path,
) -> None:
    folder = ServerFolder(server(tmp_path / "server"))
    now = datetime.now(UTC).timestamp()
    members = {
        "away": Member("offline", now - 25 * 3600),
        "just-left": Member("offline", now - 3600),
        "here": Member("online", now - 90 * 3600),
        "never": Member("offline"),
        "old": Member("online", now, now + 3 * 86_400 + 60),
    }
    found = {(alarm.kind, alarm.subject) for alarm in server_alarms(folder, members, is_kept=True)}
    assert found - {("disk", "disk")} == {("site_silent", "away"), ("expiry", "old")}
    assert ("not_running", "server") in {
        (alarm.kind, alarm.subject) for alarm in server_alarms(folder, {}, is_kept=False)
    }


def test_a_version_in_production_that_fell_by_the_sites_counts_is_told_of(tmp_path: Path) -> None:
    folder = stored_server(tmp_path)
    with records_of(folder) as records:
        (run, *_) = [version.run for version in catalogue.versions(records.db)]
        promote(records, run, "production", None, force_why="")
        row = catalogue.standing(records.db, "production")
        assert row is not None
        for period, right in ((1, 900), (2, 600)):
            assert not [alarm for alarm in server_alarms(folder, {}, is_kept=True) if alarm.kind == "drift"]
            said = {"number": row.number, "period": period}
            with writing(records.db):
                append(records.db, records.key, "checking", run=run, **said)
                counts = {"counts": [right, 1000 - right], "deviation": 8.0}
                append(records.db, records.key, "checked", run=run, site="north", **said, **counts)
    (told,) = [alarm for alarm in server_alarms(folder, {}, is_kept=True) if alarm.kind == "drift"]
    assert told.sentence == f"{run}, in production, has come to answer worse at the sites."


def test_a_round_that_was_void_and_a_job_that_failed_are_told_of(tmp_path: Path) -> None:
    folder = stored_server(tmp_path)
    at_work = next(job for job, state in JobStore(folder.jobs).states().items() if state.phase == "finished")
    at_work.change(phase="running")
    path = at_work.folder / "checkpoint.json"
    stored = json.loads(path.read_text())
    stored["rounds"][1]["voided"] = ["too few survivors", "wrong shares"]
    path.write_text(json.dumps(stored))
    told = {alarm.kind: alarm.sentence for alarm in server_alarms(folder, {}, is_kept=True)}
    assert told["round_void"] == f"Round 2 of {at_work.run_id} was void 2 times before it counted."
    assert re.fullmatch(r"Job small-\S+ has failed\.", told["job_failed"])


def test_a_servers_own_papers_are_read_as_far_as_they_are_there(tmp_path: Path) -> None:
    found = papers_of(ServerFolder(server(tmp_path / "server")))
    assert list(found) == ["the TLS certificate"]
    assert found["the TLS certificate"] > datetime.now(UTC).timestamp()


@pytest.mark.parametrize(
    "line",
    [
        'webhook = "ftp://host/x"',
        'webhook = "http://"',
        'mail_to = "nobody"',
        'mail_to = "a@b, c@d"',
        "expiry_days = 0",
        "disk_gib = -1",
        "mail_port = 0",
    ],
)
def test_a_way_that_cannot_be_is_refused_in_either_file(line: str) -> None:
    head = f'schema = 1\nname = "x"\nhosts = ["h.example"]\n[alarms]\n{line}\n'
    with pytest.raises(ConfigError):
        parse_server(head, "server.toml")
    with pytest.raises(ConfigError):
        parse_site(head.replace('hosts = ["h.example"]\n', ""), "site.toml")


def test_files_of_before_are_good_and_tell_nobody() -> None:
    settings = parse_server('schema = 1\nname = "x"\nhosts = ["h.example"]\n', "server.toml").alarms
    assert settings == ServerAlarms()
    assert not Sender(settings, "x", EventLog(io.StringIO())).has_way
