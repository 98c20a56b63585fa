"""Decisions at a site: who, why, never overwritten; what the site declines itself; and a second person for a raise."""

import json
from pathlib import Path

import pytest

from tests.client.books import state, terms
from tests.commands import yoriai
from tests.world import write_records
from yoriai import wire
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.client.offer.approval import Approval
from yoriai.client.offer.decision_log import NAME, DecisionLog
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import is_current
from yoriai.config import BaseSection, JobConfig, PolicySection, SiteConfig
from yoriai.config.training import TaskSection
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, PolicyError, StorageError
from yoriai.privacy.ledger.folder import open_in_folder
from yoriai.privacy.ledger.ledger import Policy
from yoriai.system.users import operator_name


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return make_site(tmp_path / "site", SiteConfig(name="north"))


def decided(site: SiteFolder) -> list[tuple[str, str, str, str]]:
    listed = json.loads(yoriai("site", "decisions", site.path, "--json").screen)["decisions"]
    return [(each["what"], each["run"], each["by"], each["reason"]) for each in listed]


def test_each_decision_stays_with_the_persons_name_and_reason(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    JobBook(site.jobs).consider(terms())
    monkeypatch.setenv("SUDO_USER", "hana")
    assert yoriai("site", "refuse", site.path, "run-1", "--reason", "no one asked the works council").code == 0
    first = (site.jobs / NAME).read_bytes()
    monkeypatch.setenv("SUDO_USER", "ken")
    assert yoriai("site", "approve", site.path, "run-1", "--yes", "--reason", "they agreed").code == 0
    assert (site.jobs / NAME).read_bytes().startswith(first)
    whats = [(what, by.partition("(")[2], reason) for what, _, by, reason in decided(site)]
    assert whats == [("refused", "hana)", "no one asked the works council"), ("approved", "ken)", "they agreed")]
    screen = yoriai("site", "decisions", site.path).screen
    assert "no one asked" in screen


def test_a_decision_that_cannot_be_written_down_is_not_made(site: SiteFolder) -> None:
    JobBook(site.jobs).consider(terms())
    (site.jobs / NAME).mkdir()
    with pytest.raises(StorageError):
        JobBook(site.jobs).decide(JobBook(site.jobs).find("run-1"), "approved", by="hana")
    assert state(JobBook(site.jobs)) == "waiting"


def test_a_line_that_a_crash_cut_hides_no_other(site: SiteFolder) -> None:
    log = DecisionLog(site.jobs, lambda: 1.0)
    log.add("approved", by="hana", run="run-1")
    with (site.jobs / NAME).open("a") as stream:
        stream.write('{"at": 1.0, "wh\n')
    log.add("refused", by="ken", run="run-2")
    assert [each.what for each in log.all()] == ["approved", "refused"]


def offer(run_id: str = "run-1") -> wire.JobOffer:
    return wire.JobOffer(
        run_id=run_id,
        job=JobConfig(name="pumps").model_dump(mode="json", by_alias=True),
        base_digest="ab" * 32,
        roster=wire.Roster(serial=1, weights={"north": 1, "south": 1}),
        noise_multiplier=1.0,
        payload=b"",
    )


@pytest.mark.parametrize("approve", ["ask", "auto"])
def test_a_job_that_the_site_declines_itself_is_shown_so_with_the_reason(site: SiteFolder, approve: str) -> None:
    approval = Approval("north", PolicySection(approve=approve), JobBook(site.jobs))  # type: ignore[arg-type]
    approval.declined(offer(), "site north: too few sites take part")
    approval.declined(offer(), "site north: too few sites take part")
    screen = " ".join(yoriai("site", "jobs", site.path).screen.split())
    assert "declined" in screen
    assert "this site declines it: site north: too few sites take part" in screen
    assert decided(site) == []  # A coordinator could make as many lines as it likes.
    assert yoriai("site", "approve", site.path, "run-1", "--yes").code == EXIT_BAD_INPUT
    JobBook(site.jobs).consider(terms())  # It keeps to the policy now.
    assert state(JobBook(site.jobs)) == "waiting"


def test_what_an_operator_has_refused_stays_refused_whatever_the_policy_says(site: SiteFolder) -> None:
    book = JobBook(site.jobs)
    book.decide(book.consider(terms()), "refused", by="hana")
    Approval("north", PolicySection(), book).declined(offer(), "another reason")
    assert state(book) == "refused"
    with pytest.raises(PolicyError, match="operator has refused"):
        Approval("north", PolicySection(), book).waits(terms())


def test_ended_and_cancelled_jobs_leave_the_list_but_not_the_book(site: SiteFolder) -> None:
    now = [1000.0]
    book = JobBook(site.jobs, clock=lambda: now[0])
    book.consider(terms("run-cancelled"))
    book.accept(terms("run-ended"))
    book.finish("run-ended", "", 1)
    book.accept(terms("run-delivered"))
    book.finish("run-delivered", "cd" * 32, 5)
    now[0] += 86_401.0
    book.consider(terms("run-offered"))
    kept = [entry.run_id for entry in book.entries() if is_current(entry, now[0])]
    assert kept == ["run-delivered", "run-offered"]
    screen = yoriai("site", "jobs", site.path).screen
    assert "--all shows them" in screen
    assert "run-ended" not in screen
    assert "run-ended" in yoriai("site", "jobs", site.path, "--all").screen


def test_the_screen_that_asks_for_a_yes_has_purpose_and_template(site: SiteFolder) -> None:
    job = JobConfig(name="pumps", purpose="sort repair notes by part", task=TaskSection(kind="instruct"))
    said = job.model_dump(mode="json", by_alias=True)
    JobBook(site.jobs).consider(terms("run-1", job=said))
    JobBook(site.jobs).consider(terms("run-2"))
    first, second = (
        " ".join(yoriai("site", "approve", site.path, run, answers="n\n").screen.split()) for run in ("run-1", "run-2")
    )
    assert "in the coordinator's words: sort repair notes by part" in first
    assert "the coordinator names none" in second
    assert "template '{prompt}\\n', the default" in first


def test_the_screen_that_asks_for_a_yes_says_what_a_job_goes_on_from(site: SiteFolder) -> None:
    job = JobConfig(name="pumps", base=BaseSection(start="ab" * 32), task=TaskSection(kind="instruct"))
    JobBook(site.jobs).consider(terms("run-1", job=job.model_dump(mode="json", by_alias=True)))
    JobBook(site.jobs).consider(terms("run-2"))
    first, second = (yoriai("site", "approve", site.path, run, answers="n\n").screen for run in ("run-1", "run-2"))
    assert "version abababababababab" in first
    assert "goes on from" not in second


# A second person


@pytest.fixture
def guarded(site: SiteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteFolder:
    """A site whose budget is raised by two persons only, with a ledger."""
    monkeypatch.chdir(tmp_path)
    said = yoriai("site", "approver", tmp_path / "second.key").screen
    key = said.split('"')[1]
    text = site.settings.read_text()
    assert 'second_approver = ""' in text
    site.settings.write_text(text.replace('second_approver = ""', f'second_approver = "{key}"'))
    (site.path / "data").mkdir()
    write_records(site.path / "data" / "train.jsonl", [{"prompt": "a", "response": "b"}])
    open_in_folder(site.ledgers, "records", "ab" * 32, Policy(16.0, 1e-5), witnesses=site.path / "witness").close()
    return site


def ask_to_raise(site: SiteFolder, *more: object, to: float = 20.0) -> tuple[int, str]:
    options = ("--raise-to", to, "--reason", "a fourth job", "--yes")
    done = yoriai("site", "budget", site.path, *options, *more)
    return done.code, done.screen


def budget_of(site: SiteFolder) -> float:
    listed = json.loads(yoriai("site", "budget", site.path, "--json").screen)
    return float(listed["ledgers"][0]["epsilon_budget"])


def signed(tmp_path: Path, key: str = "second.key") -> Path:
    (request,) = tmp_path.glob("*/raise-records-*.request")  # In the site's folder.
    done = yoriai("site", "countersign", request, "--key", tmp_path / key, answers="y\n")
    assert done.code == 0, done.screen
    assert "from epsilon 16 to 20: a fourth job" in done.screen
    return request.with_suffix(".signed")


def test_a_raise_wants_the_second_persons_signature_and_keeps_both_names(guarded: SiteFolder, tmp_path: Path) -> None:
    code, screen = ask_to_raise(guarded)
    assert (code, "a second person has to sign" in screen, budget_of(guarded)) == (EXIT_REFUSED, True, 16.0)
    code, screen = ask_to_raise(guarded, "--countersigned", signed(tmp_path))
    assert (code, budget_of(guarded)) == (0, 20.0), screen
    reason = json.loads(yoriai("site", "budget", guarded.path, "--json").screen)["ledgers"][0]["policies"][-1]["reason"]
    assert reason.startswith("a fourth job (second approver ")
    assert [(what, by) for what, _, by, _ in decided(guarded)] == [("raised", operator_name())]


def test_a_signature_is_good_for_one_raise_of_the_ledger_as_it_stood(guarded: SiteFolder, tmp_path: Path) -> None:
    ask_to_raise(guarded)
    brought = signed(tmp_path)
    for wrong in (ask_to_raise(guarded, "--countersigned", brought, to=24.0),):
        assert (wrong[0] != 0, "epsilon_to differs" in wrong[1]) == (True, True)
    assert ask_to_raise(guarded, "--countersigned", brought)[0] == 0
    again = ask_to_raise(guarded, "--countersigned", brought, to=24.0)
    assert (again[0] != 0, budget_of(guarded)) == (True, 20.0)


def test_anothers_key_raises_nothing_and_neither_does_the_ledgers_file_by_name(
    guarded: SiteFolder, tmp_path: Path
) -> None:
    ask_to_raise(guarded)
    yoriai("site", "approver", tmp_path / "third.key")
    code, screen = ask_to_raise(guarded, "--countersigned", signed(tmp_path, "third.key"))
    assert (code != 0, "right signature" in screen) == (True, True)
    place = ("--witness", guarded.path / "witness" / "records.sqlite.head")
    options = ("--raise-to", 20.0, "--reason", "alone", "--yes")
    done = yoriai("site", "budget", "--ledger", guarded.ledgers / "records.sqlite", *place, *options)
    assert (done.code != 0, budget_of(guarded)) == (True, 16.0)
