"""The excavators scenario: the steps on a small file anywhere, the published counts with the real file."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from yoriai.client.base import assets
from yoriai.errors import RecordError
from yoriai.simulations.scenarios.excavators import ASSET, LABELS, TEMPLATE, excavators, load_work_orders
from yoriai.simulations.scenarios.partition import infer_task_kind, label_set


def _write(path: Path, *rows: tuple[str, str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([("Asset", "OriginalShorttext", "FuncLocation"), *rows])
    return path


@pytest.fixture(scope="module")
def work_orders() -> Path:
    """The real file, from the cache or from its wheel (290 kB)."""
    return assets.fetch(ASSET)


def test_labels_are_merged_over_case_and_spaces(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ("A", "one", "ENGINES  x 2"), ("B", "two", "Engines X 2"))
    assert label_set(load_work_orders(path)) == ("engines x 2",)


@pytest.mark.parametrize("label", ["", "NA", "MACHINE", "Machine", "Excavator Twin Drive", "EXCAVATOR"])
def test_labels_that_name_no_subsystem_are_dropped(label: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ("A", "one", label), ("A", "two", "BUCKET"))
    assert [record.prompt for record in load_work_orders(path)] == ["two"]


def test_of_equal_texts_the_first_stays_whatever_the_machine(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ("B", "Fix It", "MACHINE"), ("D", "fix it", "BUCKET"), ("A", "FIX IT", "LIGHTS"))
    (record,) = load_work_orders(path)
    assert (record.prompt, record.response, record.fields["machine"]) == ("fix it", "bucket", "D")


def test_only_the_15_commonest_labels_stay(tmp_path: Path) -> None:
    rows = [("A", f"text {label} {copy}", f"label {label:02}") for label in range(17) for copy in range(label + 1)]
    labels = label_set(load_work_orders(_write(tmp_path / "a.csv", *rows)))
    assert labels == tuple(f"label {label:02}" for label in range(2, 17))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "Asset,OriginalShorttext,FuncLocation\nA\n"])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(RecordError, match="not the excavator work orders"):
        load_work_orders(tmp_path / "a.csv")


def test_prompts_are_lower_case_and_otherwise_as_they_stand(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ("A", "Fix IT no. 3.", "BUCKET"))
    assert excavators(csv_path=path)[0].train[0].prompt == "fix it no. 3."


def test_the_published_counts(work_orders: Path) -> None:
    sites = excavators(csv_path=work_orders)
    counts = {site.name: (len(site.train), len(site.test)) for site in sites}
    assert counts == {"A": (29, 5), "B": (212, 48), "C": (356, 82), "D": (731, 187), "E": (344, 96)}
    majority = Counter(record.response for site in sites for record in site.test).most_common(1)
    assert majority == [("grease lube system", 74)]


def test_no_test_text_is_in_anybodys_training_but_for_case(work_orders: Path) -> None:
    sites = excavators(csv_path=work_orders)
    trained = {(record.prompt or "").lower() for site in sites for record in site.train}
    assert not [1 for site in sites for record in site.test if (record.prompt or "").lower() in trained]


def test_validation_never_touches_the_test_records(work_orders: Path) -> None:
    tests = {record for site in excavators(csv_path=work_orders) for record in site.test}
    tuning = excavators(csv_path=work_orders, validation=True)
    assert sum(len(site.train) + len(site.test) for site in tuning) == 1672
    assert not tests & {record for site in tuning for record in site.train + site.test}


def test_labels_are_those_of_the_records_and_the_task_is_seen_as_classify(work_orders: Path) -> None:
    records = load_work_orders(work_orders)
    assert label_set(records) == LABELS
    assert infer_task_kind(records)[0] == "classify"


def test_the_template_holds_the_prompt_once() -> None:
    assert TEMPLATE.count("{prompt}") == 1
