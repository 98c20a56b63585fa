"""Terms and entries of a job book, for tests."""

from typing import Any

from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import Terms
from yoriai.config import JobConfig, job_digest

BASE = "ab" * 32


def terms(run_id: str = "run-1", /, **changes: Any) -> Terms:
    """Terms of some job."""
    job = JobConfig(name=changes.pop("name", "pumps"))
    values: dict[str, Any] = {
        "run_id": run_id,
        "job": job.model_dump(mode="json", by_alias=True),
        "job_digest": job_digest(job, BASE),
        "base_digest": BASE,
        "noise_multiplier": 1.25,
        "roster_serial": 1,
        "weights": {"north": 2, "south": 1},
        "epsilon": 7.5,
        "accountant": "pld",
    }
    return Terms(**(values | changes))


def approved(book: JobBook, offered: Terms) -> None:
    book.decide(book.consider(offered), "approved", by="hana")


def state(book: JobBook, run_id: str = "run-1") -> str:
    entry = book.entry(run_id)
    assert entry is not None
    return entry.state
