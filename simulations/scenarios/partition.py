"""What kind of task the records are, their labels, the split, and partitions for simulations.

The door to everything about records: their types and files (`records.py`) and their tokens (`encoding.py`) are offered
here too. Errors name places, never text.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Final, Literal

import numpy as np

from yoriai.client.records.control_tokens import Tokenizer
from yoriai.client.records.encoding import DEFAULT_TEMPLATES, EncodedRecords, Example, encode
from yoriai.client.records.likeness import alike
from yoriai.client.records.records import Record, SiteRecords, fingerprint, read_records, read_sites
from yoriai.errors import ConfigError, RecordError

__all__ = [
    "DEFAULT_TEMPLATES",
    "EncodedRecords",
    "Example",
    "Record",
    "SiteRecords",
    "Tokenizer",
    "check_labels_alike",
    "encode",
    "fingerprint",
    "infer_task_kind",
    "label_set",
    "partition",
    "read_records",
    "read_sites",
    "split",
]

TaskKind = Literal["lm", "instruct", "classify"]
# Redraws of a Dirichlet partition until no site is left empty.
_PARTITION_ATTEMPTS: Final = 100
_WHOLE_NUMBER: Final = re.compile(r"^(-?[0-9]+)\.0+$")
# Of many faults of one kind, as many are listed.
_LISTED: Final = 10


def infer_task_kind(records: Sequence[Record]) -> tuple[TaskKind, str]:
    """Choose the kind of task from the records' shape; return it with the reason, one sentence that shows no text.

    Texts are `lm`, conversations are `instruct`. Prompts with responses are `classify` where the responses look like
    labels: at least 2 and at most max(2, min(100, n / 5)) distinct ones over n records, repeated 3 times or more in the
    median. Otherwise they are `instruct`.

    Raises:
        RecordError: there are no records, or they are of several shapes.
    """
    shapes = {record.shape: record.place for record in reversed(records)}
    if len(shapes) != 1:
        raise RecordError(
            "records of one task must have one shape",
            found=" and ".join(f"{shape} ({place})" if place else shape for shape, place in sorted(shapes.items()))
            or "no records",
            expected="prompts with responses, texts, or messages",
            remedy="convert them to one shape",
        )
    (shape,) = shapes
    if shape == "texts":
        return "lm", f"The {len(records)} records are plain texts."
    if shape == "messages":
        return "instruct", f"The {len(records)} records are conversations."
    counts = Counter(record.response for record in records)
    repeated = median(counts.values())
    facts = f"{len(records)} prompts have {len(counts)} distinct responses, each {repeated:g} times in the median"
    if 2 <= len(counts) <= max(2, min(100, len(records) / 5)) and repeated >= 3:
        return "classify", f"The {facts}, as labels would be."
    return "instruct", f"The {facts}, unlike labels."


def label_set(records: Sequence[Record]) -> tuple[str, ...]:
    """The distinct responses, sorted.

    Raises:
        RecordError: a record has no response.
    """
    labels = set()
    for record in records:
        if record.response is None:
            raise RecordError(
                f"{record.place or 'a record'}: a record without a response has no label", found=record.shape
            )
        labels.add(record.response)
    return tuple(sorted(labels))


def check_labels_alike(records: Sequence[Record]) -> None:
    """Refuse labels that a reader takes for one: a slip of the pen would be a class of its own.

    They differ only in case, Unicode form, spaces, characters of no width, or as 1 does from 1.0.

    Raises:
        RecordError: there are such labels. It names pairs by the places where they stand first.
    """
    places: dict[str, str] = {}
    first: dict[str, str] = {}
    pairs = []
    for record in records:
        label = record.response or ""
        if label in places:
            continue
        places[label] = record.place or "a record"
        twin = first.setdefault(_WHOLE_NUMBER.sub(r"\1", alike(label)), label)
        if twin != label:
            pairs.append(f"{places[twin]} and {places[label]}")
    if pairs:
        more = f"; {len(pairs) - _LISTED} more" if len(pairs) > _LISTED else ""
        raise RecordError(
            "labels differ only in case, spaces, Unicode form, hidden characters, or as 1 and 1.0 do",
            found="; ".join(pairs[:_LISTED]) + more,
            expected="each label written in one way",
            remedy='write them alike in the records; if they are no labels, set task.kind = "instruct"',
        )


def split(records: Sequence[Record], test_fraction: float, seed: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Part records into (train, test), both in their original order; the same seed gives the same parts anywhere."""
    order = _shuffled(len(records), seed)
    chosen = frozenset(order[: round(len(records) * test_fraction)])
    train = tuple(record for position, record in enumerate(records) if position not in chosen)
    return train, tuple(records[position] for position in sorted(chosen))


def partition(records: Sequence[Record], sites: int, how: str, seed: int) -> dict[str, tuple[Record, ...]]:
    """Deal one set of records out to sites, for simulations; every site gets at least one record.

    Args:
        records: the records, which keep their order within a site.
        sites: the number of sites; with `by:FIELD`, the largest so many, or 0 for all.
        how: `iid` (equal shares at random), `dirichlet:ALPHA` (each response's records are shared in proportions drawn
            from a symmetric Dirichlet distribution; the smaller ALPHA, the less alike the sites; Hsu et al. 2019), or
            `by:FIELD` (a site for each value of a column, or of `owner` or `response`, under that name).
        seed: decides the deal, and nothing else.

    Raises:
        ConfigError: `how` is not one of these.
        RecordError: there are too few records or values, or a record lacks what the partition goes by.
    """
    kind, _, setting = how.partition(":")
    if kind == "by":
        if not setting:
            raise ConfigError("partition by: names no field", expected="by:FIELD, such as by:plant")
        return _by_field(records, sites, setting)
    if sites < 1 or len(records) < sites:
        raise RecordError(
            "too few records for this many sites", found=f"{len(records)} records", expected=f">= {max(sites, 1)}"
        )
    if how == "iid":
        order = _shuffled(len(records), seed)
        return _named([order[site::sites] for site in range(sites)], records)
    if kind == "dirichlet" and (alpha := _positive(setting)) is not None:
        return _named(_dirichlet(records, sites, alpha, seed), records)
    raise ConfigError("unknown partition", found=repr(how), expected="iid, dirichlet:ALPHA with ALPHA > 0, or by:FIELD")


def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _positive(setting: str) -> float | None:
    try:
        value = float(setting)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _named(parts: Sequence[Sequence[int]], records: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
    width = len(str(len(parts)))
    return {
        f"site-{number:0{width}}": tuple(records[position] for position in sorted(part))
        for number, part in enumerate(parts, start=1)
    }


def _dirichlet(records: Sequence[Record], sites: int, alpha: float, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    labels = label_set(records)
    positions = {label: [place for place, record in enumerate(records) if record.response == label] for label in labels}
    for _ in range(_PARTITION_ATTEMPTS):
        parts: list[list[int]] = [[] for _ in range(sites)]
        for own in positions.values():
            bounds = np.cumsum(generator.dirichlet(np.full(sites, alpha)))[:-1] * len(own)
            for part, share in zip(
                parts, np.split(generator.permutation(own), bounds.round().astype(int)), strict=True
            ):
                part.extend(int(position) for position in share)
        if all(parts):
            return parts
    raise RecordError(
        f"dirichlet:{alpha:g} leaves a site without records, {_PARTITION_ATTEMPTS} draws in a row",
        found=f"{len(records)} records for {sites} sites",
        remedy="raise ALPHA, or simulate fewer sites",
    )


def _by_field(records: Sequence[Record], sites: int, name: str) -> dict[str, tuple[Record, ...]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        value = record.fields.get(name) or {"owner": record.owner, "response": record.response}.get(name)
        if not value:
            raise RecordError(
                f"{record.place or 'a record'}: the record has no {name}", remedy="partition by a column that all have"
            )
        groups.setdefault(value, []).append(record)
    if len(groups) < sites:
        raise RecordError(
            f"too few values of {name} for this many sites", found=str(len(groups)), expected=f">= {sites}"
        )
    largest = sorted(groups, key=lambda value: (-len(groups[value]), value))[: sites or None]
    return {value: tuple(groups[value]) for value in sorted(largest)}
