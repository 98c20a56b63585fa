"""Whether an operator's yes is in time, as far as a site can know it from the offers that came."""

from pathlib import Path

import pytest

from tests.client.books import terms
from tests.commands import yoriai
from yoriai.client.folder.site_folder import make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import Entry
from yoriai.client.offer.joining import STILL_WAITS_S, joining
from yoriai.config import JobConfig, SiteConfig, override

NOW = 10_000.0


def entry(after: int | None, *, offers: int = 1, ago: float = 5.0, seen_ago: float = 5000.0) -> Entry:
    job = override(JobConfig(name="pumps"), {"federation.rounds": 3, "deadlines.gather_s": 100.0})
    offered = terms(job=job.model_dump(mode="json", by_alias=True))
    return Entry(terms=offered, seen_at=NOW - seen_ago, offered_at=NOW - ago, offered_after=after, offers=offers)


@pytest.mark.parametrize(
    ("asked", "joins", "is_late", "says"),
    [
        (entry(0, seen_ago=5.0), 1, False, "has not begun: in time for round 1 of 3"),
        (entry(0, offers=9), 1, False, "has not begun: in time for round 1 of 3"),
        (entry(0), 2, False, "round 1 of 3 is at work: in time for the next window, from round 2 on"),
        (entry(1), 3, False, "round 2 of 3 is at work: in time for the next window, from round 3 on"),
        (entry(1, offers=2), 2, False, "waits for sites before round 2: in time for round 2 of 3"),
        (entry(1, offers=2, ago=STILL_WAITS_S + 1), 3, False, "round 2 of 3 is at work"),
        (entry(2), None, True, "round 3 of 3, the last, is at work: too late"),
        (entry(2, offers=4), 3, False, "in time for round 3 of 3"),
        (entry(None), None, False, "is not known"),
    ],
)
def test_a_yes_is_in_time_for_the_first_round_that_is_not_begun(
    asked: Entry, joins: int | None, is_late: bool, says: str
) -> None:
    found = joining(asked, NOW)
    assert (found.round, found.is_late) == (joins, is_late)
    assert says in found.text


def test_the_book_counts_offers_after_the_same_number_of_rounds(tmp_path: Path) -> None:
    book = JobBook(tmp_path / "jobs", clock=lambda: NOW)
    offered = [book.consider(terms(), rounds_done=done) for done in (0, 0, 0, 1, 2, 2, None)]
    assert [(found.offered_after, found.offers) for found in offered] == [
        (0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (None, 1),
    ]  # fmt: skip
    assert book.entry("run-1") == offered[-1]


@pytest.mark.parametrize(("done", "says"), [(1, "round 2 of 50 is at work: in time"), (49, "too late")])
def test_approve_says_whether_a_yes_is_in_time_before_and_after_it(tmp_path: Path, done: int, says: str) -> None:
    site = make_site(tmp_path / "site", SiteConfig(name="north"))
    JobBook(site.jobs).consider(terms(), rounds_done=done)
    for command in (("jobs", site.path, "run-1"), ("approve", site.path, "run-1", "--yes")):
        assert says in " ".join(yoriai("site", *command).screen.split())
