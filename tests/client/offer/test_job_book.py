"""The job book: what a decision is about, who writes when, and what a hostile coordinator can make of it."""

import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.client.books import approved, state, terms
from yoriai.client.offer import job_book
from yoriai.client.offer.job_book import MOST, JobBook
from yoriai.client.offer.job_entry import Entry
from yoriai.errors import ConfigError, PolicyError, StorageError
from yoriai.system.users import operator_name


class Clock:
    """Seconds that only go on when they are asked for."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def book(tmp_path: Path) -> JobBook:
    return JobBook(tmp_path / "jobs", clock=Clock())


def test_a_new_job_waits_and_is_written_for_the_owner_alone(book: JobBook, tmp_path: Path) -> None:
    assert book.consider(terms()).state == "waiting"
    (path,) = (tmp_path / "jobs").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert JobBook(tmp_path / "jobs").entries() == book.entries()


def test_an_approval_outlasts_a_restart_and_a_second_offer_of_the_same_terms(book: JobBook, tmp_path: Path) -> None:
    approved(book, terms())
    entry = JobBook(tmp_path / "jobs").consider(terms())
    assert (entry.state, entry.decided_by) == ("approved", "hana")
    book.accept(terms())
    entry = book.consider(terms())
    assert (entry.state, entry.decided_by, entry.seen_at) == ("accepted", "hana", 1.0)


OTHER_TERMS = pytest.mark.parametrize(
    "changes",
    [
        {"job_digest": "cd" * 32},
        {"noise_multiplier": 1.2499},
        {"noise_multiplier": None},
        {"weights": {"north": 2, "south": 1, "east": 1}},
        {"weights": {"north": 2, "west": 1}},
        {"weights": {"north": 1, "south": 1}},
        {"ranks": {"north": 2}},
    ],
)


@pytest.mark.parametrize("before", ["approved", "accepted"])
@OTHER_TERMS
def test_an_approved_run_on_other_terms_waits_anew(book: JobBook, before: str, changes: dict[str, Any]) -> None:
    entry = book.consider(terms())
    book.decide(entry, "approved", by="hana")
    if before == "accepted":
        book.accept(terms())
    assert book.consider(terms(**changes)).state == "waiting"
    with pytest.raises(ConfigError, match="other terms meanwhile"):
        book.decide(entry, "approved", by="hana")
    assert state(book) == "waiting"


@OTHER_TERMS
def test_a_refused_run_stays_refused_on_any_terms_until_its_operator_takes_that_back(
    book: JobBook, changes: dict[str, Any]
) -> None:
    refused = book.decide(book.consider(terms()), "refused", by="hana")
    other = terms(**changes)
    assert book.consider(other) == refused
    with pytest.raises(PolicyError, match="decided otherwise"):
        book.accept(other)
    assert book.entry("run-1") == refused
    book.decide(refused, "approved", by="hana")
    assert book.consider(other).state == "waiting"


def test_a_roster_that_was_signed_again_with_the_same_sites_changes_nothing(book: JobBook) -> None:
    approved(book, terms())
    assert book.consider(terms(roster_serial=2)).state == "approved"


def test_a_resumed_runs_newest_roster_is_the_one_that_is_kept(book: JobBook) -> None:
    approved(book, terms(roster_digest="1a" * 32))
    for digest in ("1a" * 32, "2b" * 32):
        book.accept(terms(roster_serial=2, roster_digest=digest))
        entry = book.entry("run-1")
        assert entry is not None
        assert (entry.state, entry.decided_by, entry.terms.roster_digest) == ("accepted", "hana", digest)


def test_an_approval_of_one_run_says_nothing_of_another(book: JobBook) -> None:
    approved(book, terms())
    assert book.consider(terms("run-2")).state == "waiting"


def test_a_job_refused_meanwhile_is_not_accepted_and_its_refusal_stays(book: JobBook) -> None:
    book.decide(book.consider(terms()), "refused", by="hana")
    with pytest.raises(PolicyError, match="decided otherwise"):
        book.accept(terms())
    assert state(book) == "refused"


@pytest.mark.parametrize("end", ["delivered", "told", "released"])
def test_nothing_changes_for_a_run_that_has_ended(book: JobBook, end: str) -> None:
    approved(book, terms())
    book.accept(terms())
    digest = "2c" * 32 if end == "delivered" else ""
    if end == "released":
        assert book.release("run-1", by="mio").decided_by == "mio"
    else:
        book.finish("run-1", digest, 3)
    ended = book.entry("run-1")
    book.finish("run-1", "3d" * 32, 1)
    assert book.release("run-1", by="hana") == ended
    other = terms(noise_multiplier=9.0)
    assert book.consider(other).state == ("delivered" if digest else "ended")
    with pytest.raises(PolicyError):
        book.accept(other)
    entry = book.entry("run-1")
    assert entry is not None
    for verdict in ("approved", "refused"):
        with pytest.raises(ConfigError, match="has ended"):
            book.decide(entry, verdict, by="hana")  # type: ignore[arg-type]
    assert entry == ended
    assert (entry.adapter_digest, entry.terms) == (digest, terms())


def test_a_run_that_the_site_is_not_in_is_not_given_up(book: JobBook) -> None:
    with pytest.raises(ConfigError, match="does not take part"):
        book.release("run-1", by="mio")
    approved(book, terms())
    with pytest.raises(ConfigError, match="found approved"):
        book.release("run-1", by="mio")
    assert state(book) == "approved"


def test_thousands_of_run_ids_leave_the_newest_waiting_ones_and_every_decision(book: JobBook, tmp_path: Path) -> None:
    approved(book, terms("kept"))
    book.decide(book.consider(terms("no")), "refused", by="hana")
    most = MOST["waiting"]
    for number in range(most + 30):
        book.consider(terms(f"flood-{number}"))
    assert len(list((tmp_path / "jobs").glob("*.json"))) == most + 2
    waiting = [entry.run_id for entry in book.entries() if entry.state == "waiting"]
    assert waiting == [f"flood-{number}" for number in range(30, most + 30)]
    assert (state(book, "kept"), state(book, "no")) == ("approved", "refused")


def test_approvals_that_no_offer_follows_are_bounded_and_refusals_all_stay(
    book: JobBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_book, "MOST", {**MOST, "approved": 3})
    for number in range(6):
        approved(book, terms(f"yes-{number}"))
        book.decide(book.consider(terms(f"no-{number}")), "refused", by="hana")
    kept = {verdict: [e.run_id for e in book.entries() if e.state == verdict] for verdict in ("approved", "refused")}
    assert kept == {"approved": ["yes-3", "yes-4", "yes-5"], "refused": [f"no-{number}" for number in range(6)]}
    assert book.consider(terms("yes-0")).state == "waiting"


def test_jobs_that_the_policy_accepts_by_itself_are_bounded_too(
    book: JobBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_book, "MOST", {**MOST, "accepted": 3})
    for number in range(5):
        book.consider(terms(f"run-{number}"))
        book.accept(terms(f"run-{number}"), decided_by="policy")
    assert [entry.run_id for entry in book.entries()] == ["run-2", "run-3", "run-4"]
    assert {entry.decided_by for entry in book.entries()} == {"policy"}


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "/tmp/x", ".", "..", "a/b\\c", "run*", "-rf", "ü" * 128])
def test_a_path_like_run_id_names_a_file_in_the_book_and_nowhere_else(
    book: JobBook, tmp_path: Path, run_id: str
) -> None:
    book.consider(terms(run_id))
    assert [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.json")] == ["jobs"]
    assert len(list(tmp_path.iterdir())) == 1
    assert book.find(run_id).run_id == run_id


@pytest.mark.parametrize("run_id", ["", " a", "a\n", "a\x1b[2J", "a\0b", "a\u202eb", "\ud800", "r" * 129])
def test_a_run_id_that_cannot_be_shown_is_refused_and_not_kept(book: JobBook, tmp_path: Path, run_id: str) -> None:
    with pytest.raises(PolicyError, match="cannot be shown"):
        book.consider(terms(run_id))
    assert book.entry(run_id) is None
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_huge_job_is_refused_and_not_kept(book: JobBook, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="too large to be kept"):
        book.consider(terms(job={"name": "x" * 300_000}))
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "ValidationError"), (b"[]", "ValidationError"), (b'{"schema": 2}', "schema 2")]
)
def test_a_damaged_entry_is_named_and_stops_no_other_job(
    book: JobBook, tmp_path: Path, content: bytes, found: str
) -> None:
    book.consider(terms())
    (path,) = (tmp_path / "jobs").iterdir()
    path.write_bytes(content)
    for look in (book.entries, lambda: book.consider(terms())):
        with pytest.raises(StorageError, match=f"{path.name} is damaged.*found {found}"):
            look()
    assert book.consider(terms("run-2")).state == "waiting"


def test_an_operator_names_a_run_by_its_beginning_or_its_job_unless_two_are_meant(book: JobBook) -> None:
    for run_id, name in (("alpha-1", "pumps"), ("alpha-2", "cabins"), ("alpha", "engines")):
        book.consider(terms(run_id, name=name))
    found = [book.find(text).run_id for text in ("alpha-1", "alpha", "cabins", "pumps")]
    assert found == ["alpha-1", "alpha", "alpha-2", "alpha-1"]
    with pytest.raises(ConfigError, match=r"3 runs are called so: 'alph'; found alpha-1, alpha-2, alpha"):
        book.find("alph")
    for text in ("beta", "", "../jobs"):
        with pytest.raises(ConfigError, match="no job that was offered"):
            book.find(text)


class SlowBook(JobBook):
    """Takes its time between reading and writing, so that who does not wait for the other is seen."""

    def _put(self, entry: Entry) -> None:
        time.sleep(0.01)
        super()._put(entry)


def _decide_many(folder: Path, verdict: str, count: int) -> None:
    book = SlowBook(folder)
    for number in range(count):
        entry = book.entry(f"run-{number}")
        assert entry is not None
        if verdict == "accepted":
            book.accept(entry.terms, decided_by="policy")
        else:
            book.decide(entry, "approved", by="hana")


def test_the_daemon_and_a_command_at_once_lose_neither_ones_word(book: JobBook, tmp_path: Path) -> None:
    count = 20
    for number in range(count):
        book.consider(terms(f"run-{number}"))
    made = multiprocessing.get_context("fork")
    both = [made.Process(target=_decide_many, args=(tmp_path / "jobs", v, count)) for v in ("accepted", "approved")]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    entries = book.entries()
    assert len(entries) == count
    # Whoever came first, the site has accepted, and one of the two has decided.
    assert {entry.state for entry in entries} == {"accepted"}
    assert {entry.decided_by for entry in entries} <= {"policy", "hana"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_is_told_to_decide_as_the_sites_own_user(book: JobBook, tmp_path: Path) -> None:
    entry = book.consider(terms())
    os.chown(tmp_path / "jobs", 65534, 65534)
    with pytest.raises(StorageError, match="belongs to user nobody; run the command as nobody"):
        book.decide(entry, "approved", by="root")


def test_who_decides_is_the_user_and_who_they_were_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    user = operator_name()
    monkeypatch.setenv("SUDO_USER", "hana")
    assert operator_name() == f"{user} (hana)"
    monkeypatch.setenv("SUDO_USER", "ha\x1bna")
    assert operator_name() == user
