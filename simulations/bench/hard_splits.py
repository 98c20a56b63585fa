"""The work orders dealt out as a federation would not choose it: many small sites, a label that one site has, and
sites that share no label.

    DIR/job.toml                      the excavators' task, everything else left open
    DIR/SPLIT/SITE/{train,test}.jsonl for `yoriai simulate DIR/job.toml --data DIR/SPLIT`

All splits train on the same 1,672 records, but for those that `one-label` takes away, and test on the same 418.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import tomli_w

from yoriai.client.records.records import Record, SiteRecords
from yoriai.simulations.scenarios.excavators import default_job, excavators
from yoriai.simulations.scenarios.partition import partition

MANY: Final = 50


def fifty(sites: Sequence[SiteRecords]) -> tuple[SiteRecords, ...]:
    """Fifty sites of 33 or 34 training and 8 or 9 test records each, drawn at random."""
    train, test = (partition(_all(sites, part), MANY, "iid", 0) for part in ("train", "test"))
    return tuple(SiteRecords(name, train[name], test[name]) for name in train)


def one_label(sites: Sequence[SiteRecords]) -> tuple[SiteRecords, ...]:
    """The machines as they are, but the commonest label has training records at the largest machine alone."""
    rare = Counter(record.response for record in _all(sites, "train")).most_common(1)[0][0]
    largest = max(sites, key=lambda site: len(site.train)).name
    return tuple(
        SiteRecords(
            site.name,
            tuple(record for record in site.train if site.name == largest or record.response != rare),
            site.test,
        )
        for site in sites
    )


def disjoint(sites: Sequence[SiteRecords]) -> tuple[SiteRecords, ...]:
    """As many sites as machines, each with training records of labels that no other has; tests are of all labels.

    Labels are dealt from the commonest on, so that the sites are about the same size.
    """
    counts = Counter(record.response for record in _all(sites, "train"))
    labels = [label for label, _ in counts.most_common()]
    tests = partition(_all(sites, "test"), len(sites), "iid", 0)
    dealt = []
    for number, (name, test) in enumerate(tests.items()):
        # There and back again: 0 1 2 3 4 4 3 2 1 0 0 1 2 3 4
        own = {label for place, label in enumerate(labels) if number == _turn(place, len(sites))}
        train = tuple(record for record in _all(sites, "train") if record.response in own)
        dealt.append(SiteRecords(name, train, test))
    return tuple(dealt)


SPLITS: Final[Mapping[str, Callable[[Sequence[SiteRecords]], tuple[SiteRecords, ...]]]] = {
    "fifty": fifty,
    "one-label": one_label,
    "disjoint": disjoint,
}


def write_splits(folder: Path) -> None:
    """Write every split and the job under `folder`, which is made.

    Raises:
        AssetError: the work orders can be neither found nor fetched.
        OSError: the folder cannot be written.
    """
    machines = excavators()
    for split, deal in SPLITS.items():
        for site in deal(machines):
            home = folder / split / site.name
            home.mkdir(parents=True, exist_ok=True)
            for part, records in (("train", site.train), ("test", site.test)):
                (home / f"{part}.jsonl").write_text("".join(map(_line, records)), encoding="utf-8")
    named = default_job().model_dump(mode="json", by_alias=True, exclude_unset=True)
    (folder / "job.toml").write_text(tomli_w.dumps({"schema": 1, **named}), encoding="utf-8")


def _all(sites: Sequence[SiteRecords], part: str) -> list[Record]:
    return [record for site in sites for record in (site.train if part == "train" else site.test)]


def _turn(place: int, count: int) -> int:
    """Whose turn it is, where turns go up and down."""
    there = place % (2 * count)
    return there if there < count else 2 * count - 1 - there


def _line(record: Record) -> str:
    return json.dumps({"prompt": record.prompt, "response": record.response}, ensure_ascii=False) + "\n"
