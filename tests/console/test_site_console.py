"""The console of a site: jobs in words, the budget by job with a forecast, what left, and decisions as by command."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from urllib.parse import quote

import numpy as np
import pytest

from tests.client.books import terms
from tests.commands import yoriai
from tests.console.stored import DIGEST, EVENT, HOSTILE, Visitor, deliver, opened, stored_site
from tests.privacy.ledgers import charge
from yoriai.client.cli.own_ledger import opened as ledger_of
from yoriai.client.console import acts, watched
from yoriai.client.console.burnt import burnt_by_job
from yoriai.client.console.console import console_of
from yoriai.client.console.watched import WatchedSite
from yoriai.client.daemon.daemon_config import config_in
from yoriai.client.daemon.site_alarms import site_alarms
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.decision_log import DecisionLog
from yoriai.client.offer.job_book import JobBook
from yoriai.client.versions.given_counts import counts_file
from yoriai.client.versions.own_checks import OwnChecks
from yoriai.config.site import AlarmsSection, SiteConfig
from yoriai.console.access import Access
from yoriai.console.pages import Asked
from yoriai.privacy.dp.accounting import event_to_dict
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.counts_statement import CountsStatement, sign_counts
from yoriai.system.files import make_private_folder
from yoriai.system.users import operator_name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    return stored_site(tmp_path_factory.mktemp("site-console"))


@pytest.fixture(scope="module")
def access(site: SiteFolder) -> Iterator[Access]:
    with opened(console_of(site, allow_actions=True)) as found:
        yield found


def state(site: SiteFolder, run: str) -> str:
    entry = JobBook(site.jobs).entry(run)
    assert entry is not None
    return entry.state


def test_every_page_is_there_in_each_language(access: Access) -> None:
    visitor = Visitor(access)
    for language in ("en", "ja", "es"):
        for path in ("/", "/jobs", "/jobs?all=1", "/jobs/pumps-3", "/jobs/pumps-1", "/budget", "/adapters", "/officer"):
            separator = "&" if "?" in path else "?"
            assert f'<html lang="{language}">' in visitor.page(f"{path}{separator}language={language}")


def test_a_job_that_waits_is_told_in_words_and_with_every_row_of_the_command(site: SiteFolder, access: Access) -> None:
    visitor = Visitor(access)
    page = visitor.page("/jobs/pumps-3?language=en")
    assert "cost each record of this site at most epsilon 1.90 at delta 1e-05" in page
    assert "masked: only the sum over 2 sites or more opens" in page
    assert "各記録にかかる費用は最大でイプシロン 1.90" in visitor.page("/jobs/pumps-3?language=ja")
    assert "como mucho épsilon 1.90" in visitor.page("/jobs/pumps-3?language=es")
    shown = " ".join(yoriai("site", "jobs", site.path, "pumps-3").screen.split())
    rows = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", unescape(visitor.page("/jobs/pumps-3?language=en")))
    told = [text for name, text in rows if name in ("noise", "rounds", "clipping", "sites", "updates")]
    assert len(told) == 5
    assert all(text in shown for text in told)


def test_the_budget_is_burnt_down_by_job_and_adds_up_to_what_the_ledger_says(site: SiteFolder, access: Access) -> None:
    with ledger_of(site) as ledger:
        assert ledger is not None
        view, fit = watched.view_of(ledger, site.ledgers), ledger.jobs_that_fit(EVENT, 51)
    burnt = burnt_by_job(view)
    assert [(one.job, one.rounds, one.released) for one in burnt] == [("pumps-1", 4, 4), ("pumps-2", 2, 2)]
    assert sum(one.epsilon for one in burnt) == pytest.approx(view.spent)
    assert burnt[1].held == pytest.approx(view.held)
    page = Visitor(access).page("/budget?language=en")
    assert f"room for {fit} more jobs like the last one" in page
    assert len(re.findall("a noised update", page)) == 6


def test_the_ledger_is_added_up_again_only_when_it_has_changed(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, view_of = [], watched.view_of
    monkeypatch.setattr(watched, "view_of", lambda *given: read.append(1) or view_of(*given))
    looked = WatchedSite(site)
    for _ in range(5):
        looked.budget(Asked())
    assert len(read) == 1
    with ledger_of(site) as ledger:
        assert ledger is not None
        ledger.raise_budget(ledger.policies()[-1].policy.epsilon_budget + 1, "agreed")
    looked.budget(Asked())
    assert len(read) == 2


def test_the_officer_sees_ledger_policy_changes_decisions_and_statements_and_takes_the_commands_json(
    site: SiteFolder, access: Access
) -> None:
    visitor = Visitor(access)
    page = visitor.page("/officer")
    for said in ("agreed on Monday", "not our field", "yoriai-delivery-1", "allow_plain_updates"):
        assert said in page
    assert visitor.client.get("/export/ledger.json").json() == json.loads(
        yoriai("site", "budget", site.path, "--json").screen
    )
    exported = [json.loads(line) for line in visitor.client.get("/export/decisions.jsonl").text.splitlines()]
    assert exported == json.loads(yoriai("site", "decisions", site.path, "--json").screen)["decisions"]


def test_a_runs_name_and_a_purpose_that_are_a_script_are_text(site: SiteFolder, access: Access) -> None:
    job = {**terms().job, "purpose": HOSTILE}
    JobBook(site.jobs).consider(terms(HOSTILE, job=job, weights={HOSTILE: 1}))
    visitor = Visitor(access, "act")
    try:
        for path in ("/", "/jobs", f"/jobs/{quote(HOSTILE)}"):
            page = visitor.page(path)
            assert "<script>document" not in page
            assert "<img" not in page
        assert "&lt;script&gt;" in visitor.page("/jobs")
    finally:
        book = JobBook(site.jobs)
        entry = book.entry(HOSTILE)
        assert entry is not None
        book.decide(entry, "refused", by="hana")


def test_approve_and_refuse_from_the_page_are_decisions_with_name_and_reason(site: SiteFolder, access: Access) -> None:
    visitor, book = Visitor(access, "act"), JobBook(site.jobs)
    entry = book.consider(terms("cranes-1", event=event_to_dict(EVENT)))
    form = {"form_key": visitor.form_key("/jobs/cranes-1"), "run": "cranes-1", "terms": entry.terms.digest}
    assert visitor.send("approve", **form).status_code == 409
    assert state(site, "cranes-1") == "waiting"
    assert visitor.send("approve", **form, agreed="yes", reason="as agreed").status_code == 200
    assert state(site, "cranes-1") == "approved"
    assert visitor.send("refuse", **form, reason="changed my mind").status_code == 200
    assert state(site, "cranes-1") == "refused"
    last = DecisionLog(site.jobs, lambda: 0.0).all()[-2:]
    assert [(one.what, one.by, one.reason) for one in last] == [
        ("approved", operator_name(), "as agreed"),
        ("refused", operator_name(), "changed my mind"),
    ]


def test_a_yes_to_terms_that_are_others_by_now_changes_nothing(site: SiteFolder, access: Access) -> None:
    visitor, book = Visitor(access, "act"), JobBook(site.jobs)
    seen = book.consider(terms("drills-1"))
    key = visitor.form_key("/jobs/drills-1")
    book.consider(terms("drills-1", noise_multiplier=0.1))
    answer = visitor.send("approve", form_key=key, run="drills-1", terms=seen.terms.digest, agreed="yes")
    assert answer.status_code == 409
    assert "other terms meanwhile" in answer.text
    assert state(site, "drills-1") == "waiting"


def test_refusing_a_job_at_work_frees_what_its_command_frees(site: SiteFolder, access: Access) -> None:
    visitor, entry = Visitor(access, "act"), JobBook(site.jobs).entry("pumps-2")
    assert entry is not None
    key = visitor.form_key("/jobs/pumps-2")
    answer = visitor.send("refuse", form_key=key, run="pumps-2", terms=entry.terms.digest, reason="over")
    assert answer.status_code == 200
    assert "freed 4 unused rounds" in answer.text
    with ledger_of(site) as ledger:
        assert ledger is not None
        assert ledger.outstanding("pumps-2") == 0


def test_pull_gives_the_command_itself_and_tells_its_refusal(site: SiteFolder, access: Access) -> None:
    visitor = Visitor(access, "act")
    file = site.path / "no-such.version"
    answer = visitor.send("pull", form_key=visitor.form_key("/adapters"), file=str(file), channel="production")
    assert answer.status_code == 409
    assert "cannot be read" in answer.text
    key = visitor.form_key("/adapters")
    back = visitor.send("rollback", form_key=key, channel="production", agreed="yes")
    assert back.status_code == 409
    assert "pull the version that is to be in use" in back.text


def test_the_sites_own_checks_and_the_counts_that_left_are_shown_and_what_they_cost_is_no_round(
    site: SiteFolder, access: Access
) -> None:
    with ledger_of(site) as ledger:
        assert ledger is not None
        ledger.approve("pumps-1/counts/vote.3.0", EVENT, 1)
        charge(ledger, "pumps-1/counts/vote.3.0", 1, EVENT)
        ledger.finish("pumps-1/counts/vote.3.0")
    given = CountsStatement(
        "miyagi", "north", "vote", "pumps-1", DIGEST, 3, 0, 14, -3, deviation=8.1, epsilon=0.5, delta=1e-5
    )
    file = counts_file(site.channels, "vote.3.0")
    make_private_folder(site.channels)
    make_private_folder(file.parent)
    file.write_bytes(sign_counts(SigningKey.generate(), given))
    checks = OwnChecks(site.channels)
    assert [checks.note(3, period, np.array(counts)) for period, counts in ((1, (90, 10)), (2, (60, 40)))] == [
        False,
        True,
    ]
    visitor = Visitor(access)
    page = unescape(re.sub(r"<[^>]*>", "", visitor.page("/adapters?language=en")))
    for said in ("60 of 100", "60% (50%…69%)", "worse, and shown", "gained 14, lost -3", "± 8.1"):
        assert said in page
    assert "what this site's test records say of a version stays here" in page
    budget = visitor.page("/budget?language=en")
    assert re.search(r'<a href="/jobs/pumps-1">pumps-1</a>, counts about its version', budget)
    assert budget.count("two noised counts") == 1
    assert "/jobs/pumps-1/counts" not in budget


def test_in_japanese_and_spanish_a_waiting_jobs_page_has_no_english_but_names_and_the_coordinators_words(
    access: Access,
) -> None:
    visitor = Visitor(access)
    for language in ("ja", "es"):
        page = visitor.page(f"/jobs/pumps-3?language={language}")
        rest = re.findall(r'<dd><span lang="en">([^<]*)</span></dd>', page)
        assert rest == ["pumps-3"]
        assert 'lang="en"' not in re.sub(r'<dd><span lang="en">[^<]*</span></dd>', "", page).partition("<main")[2]


def test_a_file_that_looks_like_an_option_is_a_file(
    site: SiteFolder, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        given.append(command)
        return subprocess.CompletedProcess(command, 2, "", "error: no")

    monkeypatch.setattr(acts.subprocess, "run", run)
    visitor = Visitor(access, "act")
    visitor.send("pull", form_key=visitor.form_key("/adapters"), file="--older", channel="staging")
    assert given[0][-3:] == ["--", str(site.path), "--older"]


def test_alarms_are_of_jobs_that_wait_papers_disk_budget_daemon_and_a_worse_adapter(site: SiteFolder) -> None:
    looked = WatchedSite(site)
    kinds = {alarm.kind for alarm in looked.alarms()}
    assert {"job_waits", "not_running"} <= kinds
    assert "drift" not in kinds
    book, digest = JobBook(site.jobs), "ef" * 32
    offered = terms("worse-1")
    book.decide(book.consider(offered), "approved", by="hana")
    book.accept(offered)
    book.finish("worse-1", digest, 50)
    deliver(site, "worse-1", digest, gained=1, lost=15)
    assert [alarm.subject for alarm in looked.alarms() if alarm.kind == "drift"] == ["worse-1"]


def test_the_budgets_alarm_is_told_below_its_threshold_alone(site: SiteFolder) -> None:
    settings = SiteConfig(name="north", alarms=AlarmsSection(epsilon_left=3.0, disk_gib=0.0))
    config = replace(config_in(site.path), site=settings)
    for left, told in ((3.0, False), (2.9, True)):
        found = site_alarms(config, {"left": left, "epsilon_budget": 16.0})
        assert any(alarm.kind == "budget" for alarm in found) is told
    assert not any(alarm.kind == "budget" for alarm in site_alarms(config, None))
