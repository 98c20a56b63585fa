"""The console of a server: it shows what the commands show, a name is never a script, and it does what they do."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from html import unescape
from itertools import islice
from types import SimpleNamespace

import pytest

from tests.commands import yoriai
from tests.console.stored import HOSTILE, Visitor, opened, stored_server
from tests.server.versions_made import written
from yoriai.console.access import Access
from yoriai.console.pages import Asked
from yoriai.server.console import watched
from yoriai.server.console.console import console_of
from yoriai.server.console.watched import WatchedServer
from yoriai.server.flower.flower_control import FlowerControl, Seen
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore
from yoriai.server.jobs.recording import records_of
from yoriai.server.service.status import Member
from yoriai.server.versions import catalogue
from yoriai.server.versions.database import writing
from yoriai.server.versions.log import append, newest_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ServerFolder:
    return stored_server(tmp_path_factory.mktemp("server-console"))


@pytest.fixture(scope="module")
def access(folder: ServerFolder) -> Iterator[Access]:
    with opened(console_of(folder, allow_actions=True)) as found:
        yield found


def jobs(folder: ServerFolder) -> dict[str, str]:
    return {job.run_id: state.phase for job, state in JobStore(folder.jobs).states().items()}


def test_every_page_is_there_in_each_language_and_says_the_same_jobs_as_the_command(
    folder: ServerFolder, access: Access
) -> None:
    visitor = Visitor(access)
    listed = json.loads(yoriai("job", "list", "--server", folder.path, "--json").screen)["jobs"]
    paths = ["/", "/sites", "/jobs", "/versions", "/log", "/officer", f"/jobs/{listed[0]['run']}"]
    paths.append(f"/versions/{listed[0]['run']}")
    for language in ("en", "ja", "es"):
        for path in paths:
            assert f'<html lang="{language}">' in visitor.page(f"{path}?language={language}")
    page = visitor.page("/jobs")
    assert re.findall(r'href="/jobs/([^"]+)"', page) == [job["run"] for job in reversed(listed)]
    assert "too few sites" in page


def test_a_jobs_page_has_rounds_participation_and_what_it_promised(folder: ServerFolder, access: Access) -> None:
    run = next(run for run, phase in jobs(folder).items() if phase == "finished")
    page = Visitor(access).page(f"/jobs/{run}?language=en")
    assert "2 of 2" in page
    assert len(re.findall(r'class="yes"', page)) == 4  # Two sites in two rounds.
    assert "epsilon 8 at delta" in page


def test_a_jobs_page_has_events_as_well(folder: ServerFolder, access: Access) -> None:
    run = next(iter(jobs(folder)))
    with Visitor(access).client.stream("GET", "/events", params={"page": f"/jobs/{run}"}) as answer:
        assert answer.status_code == 200
        assert run in next(line for line in answer.iter_lines() if line.startswith("data: "))


def test_a_job_that_is_not_there_is_told_so(access: Access) -> None:
    answer = Visitor(access).client.get("/jobs/none-such")
    assert answer.status_code == 404
    assert "no job" in answer.text


def test_a_name_a_reason_or_an_error_that_is_a_script_is_text(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "members_of", lambda *_: {HOSTILE: Member(f"barred: {HOSTILE}")})
    hostile = JobStore(folder.jobs).jobs()[-1]
    before = hostile.state().error
    hostile.change(error=HOSTILE)
    with records_of(folder) as records, writing(records.db):
        append(records.db, records.key, "refused", run="run", site=HOSTILE, reason=HOSTILE)
    try:
        with opened(console_of(folder, allow_actions=True)) as access:
            visitor = Visitor(access, "act")
            for path in ("/", "/sites", "/jobs", "/log", f"/log?site={HOSTILE}&event={HOSTILE}&run={HOSTILE}"):
                page = visitor.client.get(path).text
                assert "<script>" not in page
                assert "<img" not in page
            assert "&lt;script&gt;" in visitor.page("/sites")
            assert "&lt;script&gt;" in visitor.page("/log")
    finally:
        hostile.change(error=before)


def test_the_log_is_filtered_by_event_job_and_site_with_the_newest_first(folder: ServerFolder, access: Access) -> None:
    with records_of(folder) as records:
        joined = [row.document for row in newest_rows(records.db, event="joined", site="north")]
    assert joined
    assert {(row["event"], row["site"]) for row in joined} == {("joined", "north")}
    assert [row["row"] for row in joined] == sorted((row["row"] for row in joined), reverse=True)
    with records_of(folder) as records, writing(records.db):
        append(records.db, records.key, "received", run="other", site="north", number=1)
        (row,) = islice(newest_rows(records.db), 1)
    assert (row.document["row"], row.document["number"]) == (row.number, 1)
    assert f'<th scope="row">{row.number}</th>' in Visitor(access).page("/log?event=received")
    page = Visitor(access).page(f"/log?event=joined&site=north&run={joined[0]['run'][:8]}")
    assert len(re.findall(r'<tr><th scope="row">', page)) == len(joined)


def test_the_export_is_the_log_of_the_command(folder: ServerFolder, access: Access) -> None:
    answer = Visitor(access).client.get("/export/log.jsonl")
    assert answer.headers["content-disposition"] == 'attachment; filename="log.jsonl"'
    assert answer.text == yoriai("server", "log", folder.path, "--json").screen


def test_cancel_resume_and_end_do_what_the_commands_do_and_refuse_what_they_refuse(
    folder: ServerFolder, access: Access
) -> None:
    visitor, stored = Visitor(access, "act"), jobs(folder)
    run = next(run for run, phase in stored.items() if phase == "queued")
    own = {"form_key": visitor.form_key(f"/jobs/{run}"), "run": run}
    assert visitor.send("cancel", **own).status_code == 409  # The box is not ticked.
    assert jobs(folder)[run] == "queued"
    assert visitor.send("cancel", **own, agreed="yes").status_code == 200
    assert jobs(folder)[run] == "cancelled"
    assert visitor.send("resume", **own).status_code == 200
    assert jobs(folder)[run] == "queued"
    refused = visitor.send("resume", **own)
    assert refused.status_code == 409
    assert yoriai("job", "resume", "--server", folder.path, run).screen.split(";")[0][7:] in refused.text
    assert visitor.send("end", **own, agreed="yes").status_code == 200
    assert JobStore(folder.jobs).find(run).state().ending
    assert visitor.send("cancel", form_key=own["form_key"], agreed="yes").status_code == 409  # Not the last job.
    assert visitor.send("cancel", **own, agreed="yes").status_code == 200
    visitor.send("resume", **own)


def test_promote_and_roll_back_go_through_the_gate_and_into_the_log(folder: ServerFolder, access: Access) -> None:
    visitor = Visitor(access, "act")
    first, second = [run for run, phase in jobs(folder).items() if phase == "finished"]
    key = visitor.form_key(f"/versions/{first}")
    for run in (first, second):
        assert visitor.send("promote", form_key=key, run=run, channel="production").status_code == 200
        assert folder.card(run).is_file()
    forced = visitor.send("promote", form_key=key, run=first, channel="production", force="yes")
    assert forced.status_code == 409
    assert "--force and --why go together" in forced.text
    back = visitor.send("rollback", form_key=key, channel="production", why="worse at two sites", agreed="yes")
    assert back.status_code == 200
    assert f"production holds {first}" in back.text
    assert "worse at two sites" in visitor.page("/log?event=rolled_back")
    assert visitor.send("promote", form_key=key, run=first, channel="elsewhere").status_code == 409


def test_a_versions_page_has_each_votes_and_checks_counts_with_their_intervals_or_why_they_are_withheld(
    folder: ServerFolder,
) -> None:
    with records_of(folder) as records:
        version = catalogue.versions(records.db)[1]
        with writing(records.db):
            for event, fields in SAID:
                append(records.db, records.key, event, run=version.run, number=7, **fields)
    with opened(console_of(folder, allow_actions=False)) as access:
        visitor = Visitor(access)
        page = re.sub(r"<[^>]*>", "", visitor.page(f"/versions/{version.run}?language=en"))
        japanese = visitor.page(f"/versions/{version.run}?language=ja")
    # North: 30 gained and 2 lost, each with a deviation of 10; together -12 with one of 20.
    for said in ("30 (10…50)", "-2 (0…18)", "-10 (0…10)", "-12 (-51…27)", "No loss beyond the noise is shown"):
        assert said in page
    assert "policy.count_epsilon is 0: what this site's test records say stays there" in unescape(page)
    assert "80% (65%…95%)" in page
    assert "No fall since its first check is shown" in page
    assert "policy.count_epsilon は 0 です: この拠点の評価記録が示すことは、拠点の外に出ません" in unescape(japanese)


NONE = "policy.count_epsilon is 0: what this site's test records say stays there"
SAID = [
    ("voted", {"site": "north", "period": 0, "counts": [30, -2], "deviation": 10.0}),
    ("voted", {"site": "east", "period": 0, "counts": [-10, 34], "deviation": 10.0}),
    ("withheld", {"site": "south", "period": 0, "reason": NONE}),
    ("checking", {"channel": "production", "period": 1}),
    ("checked", {"site": "north", "period": 1, "counts": [80, 20], "deviation": 8.0}),
    ("withheld", {"site": "south", "period": 1, "reason": NONE}),
]


def test_a_thousand_sites_are_listed_with_one_question_to_flower_one_look_at_each_certificate_and_one_drawing(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, verified = [], []
    standing = {f"site-{number:04}": SimpleNamespace(expires=_Date()) for number in range(1000)}

    def seen(_flower: FlowerControl) -> dict[int, Seen]:
        asked.append(1)
        return {}

    def members(_folder: ServerFolder, _now: object) -> dict[str, SimpleNamespace]:
        verified.append(1)
        return standing

    monkeypatch.setattr(FlowerControl, "seen", seen)
    monkeypatch.setattr(watched, "keeper_of", lambda _: True)
    monkeypatch.setattr(ServerFolder, "standing", members)
    with opened(console_of(folder, allow_actions=False)) as access:
        visitor = Visitor(access)
        for _ in range(3):
            assert visitor.page("/sites").count('<tr><th scope="row">site-') == 1000
            visitor.page("/")
    assert (len(asked), len(verified)) == (1, 1)


class _Date:
    @staticmethod
    def timestamp() -> float:
        return 2.0e9


def test_a_console_that_nobody_looks_at_reads_nothing_and_asks_nobody(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    for name in ("overview", "sites", "jobs", "job", "versions", "log", "officer"):
        monkeypatch.setattr(WatchedServer, name, lambda *_, name=name: read.append(name))
    monkeypatch.setattr(FlowerControl, "seen", lambda _: read.append("flower"))
    with opened(console_of(folder, allow_actions=False)):
        pass
    assert read == []


def test_a_versions_list_of_hundreds_takes_as_many_queries_as_one_of_two(folder: ServerFolder) -> None:
    def queries() -> int:
        counted = []
        with records_of(folder) as records:
            records.db.set_trace_callback(counted.append)
            monkey = pytest.MonkeyPatch()
            monkey.setattr(watched, "records_of", lambda _: nullcontext(records))
            try:
                WatchedServer(folder).versions(Asked())
            finally:
                monkey.undo()
        return len(counted)

    before = queries()
    with records_of(folder) as records, writing(records.db):
        for number in range(300):
            written(records.db, f"many-{number}")
    assert queries() == before
