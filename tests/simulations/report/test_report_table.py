"""The last screen of a run."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.simulations.report_fixture import (
    ALL_KINDS,
    KIND_NAMES,
    changed,
    example_report,
    instruct_report,
    language_model_report,
    personal_report,
)
from yoriai.simulations.report.file import report_json
from yoriai.simulations.report.report import Report
from yoriai.simulations.report.table import print_report


def screen(report: Report, width: int) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=width, no_color=True), [Path("runs/one/report.json")])
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("report", ALL_KINDS, ids=KIND_NAMES)
def test_last_screen_fits_and_cuts_no_figure(report: Report, width: int) -> None:
    text = screen(report, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text


def test_last_screen_at_80_columns_survives_long_names_and_large_counts() -> None:
    content = json.loads(report_json(example_report()))
    content["sites"][0] |= {"name": "plant-north-assembly-line-3", "train_records": 123456, "seconds": 9999.0}
    text = screen(Report.model_validate(content), 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "123456" in text
    assert "2:46:39" in text


def test_last_screen_has_a_row_a_site_and_one_for_all() -> None:
    lines = screen(example_report(), 100).splitlines()
    row = next(line for line in lines if line.startswith("B "))
    assert " ".join(row.split()) == "B 301 75 0.19 0.25 0.55 +0.29 7.94 1e-5 2.9 MB 7.8 MB 56s"
    total = next(line for line in lines if line.startswith("all sites "))
    assert " ".join(total.split()) == "all sites 1672 418 0.18 0.24 0.55 +0.31 7.94 1e-5 14 MB 39 MB 6:43"


def test_change_that_is_not_shown_is_marked_without_colour() -> None:
    lines = screen(example_report(), 100).splitlines()
    assert "+0.29?" in next(line for line in lines if line.startswith("A "))
    assert "?" not in next(line for line in lines if line.startswith("B "))


def test_all_measures_of_answers_stand_in_the_summary() -> None:
    lines = [" ".join(line.split()) for line in screen(instruct_report(), 80).splitlines()]
    assert "site exact match token F1 chrF loss bits per byte" in lines
    numbers = "0.00 → 0.00 0.12 → 0.48 0.21 → 0.52 3.10 → 2.60 1.31 → 1.09"
    assert f"B {numbers}" in lines
    assert f"all sites {numbers}" in lines


def test_loss_and_bits_per_byte_stand_in_the_summary_of_texts() -> None:
    lines = [" ".join(line.split()) for line in screen(language_model_report(), 80).splitlines()]
    assert "site bits per byte loss" in lines
    assert "D 1.31 → 1.09 3.10 → 2.60" in lines
    assert "base → federated" not in screen(example_report(), 80)


def test_no_record_text_is_on_the_last_screen() -> None:
    text = screen(instruct_report(), 100)
    assert instruct_report().samples
    assert not any(word in text for word in ("Pump?", "leaks", "Engine<"))


def test_comparison_rows_stand_only_where_they_were_measured() -> None:
    assert "each site alone" in screen(example_report(), 100)
    assert "each site alone" not in screen(example_report(compare=False), 100)


def test_shared_stands_against_personal_with_what_changed_and_what_it_cost() -> None:
    lines = [" ".join(line.split()) for line in screen(personal_report(), 80).splitlines()]
    assert "A 0.57 0.71 +0.14 11 2 7.94 1.98 8.61" in lines
    assert "E 0.56 – – – 7.94 1.98 8.61" in lines
    assert "all sites 0.55 0.62 +0.06 44 8 7.94 1.98 8.61" in lines


def test_shared_against_personal_is_shown_only_where_there_is_a_personal_adapter() -> None:
    assert "site federated personal change gained lost eps job eps own eps both" in " ".join(
        screen(personal_report(), 80).split()
    )
    assert "compared over all sites" not in screen(personal_report(), 80)
    assert "personal" not in screen(example_report(), 80)


def test_last_screen_ends_with_the_files() -> None:
    assert screen(example_report(), 100).rstrip().endswith("runs/one/report.json")


def test_markup_in_names_is_printed_as_it_is() -> None:
    content = json.loads(report_json(example_report()))
    content["sites"][0]["name"] = "[red]A[/]"
    assert "[red]A[/]" in screen(Report.model_validate(content), 120)


def test_missing_secure_aggregation_is_said() -> None:
    warning = "Secure aggregation is off: the coordinator could read single updates"
    report = example_report()
    masked = changed(report, privacy=report.privacy.model_copy(update={"secure_aggregation": True}))
    assert warning in screen(report, 100)
    assert warning not in screen(masked, 100)


def test_missing_noise_is_said() -> None:
    assert "Differential privacy is off" in screen(example_report(noise=False), 100)
    assert "Differential privacy is off" not in screen(example_report(), 100)


@pytest.mark.parametrize("width", range(60, 100))
def test_a_name_of_a_script_without_spaces_loses_no_letter_at_a_lines_end(width: int) -> None:
    note = "Too few test records for a judgement by itself: 名古屋, 大阪."
    shown = "".join(screen(changed(example_report(), notes=[note]), width).split())
    assert "名古屋,大阪." in shown
