"""One model against another in each language of the test records. Pure.

A record may have a field `language`; those without one are in the language of their site, guessed from all of its test
texts together: a single short text tells too little. What a record's language is says nothing about its answer's.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from yoriai.client.evaluation.language import guess
from yoriai.client.evaluation.side_by_side import Against, against
from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord
from yoriai.client.records.records import Record, text_of

FIELD: Final = "language"


@dataclass(frozen=True)
class LanguageChange:
    """The test records in one language.

    Attributes:
        records: how many; `guessed` of them have no field that says so.
        before, after: the two models on these records, without what is not kept record by record.
    """

    language: str
    records: int
    guessed: int
    before: Tally
    after: Tally
    against: Against

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = {"language": self.language, "records": self.records, "guessed": self.guessed}
        return counts | {"before": _scores(self.before), "after": _scores(self.after), **self.against.as_json()}


@dataclass(frozen=True)
class SiteAnswers:
    """One site's test records, and two models' answers to them in the same order."""

    records: Sequence[Record]
    before: Tally
    after: Tally


def by_language(sites: Sequence[SiteAnswers]) -> tuple[LanguageChange, ...]:
    """Each language of these sites, the commonest first; nothing where answers were not kept record by record."""
    found: dict[str, list[tuple[Tally, Tally]]] = {}
    counts, guessed = Counter[str](), Counter[str]()
    for site in sites:
        before, after = site.before.per_record, site.after.per_record
        if before is None or after is None or not len(site.records) == len(before) == len(after):
            return ()
        own = [record.fields.get(FIELD, "").strip().lower() for record in site.records]
        rest = guess(text_of(record) for record in site.records) if "" in own else ""
        languages = np.array([name or rest for name in own])
        counts.update(languages.tolist())
        guessed.update({rest: own.count("")})
        for language in np.unique(languages):
            rows = np.flatnonzero(languages == language)
            found.setdefault(str(language), []).append((tally_of(before.taken(rows)), tally_of(after.taken(rows))))
    return tuple(
        LanguageChange(
            language=language,
            records=count,
            guessed=guessed[language],
            before=_together([old for old, _ in found[language]]),
            after=_together([new for _, new in found[language]]),
            against=against([old for old, _ in found[language]], [new for _, new in found[language]]),
        )
        for language, count in counts.most_common()
    )


def tally_of(record: PerRecord) -> Tally:
    """The counts of what was measured of some records."""
    labelled = record.has_labels
    return Tally(
        records=len(record),
        loss_sum=float(record.losses.sum()),
        loss_units=int(record.units.sum()),
        correct=int(record.right.sum()) if labelled else None,
        answered=len(record) if labelled else 0,
        target_bytes=int(record.target_bytes.sum()),
        per_record=record,
    )


def _together(tallies: Sequence[Tally]) -> Tally:
    total = tallies[0]
    for tally in tallies[1:]:
        total = total + tally
    return total


def _scores(tally: Tally) -> dict[str, float | None]:
    loss = tally.loss if tally.loss_units else None
    return {"accuracy": tally.accuracy, "loss": loss, "bits_per_byte": tally.bits_per_byte}
