"""What a site's screen says of its own evaluation: counts, intervals, the loss, and "not shown" where that is so."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.books import terms
from tests.commands import yoriai
from yoriai.client.cli.adapter.measured import sentence, verdict
from yoriai.client.folder.site_folder import make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.client.versions.adapter_place import EVALUATION, folder_of, read_evaluation
from yoriai.config import SiteConfig


def measured(before: int, after: int, of: int = 60, paired: tuple[int, int] | None = None) -> dict[str, Any]:
    scores = [
        {"records": of, "correct": right, "answered": of, "loss": loss, "accuracy": right / of}
        for right, loss in ((before, 1.25), (after, 0.5))
    ]
    changed = None if paired is None else {"gained": paired[0], "lost": paired[1]}
    return {"task": "classify", "before": scores[0], "after": scores[1], "paired": changed}


def test_counts_intervals_verdict_and_loss_stand_in_one_sentence() -> None:
    assert sentence(measured(30, 45, paired=(18, 3))) == (
        "base 30 of 60 right (95 %: 38% to 62%), adapted 45 of 60 right (95 %: 63% to 84%); "
        "better, and shown (18 became right, 3 wrong); loss 1.25 → 0.5"
    )


@pytest.mark.parametrize(
    ("evaluation", "wanted"),
    [
        (measured(30, 33, paired=(6, 3)), "open"),
        (measured(45, 30, paired=(3, 18)), "loss"),
        (measured(30, 38, paired=(8, 0)), "gain"),  # Sharper than the intervals, which overlap.
        (measured(30, 44), "open"),  # Unpaired, the intervals overlap.
        (measured(20, 50), "gain"),
        ({"before": {"loss": 2.0}, "after": {"loss": 1.0}, "paired": None}, "unmeasured"),
        ({"before": {"correct": 0, "answered": 0}, "after": {"correct": 0, "answered": 0}}, "unmeasured"),
    ],
)
def test_a_difference_is_claimed_only_where_the_records_show_it(evaluation: dict[str, Any], wanted: str) -> None:
    assert verdict(evaluation) == wanted
    assert ("shown" in sentence(evaluation)) == (wanted != "unmeasured")
    assert ("not shown" in sentence(evaluation)) == (wanted == "open")


def test_the_list_of_jobs_says_so_and_an_evaluation_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", SiteConfig(name="north"))
    book = JobBook(site.jobs)
    book.accept(terms())
    book.finish("run-1", "cd" * 32, 50)
    folder = folder_of(site.adapters, "run-1", "cd" * 32)
    folder.mkdir()
    old = {"schema": 1, **measured(30, 33)}
    del old["paired"]
    (folder / EVALUATION).write_text(json.dumps(old))
    found = read_evaluation(folder)
    assert found is not None
    assert found["paired"] is None
    screen = " ".join(yoriai("site", "jobs", site.path).screen.split())
    assert "base 30 of 60 right" in screen
    assert "not shown" in screen
    assert "loss 1.25 → 0.5" in screen
