"""The operator's commands about jobs: what they show, and what a yes or a no changes."""

import json
import stat
from pathlib import Path

import pytest

from tests.client.books import BASE, approved, state, terms
from tests.commands import yoriai
from yoriai.client.daemon.daemon_config import config_in
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.config import JobConfig, PolicySection, SiteConfig, TaskSection
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED
from yoriai.privacy.dp.accounting import SampledGaussian, event_to_dict
from yoriai.system.users import operator_name


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return make_site(tmp_path / "site", SiteConfig(name="north"))


def test_the_daemon_of_a_folder_opens_the_book_that_the_commands_write(site: SiteFolder) -> None:
    config = config_in(site.path)
    assert (config.jobs, config.adapters) == (site.jobs, site.adapters)
    assert stat.S_IMODE(site.jobs.stat().st_mode) == 0o700


def test_approve_shows_the_terms_and_nothing_happens_without_a_yes(site: SiteFolder) -> None:
    offered = terms(weights={"north": 2, "south": 1, "\x1b[2Jeast": 1})
    JobBook(site.jobs).consider(offered)
    done = yoriai("site", "approve", site.path, "pumps", answers="n\n")
    assert done.code == EXIT_REFUSED
    shown = " ".join(done.screen.split())
    for said in (
        "epsilon 7.50 at delta 1e-05 for all rounds, the spare ones too",
        "per record (add or remove one record), by PLD",
        "local, noise multiplier 1.25",
        "epsilon 16.00 of 16 is left",
        "50, and 1 spare",
        "only their sum opens",
        "3 in roster 1, 2 needed: [2Jeast, north, south",
        BASE,
    ):
        assert said in shown
    assert "\x1b" not in done.screen
    assert state(JobBook(site.jobs)) == "waiting"
    assert yoriai("site", "approve", site.path, "run-1", answers="y\n").code == 0
    entry = JobBook(site.jobs).entry("run-1")
    assert entry is not None
    assert (entry.state, entry.decided_by) == ("approved", operator_name())


def test_refuse_and_a_change_of_mind(site: SiteFolder) -> None:
    JobBook(site.jobs).consider(terms())
    assert yoriai("site", "refuse", site.path, "run").code == 0
    assert state(JobBook(site.jobs)) == "refused"
    assert yoriai("site", "approve", site.path, "run", "--yes").code == 0
    assert state(JobBook(site.jobs)) == "approved"
    assert "was approved before" in yoriai("site", "approve", site.path, "run").screen


def test_a_run_that_is_not_there_is_an_error_with_a_remedy(site: SiteFolder) -> None:
    for command in ("approve", "refuse"):
        done = yoriai("site", command, site.path, "run-9")
        assert done.code == EXIT_BAD_INPUT
        assert "yoriai site jobs DIR" in " ".join(done.screen.split())


def test_jobs_lists_what_was_offered_within_80_columns_and_as_json(site: SiteFolder) -> None:
    assert "no job was offered yet" in yoriai("site", "jobs", site.path).screen
    book = JobBook(site.jobs)
    book.consider(terms("2026-11-22-pumps-of-the-north-and-the-south-0123456789abcdef"))
    approved(book, terms("run-2", name="cabins", epsilon=None, accountant="", noise_multiplier=None))
    done = yoriai("site", "jobs", site.path)
    assert max(len(line) for line in done.screen.splitlines()) <= 80
    for said in ("pumps", "cabins", "waiting", "approved", "7.5", "none", "local", "core", BASE[:8], "16.00 of 16"):
        assert said in done.screen
    listed = json.loads(yoriai("site", "jobs", site.path, "--json").screen)
    assert (listed["schema"], listed["budget"]["left"]) == (1, 16.0)
    assert [job["state"] for job in listed["jobs"]] == ["waiting", "approved"]
    assert listed["jobs"][0]["epsilon"] == 7.5


def test_a_job_that_trains_a_head_is_listed_as_such_and_not_by_the_rule_of_adapters(site: SiteFolder) -> None:
    job = JobConfig(name="pumps", task=TaskSection(kind="classify", labels=("a", "b"), head="trained"))
    JobBook(site.jobs).consider(terms(job=job.model_dump(mode="json", by_alias=True)))
    (listed,) = json.loads(yoriai("site", "jobs", site.path, "--json").screen)["jobs"]
    assert listed["rule"] == "head"
    assert "core" not in yoriai("site", "jobs", site.path).screen


def test_a_job_of_an_earlier_version_hides_no_other_and_can_be_refused(site: SiteFolder) -> None:
    book, old = JobBook(site.jobs), terms("run-0")
    old.job["training"]["learning_rate"] = 1e25
    book.consider(old)
    book.consider(terms())
    done = yoriai("site", "jobs", site.path)
    assert done.code == 0
    assert "run-0: of an earlier version" in " ".join(done.screen.split())
    assert "pumps" in done.screen
    first, second = json.loads(yoriai("site", "jobs", site.path, "--json").screen)["jobs"]
    assert (first["run_id"], "rule" in first, second["rule"]) == ("run-0", False, "core")
    for command in ("jobs", "approve"):
        done = yoriai("site", command, site.path, "run-0")
        assert done.code == EXIT_BAD_INPUT
        assert "that this version of Yoriai takes from no job" in " ".join(done.screen.split())
    assert yoriai("site", "refuse", site.path, "run-0").code == 0
    assert state(JobBook(site.jobs), "run-0") == "refused"


def test_before_a_yes_the_operator_is_told_how_many_more_such_jobs_fit(site: SiteFolder) -> None:
    event = event_to_dict(SampledGaussian(0.12, 0.8752))  # Of a job with the default settings.
    JobBook(site.jobs).consider(terms(event=event))
    assert "run-1 waits: after this one 2 more such jobs fit" in " ".join(
        yoriai("site", "jobs", site.path).screen.split()
    )
    listed = json.loads(yoriai("site", "jobs", site.path, "--json").screen)
    assert [job["such_jobs_that_fit"] for job in listed["jobs"]] == [3]
    shown = " ".join(yoriai("site", "approve", site.path, "run-1", answers="n\n").screen.split())
    assert "after this one 2 more such jobs fit" in shown
    assert "policy.planned_jobs" not in shown


def test_a_job_that_leaves_less_room_than_is_planned_for_is_marked(tmp_path: Path) -> None:
    policy = PolicySection(epsilon_budget=8.0, planned_jobs=3)
    tight = make_site(tmp_path / "tight", SiteConfig(name="north", policy=policy))
    JobBook(tight.jobs).consider(terms(event=event_to_dict(SampledGaussian(0.12, 0.8752))))
    shown = " ".join(yoriai("site", "jobs", tight.path, "run-1").screen.split())
    assert "after this one no more such jobs fit" in shown
    assert "unusual: policy.planned_jobs plans for 2 more after this one" in shown
