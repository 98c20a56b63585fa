"""What an operator is shown of a job before they decide: all that bears on privacy, with what is unusual marked."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.client.job_terms import BUDGET, CHANGES, CLASSIFY, SETTINGS, entry_of, rows_of
from tests.commands import yoriai
from yoriai.client.cli.jobs_terms import print_terms
from yoriai.client.folder.site_folder import SiteFolder, make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.usual import USUAL, numbers_of, unusual
from yoriai.config import (
    JobConfig,
    LoraSection,
    PrivacySection,
    SiteConfig,
    TaskSection,
    TrainingSection,
    override,
)
from yoriai.simulations.scenarios import SCENARIOS


def marks(settings: dict[str, Any], /, **changes: Any) -> list[str]:
    return [words for row in rows_of(settings, **changes) for words in row.unusual]


# A public seed of the first factors, which the site is given, and which accountant adds up, which the terms hold.
UNSHOWN = {"training.seed", "privacy.accountant"}


@pytest.mark.parametrize("setting", CHANGES)
def test_a_job_that_differs_in_a_setting_that_bears_on_privacy_looks_different(setting: str) -> None:
    value, more = CHANGES[setting]
    assert rows_of({**more, setting: value}) != rows_of(more)


def test_no_setting_of_the_tables_that_bear_on_privacy_was_forgotten() -> None:
    sections = {"training": TrainingSection, "privacy": PrivacySection, "lora": LoraSection, "task": TaskSection}
    settings = {f"{table}.{key}" for table, section in sections.items() for key in section.model_fields}
    assert settings <= set(CHANGES) | UNSHOWN


@pytest.mark.parametrize("name", USUAL)
def test_every_number_of_the_table_is_marked_beyond_its_bounds_and_within_them_is_not(name: str) -> None:
    least, most = USUAL[name].least, USUAL[name].most
    for value, marked in (
        (least, False),
        (most, False),
        (least - abs(least) / 2 - 0.1, True),
        (most * 1.01 + 1e-9, True),
    ):
        assert bool(USUAL[name].objection(value)) is marked


@pytest.mark.parametrize("name", USUAL)
def test_what_is_unusual_is_said_beside_the_row_that_shows_it(name: str) -> None:
    if name == "noise_multiplier":
        found = marks({}, noise_multiplier=0.1)
    elif name == "labels":
        found = marks({"task.labels": tuple(f"label {number}" for number in range(201))})
    else:
        found = marks({name: SETTINGS[name]})
    assert len(found) == 1
    assert found[0].startswith(f"{name} = ")
    assert "is usual; " in found[0]


def test_what_switches_a_protection_off_is_marked() -> None:
    assert marks({"privacy.noise": "none"}) == [
        "privacy.noise = none: what single records say can be read from updates"
    ]
    assert marks({"secure_aggregation.enabled": False}) == [
        "secure_aggregation.enabled = false: the coordinator reads single updates"
    ]


def test_nothing_is_marked_in_the_jobs_that_come_with_the_package() -> None:
    for job in (JobConfig(name="pumps"), *(scenario.job() for scenario in SCENARIOS.values())):
        assert unusual(job, 1.0) == {}
    assert set(numbers_of(override(JobConfig(name="x"), CLASSIFY), 1.0)) == set(USUAL)


def test_the_operator_sees_the_settings_by_which_a_job_would_lose_its_noise(site: SiteFolder) -> None:
    hostile = {"lora.alpha": 0.05, "privacy.clip_norm": 1e-4, "training.learning_rate": 150.0}
    JobBook(site.jobs).consider(entry_of(hostile).terms)
    for command in ("jobs", "approve"):
        done = yoriai("site", command, site.path, "run-1", answers="n\n")
        shown = " ".join(done.screen.split())
        for said in (
            "each record's gradient to a norm of 0.0001",
            "unusual: privacy.clip_norm = 0.0001: 0.001 to 100 is usual",
            "sgd at rate 150 here",
            "unusual: training.learning_rate = 150:",
            "alpha 0.05",
            "unusual: lora.alpha = 0.05:",
            "3 settings are unusual; ask the coordinator why",
            "3: cabin, engine, pump",
            "records of up to 128 tokens",
        ):
            assert said in shown
    listed = " ".join(yoriai("site", "jobs", site.path).screen.split())
    assert "run run-1: unusual: " in listed
    (job,) = json.loads(yoriai("site", "jobs", site.path, "--json").screen)["jobs"]
    assert sorted(job["unusual"]) == ["lora.alpha", "privacy.clip_norm", "training.learning_rate"]
    assert (job["clip_norm"], job["alpha"], job["task"]["labels"]) == (1e-4, 0.05, ["cabin", "engine", "pump"])


def test_nothing_of_a_job_moves_the_operators_terminal() -> None:
    console = Console(width=100, record=True)
    settings = {"task.labels": ("a\x1b[2Jb", "c\nd"), "task.template": "\x1b[2J{prompt}\n"}
    print_terms(entry_of(settings), BUDGET, "all 3 records fit, lengths aside", console)
    shown = console.export_text()
    assert "\x1b" not in shown
    assert "a [2Jb, c d" in shown


# Records


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return make_site(tmp_path / "site", SiteConfig(name="north"))


def keep(site: SiteFolder, *records: dict[str, str]) -> None:
    folder = site.path / "data"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "1 of 3 records do not fit and count as zero (a label outside the set: 1)"),
        ({"task.labels": ("pump", "boom")}, "all 3 records fit, lengths aside"),
        ({"task.kind": "lm", "task.labels": ()}, "3 of 3 records do not fit and count as zero (does not fit task.kind"),
        ({"privacy.unit": "owner"}, "(without an owner: 2; a label outside the set: 1)"),
    ],
)
def test_the_operator_alone_is_told_before_deciding_how_many_records_fit(
    site: SiteFolder, settings: dict[str, Any], said: str
) -> None:
    keep(
        site,
        {"prompt": "drips", "response": "pump"},
        {"prompt": "leaks", "response": "pump"},
        {"prompt": "bends", "response": "boom", "owner": "mio"},
    )
    JobBook(site.jobs).consider(entry_of(settings).terms)
    shown = " ".join(yoriai("site", "jobs", site.path, "run-1").screen.split())
    assert said in shown
    assert "bends" not in shown


def test_records_that_cannot_be_read_do_not_keep_the_terms_from_being_shown(site: SiteFolder) -> None:
    JobBook(site.jobs).consider(entry_of().terms)
    done = yoriai("site", "jobs", site.path, "run-1")
    assert done.code == 0
    assert "cannot be read: " in done.screen
