"""The findings scenario: the steps on small files anywhere, the published counts with the real wheel."""

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from yoriai.client.base import assets
from yoriai.errors import RecordError
from yoriai.simulations.scenarios.findings import (
    ASSET,
    CLOUDS,
    LABELS,
    LEAST_WORDS,
    TEMPLATE,
    default_job,
    findings,
    load_findings,
)
from yoriai.simulations.scenarios.partition import infer_task_kind, label_set

HUNDRED = " ".join(["word"] * LEAST_WORDS)


def _check(description: str = HUNDRED, **own: object) -> dict[str, object]:
    """The metadata of one check, as the wheel has them."""
    return {
        "Provider": "aws",
        "CheckTitle": "",
        "Description": description,
        "Risk": "",
        "Remediation": {"Recommendation": {"Text": ""}},
        "Categories": ["encryption"],
        **own,
    }


def _wheel(path: Path, *checks: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, check in enumerate(checks):
            archive.writestr(f"prowler/providers/aws/services/{number}.metadata.json", json.dumps(check))
    return path


def _prompts(path: Path) -> list[str | None]:
    return [record.prompt for record in load_findings(path)]


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The real wheel, from the cache or from the index (12 MB)."""
    return assets.fetch(ASSET)


def test_a_text_is_title_description_risk_and_recommendation_without_marks(tmp_path: Path) -> None:
    remedy = {"Recommendation": {"Text": "`Four`\n\n five"}}
    check = _check(f"**two** {HUNDRED}", CheckTitle="One", Risk="three", Remediation=remedy)
    assert _prompts(_wheel(tmp_path / "w.whl", check)) == [f"One two {HUNDRED} three Four five"]


@pytest.mark.parametrize(
    "own",
    [
        {"Description": " ".join(["word"] * (LEAST_WORDS - 1))},
        {"Provider": "nhn"},
        {"Categories": []},
        {"Categories": ["encryption", "logging"]},
        {"Categories": ["ci-cd"]},
    ],
)
def test_a_text_that_is_short_of_another_cloud_or_without_its_one_category_is_dropped(
    own: dict[str, object], tmp_path: Path
) -> None:
    path = _wheel(tmp_path / "w.whl", _check(f"kept {HUNDRED}"), _check(**own))
    assert _prompts(path) == [f"kept {HUNDRED}"]


def test_a_licence_beside_the_category_is_none(tmp_path: Path) -> None:
    (record,) = load_findings(_wheel(tmp_path / "w.whl", _check(Categories=["e3", "identity-access"])))
    assert record.response == "identity access"


def test_of_equal_texts_the_first_stays_whatever_the_cloud(tmp_path: Path) -> None:
    path = _wheel(tmp_path / "w.whl", _check(), _check(HUNDRED.upper(), Provider="gcp"))
    (record,) = load_findings(path)
    assert record.fields["cloud"] == "aws"


@pytest.mark.parametrize("content", [b"", b"PK", b"[]"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.whl").write_bytes(content)
    with pytest.raises(RecordError, match="not the security findings"):
        load_findings(tmp_path / "w.whl")


@pytest.mark.parametrize("checks", [(), ([],), ({"Provider": "aws"},), (_check(None, Risk=None),)])  # type: ignore[arg-type]
def test_a_wheel_with_other_contents_is_refused(checks: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not the security findings"):
        load_findings(_wheel(tmp_path / "w.whl", *checks))


def test_the_published_counts(wheel: Path) -> None:
    sites = findings(wheel=wheel)
    counts = {site.name: len(site.train) + len(site.test) for site in sites}
    assert tuple(counts) == CLOUDS
    assert (counts["aws"], counts["azure"], counts["m365"], counts["okta"]) == (444, 136, 103, 25)
    assert (sum(len(site.train) for site in sites), sum(len(site.test) for site in sites)) == (776, 194)
    majority = Counter(record.response for site in sites for record in site.test).most_common(1)
    assert majority == [("identity access", 45)]


def test_texts_are_long_and_their_label_stands_in_a_fifth_of_them(wheel: Path) -> None:
    records = load_findings(wheel)
    assert min(len((record.prompt or "").split()) for record in records) == LEAST_WORDS
    named = sum((record.response or "") in (record.prompt or "").lower().replace("-", " ") for record in records)
    assert 0.2 < named / len(records) < 0.23


def test_no_text_is_at_two_places(wheel: Path) -> None:
    texts = Counter(record.prompt for site in findings(wheel=wheel) for record in site.train + site.test)
    assert set(texts.values()) == {1}


def test_validation_never_touches_the_test_records(wheel: Path) -> None:
    tests = {record for site in findings(wheel=wheel) for record in site.test}
    tuning = findings(wheel=wheel, validation=True)
    assert sum(len(site.train) + len(site.test) for site in tuning) == 776
    assert not tests & {record for site in tuning for record in site.train + site.test}


def test_the_job_has_the_scenarios_labels_and_its_template_holds_the_prompt_once(wheel: Path) -> None:
    records = load_findings(wheel)
    assert label_set(records) == LABELS
    assert infer_task_kind(records)[0] == "classify"
    assert (default_job().task.labels, default_job().task.template) == (LABELS, TEMPLATE)
    assert TEMPLATE.count("{prompt}") == 1
