"""Findings of security checks in ten clouds: a text of a hundred words or more, and the category that it falls under.

Source: the descriptions of Prowler's checks (Apache-2.0), `prowler/providers/*/services/**/*.metadata.json`. Each cloud
is a site, unbalanced as the checks are: Amazon's has 453 records, Okta's 25. They share a task and hardly a name of a
service. A service does not give the category away: always answering a service's commonest is right for 0.6 of all.

What is done to the 1,642 descriptions, in this order, to reach 970 records:

1. title, description, risk and recommendation make one text; marks of Markdown are taken out and runs of spaces merged;
2. texts of fewer than 100 words are dropped, and so are those that fall under no category or several. What says in
   which licence a check's service comes is no category;
3. the ten clouds stay that then have 25 texts or more, and the ten categories that have 20 among them;
4. of texts that are equal but for case only the first stays.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, Final

from yoriai.client.base.assets import fetch
from yoriai.config import JobConfig, PrivacySection, TaskSection
from yoriai.errors import RecordError
from yoriai.simulations.scenarios.partition import Record, SiteRecords, split

TITLE: Final = "Security findings in ten clouds"
LICENCE: Final = "Apache-2.0"
SOURCE: Final = "prowler 5.46.0, prowler/providers/*/services/**/*.metadata.json"
ASSET: Final = "security-findings"
TEMPLATE: Final = "Security finding: {prompt} This concerns"
TEST_FRACTION: Final = 0.2
LEAST_WORDS: Final = 100
CLOUDS: Final = (
    "alibabacloud",
    "aws",
    "azure",
    "cloudflare",
    "gcp",
    "googleworkspace",
    "m365",
    "okta",
    "oraclecloud",
    "vercel",
)
LABELS: Final = (
    "email security",
    "encryption",
    "forensics ready",
    "identity access",
    "internet exposed",
    "logging",
    "resilience",
    "secrets",
    "trust boundaries",
    "vulnerabilities",
)
_LICENCES: Final = frozenset({"e3", "e5", "vercel-hobby-plan", "vercel-pro-plan", "vercel-enterprise-plan"})


def findings(seed: int = 0, *, validation: bool = False, wheel: Path | None = None) -> tuple[SiteRecords, ...]:
    """The ten clouds as sites; 80 % of all records train, 20 % test, drawn over all at once.

    Args:
        seed: decides the split, and nothing else.
        validation: for tuning. The test records are put away, and a fifth of the training records stands in for them.
        wheel: the wheel with the files, where it is already at hand; otherwise the pinned asset is fetched.

    Raises:
        RecordError: the wheel is not the one described above.
        AssetError: the asset can be neither found nor fetched.
    """
    records = load_findings(fetch(ASSET) if wheel is None else wheel)
    train, test = split(records, TEST_FRACTION, seed)
    if validation:
        train, test = split(train, TEST_FRACTION, seed)
    return tuple(SiteRecords(cloud, _of(cloud, train), _of(cloud, test)) for cloud in CLOUDS)


def load_findings(wheel: Path) -> tuple[Record, ...]:
    """All kept findings by the files' names: text as prompt, category as response, cloud in `fields`.

    Raises:
        RecordError: the file is not the wheel of Prowler.
    """
    first_by_text: dict[str, Record] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.startswith("prowler/providers/") and name.endswith(".metadata.json"):
                    record = _record(json.loads(archive.read(name)))
                    if record is not None:
                        first_by_text.setdefault((record.prompt or "").lower(), record)
    # What a file of another shape raises when it is read as if it had this one.
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_the_findings(wheel, type(error).__name__) from None
    if not first_by_text:
        raise _not_the_findings(wheel, "no finding")
    return tuple(first_by_text.values())


def _record(check: dict[str, Any]) -> Record | None:
    """The record of one check, or None where it is not kept."""
    parts = (check["CheckTitle"], check["Description"], check["Risk"], check["Remediation"]["Recommendation"]["Text"])
    words = " ".join(parts).replace("**", "").replace("`", "").split()
    categories = [category.replace("-", " ") for category in check["Categories"] if category not in _LICENCES]
    kept = len(categories) == 1 and categories[0] in LABELS and check["Provider"] in CLOUDS
    if not kept or len(words) < LEAST_WORDS:
        return None
    return Record(prompt=" ".join(words), response=categories[0], fields={"cloud": check["Provider"]})


def _of(cloud: str, records: tuple[Record, ...]) -> tuple[Record, ...]:
    return tuple(record for record in records if record.fields["cloud"] == cloud)


def _not_the_findings(wheel: Path, found: str) -> RecordError:
    return RecordError(
        f"{wheel}: not the security findings",
        found=found,
        expected="a wheel of prowler",
        remedy="fetch it again with `yoriai fetch`",
    )


def default_job() -> JobConfig:
    """The job that `yoriai simulate --scenario findings` runs; what it leaves open, the task's defaults fill in."""
    return JobConfig(
        name="findings",
        task=TaskSection(kind="classify", template=TEMPLATE, labels=LABELS, max_tokens=256),
        privacy=PrivacySection(epsilon=8.0, delta=1e-5),
    )
