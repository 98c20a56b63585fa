"""Maintenance work orders of five mining excavators: a short text, and the subsystem that the order was booked on.

Source: `nestor/datasets/excavators-cleaned.csv` of NIST's Nestor (public domain); Hodkiewicz and Ho, "Cleaning
historical maintenance work order data for reliability analysis", Journal of Quality in Maintenance Engineering 22(2),
2016. Each machine is a site, unbalanced as the mine left them: A has 34 records, D has 918.

What is done to the 5,485 rows, in this order, to reach 2,090 records:

1. labels are lower-cased and their runs of spaces merged ("ENGINES  x 2" is "engines x 2");
2. rows whose label names no subsystem are dropped: empty, "NA", "MACHINE", anything that starts with "EXCAVATOR"
   ("O&K RH120C", a machine's type, stays: the figures this scenario is measured against were taken with it);
3. of rows whose texts are equal but for case, on whatever machine, only the first in the file stays, so that no test
   text was seen in training at another site. Inner spaces count: 4 pairs of texts that differ only there remain;
4. the 15 commonest labels are kept;
5. prompts are lower-cased: upper case costs a fifth more tokens.
"""

import csv
from collections import Counter
from pathlib import Path
from typing import Final

from yoriai.client.base.assets import fetch
from yoriai.config import (
    JobConfig,
    PrivacySection,
    TaskSection,
)
from yoriai.errors import RecordError
from yoriai.simulations.scenarios.partition import Record, SiteRecords, split

TITLE: Final = "Excavator maintenance work orders"
LICENCE: Final = "Public domain (NIST)"
SOURCE: Final = "nist-nestor 0.4.4, nestor/datasets/excavators-cleaned.csv; Hodkiewicz and Ho 2016"
ASSET: Final = "excavator-work-orders"
# Of the 16 templates tried on validation records, the one with which the untouched base answers best (0.40).
TEMPLATE: Final = "Excavator fault: {prompt}. This concerns the"
MACHINES: Final = ("A", "B", "C", "D", "E")
TEST_FRACTION: Final = 0.2

LABELS: Final = (
    "air conditioning system",
    "bucket",
    "electrical",
    "electrical control systems",
    "engine left hand",
    "engine right hand",
    "engines x 2",
    "grease lube system",
    "hydraulic hoses & lines",
    "hydraulic system",
    "implements hyd,mech - controls",
    "o&k rh120c",
    "operators cabin",
    "protection devices & alarms",
    "pumps/valves/coolers/hoses",
)


def excavators(
    seed: int = 0,
    *,
    validation: bool = False,
    csv_path: Path | None = None,
) -> tuple[SiteRecords, ...]:
    """The five machines as sites; 80 % of all records train, 20 % test.

    The split is drawn over all records at once and then falls to the machines, so that the figures measured with all
    records at one place and with five sites are of the same test set. With seed 0, A trains on 29 and tests on 5.

    Args:
        seed: decides the split, and nothing else.
        validation: for tuning. The test records are put away, and a fifth of the training records stands in for them.
        csv_path: the CSV file, where it is already at hand; otherwise the pinned asset is fetched.

    Raises:
        RecordError: the file is not the one described above.
        AssetError: the asset can be neither found nor fetched.
    """
    records = load_work_orders(fetch(ASSET) if csv_path is None else csv_path)
    train, test = split(records, TEST_FRACTION, seed)
    if validation:
        train, test = split(train, TEST_FRACTION, seed)
    return tuple(SiteRecords(machine, _of(machine, train), _of(machine, test)) for machine in MACHINES)


def load_work_orders(path: Path) -> tuple[Record, ...]:
    """All kept work orders in the file's order: text as prompt, subsystem as response, machine in `fields`."""
    first_by_text: dict[str, Record] = {}
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                label = " ".join(row["FuncLocation"].lower().split())
                if not _is_generic(label):
                    text = row["OriginalShorttext"]
                    record = Record(prompt=text.lower(), response=label, fields={"machine": row["Asset"]})
                    first_by_text.setdefault(text.lower(), record)
    # AttributeError: a row that is shorter than the header has None in its last columns.
    except (OSError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise _not_the_work_orders(path, type(error).__name__) from None
    if not first_by_text:
        raise _not_the_work_orders(path, "no work order")
    counts = Counter(record.response for record in first_by_text.values())
    commonest = {label for label, _ in counts.most_common(len(LABELS))}
    return tuple(record for record in first_by_text.values() if record.response in commonest)


def _is_generic(label: str) -> bool:
    return label in ("", "na", "machine") or label.startswith("excavator")


def _of(machine: str, records: tuple[Record, ...]) -> tuple[Record, ...]:
    return tuple(record for record in records if record.fields["machine"] == machine)


def _not_the_work_orders(path: Path, found: str) -> RecordError:
    return RecordError(
        f"{path}: not the excavator work orders",
        found=found,
        expected="a CSV file with columns Asset, OriginalShorttext, FuncLocation",
        remedy="fetch it again with `yoriai fetch`",
    )


def default_job() -> JobConfig:
    """The job that `yoriai simulate` runs without arguments; what it leaves open, the task's defaults fill in."""
    return JobConfig(
        name="excavators",
        task=TaskSection(kind="classify", template=TEMPLATE, labels=LABELS, max_tokens=64),
        privacy=PrivacySection(epsilon=8.0, delta=1e-5),
    )
