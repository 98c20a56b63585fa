"""Whether one site's records are fit to learn from and to measure by: counts alone, no text. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yoriai.client.evaluation.language import guess
from yoriai.client.records.likeness import alike
from yoriai.client.records.records import Record, text_of
from yoriai.simulations.poc.personal_data import found_in

FEWEST_OF_A_LABEL = 5


@dataclass(frozen=True)
class Sanity:
    """What is to be known of records before anything trains.

    Attributes:
        train, test: records.
        duplicates: training records whose text stands earlier among them; likeness is without case and spacing.
        leaks: test records whose text is a training record's too.
        contradictions: distinct training texts that have more than one label.
        labels: training records of each label, the commonest first; empty where there are none.
        words: (median, nine in ten, longest) of a text.
        empty: texts without a letter or digit.
        personal: records, training and test, that seem to hold each kind of personal data.
    """

    train: int
    test: int
    duplicates: int
    leaks: int
    contradictions: int
    labels: dict[str, int]
    words: tuple[int, int, int]
    empty: int
    language: str
    personal: dict[str, int]

    @property
    def rare(self) -> tuple[str, ...]:
        """Labels with fewer training records than can be learnt from."""
        return tuple(label for label, count in self.labels.items() if count < FEWEST_OF_A_LABEL)

    @property
    def commonest_share(self) -> float:
        """Of the commonest label; 0 without labels."""
        return max(self.labels.values(), default=0) / max(1, sum(self.labels.values()))

    def warnings(self) -> tuple[str, ...]:
        """What should be mended or looked at first, in sentences."""
        found = []
        if self.leaks:
            found.append(f"{self.leaks} of {self.test} test records stand in the training records too: scores flatter.")
        if self.duplicates > self.train / 10:
            found.append(f"{self.duplicates} of {self.train} training records are duplicates: there is less to learn.")
        if self.contradictions:
            found.append(f"{self.contradictions} texts have more than one label: nothing can get all of these right.")
        if self.rare:
            found.append(f"{len(self.rare)} of {len(self.labels)} labels have fewer than {FEWEST_OF_A_LABEL} records.")
        if self.commonest_share > 0.6:
            found.append(f"{self.commonest_share:.0%} of the records have one label: accuracy alone says little.")
        if self.empty:
            found.append(f"{self.empty} texts hold no letter and no digit.")
        if self.personal:
            listed = ", ".join(f"{kind} {count}" for kind, count in self.personal.items())
            found.append(f"Likely personal data (records): {listed}. Look, and take out what the task does not need.")
        return tuple(found)


def examine(train: Sequence[Record], test: Sequence[Record], *, labelled: bool) -> Sanity:
    """Look at all records of one site.

    Args:
        labelled: responses are labels.
    """
    keys, others = [alike(text_of(record)) for record in train], [alike(text_of(record)) for record in test]
    texts = [text_of(record) for record in (*train, *test)]
    lengths = sorted(len(text.split()) for text in texts) or [0]
    known: dict[str, set[str | None]] = {}
    for key, record in zip(keys, train, strict=True):
        known.setdefault(key, set()).add(record.response)
    labels = Counter(record.response or "" for record in train) if labelled else Counter[str]()
    return Sanity(
        train=len(train),
        test=len(test),
        duplicates=len(keys) - len(set(keys)),
        leaks=sum(key in known for key in others),
        contradictions=sum(len(answers) > 1 for answers in known.values()) if labelled else 0,
        labels=dict(labels.most_common()),
        words=(lengths[len(lengths) // 2], int(np.percentile(lengths, 90)), lengths[-1]),
        empty=sum(not any(character.isalnum() for character in text) for text in texts),
        language=guess(texts[:2000]),
        personal=found_in(f"{text_of(record)}\n{record.response or ''}" for record in (*train, *test)),
    )
