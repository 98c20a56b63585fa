"""Multinomial naive Bayes over words: what counting gives without a model, a graphics card or a round.

A report's accuracy means little without it; on short texts it is hard to beat. Exactly:

    log p(label | text) = log n(label)/n + sum over words of log (n(word, label) + 1) / (n(all words, label) + V)

up to a constant, the counts n taken from the training records. Words are those of `client/records/words.py`, each as
often as it stands in the prompt; V is the number of distinct training words, and a word outside them is ignored. A
label without a training record is never answered. McCallum and Nigam, "A comparison of event models for naive Bayes
text classification", AAAI-98 workshop on learning for text categorization.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray

from yoriai.client.model.measure import Tally
from yoriai.client.model.per_record import PerRecord
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.records.words import words
from yoriai.errors import RecordError


def baselines(sites: Sequence[SiteRecords], labels: Sequence[str]) -> dict[str, dict[str, Tally]]:
    """Naive Bayes on each site's test records, by site: `naive_bayes_own` learnt from the site's own training records,
    `naive_bayes_all` from everybody's, which a federation may not put together.

    Raises:
        RecordError: a site has no training record, or a response is none of the labels.
    """
    everybody = NaiveBayes.learnt(tuple(chain.from_iterable(site.train for site in sites)), labels)
    return {
        "naive_bayes_own": {site.name: naive_bayes_tally(site.train, site.test, labels) for site in sites},
        "naive_bayes_all": {site.name: everybody.tally(site.test) for site in sites},
    }


def naive_bayes_tally(train: Sequence[Record], test: Sequence[Record], labels: Sequence[str]) -> Tally:
    """Learn from `train`, answer `test` and count; see NaiveBayes.

    Raises:
        RecordError: there is no training record, or a response is none of the labels.
    """
    return NaiveBayes.learnt(train, labels).tally(test)


@dataclass(frozen=True, eq=False)
class NaiveBayes:
    """What training records have taught; see the top of this file.

    Attributes:
        labels: of the task.
        training_records: how many there were.
        columns: of each training word in `log_words`.
        log_prior: (L,).
        log_words: (L, V).
    """

    labels: Sequence[str]
    training_records: int
    columns: Mapping[str, int]
    log_prior: NDArray[np.float64]
    log_words: NDArray[np.float64]

    @classmethod
    def learnt(cls, train: Sequence[Record], labels: Sequence[str]) -> Self:
        """Raises RecordError if there is no training record, or a response is none of the labels."""
        if not train:
            raise RecordError("naive Bayes needs a training record", found="none")
        known, texts = label_numbers(train, labels), [words(record.prompt or "") for record in train]
        columns = {word: column for column, word in enumerate(sorted(set(chain.from_iterable(texts))))}
        counts = np.zeros((len(labels), len(columns)))
        for text, label in zip(texts, known, strict=True):
            np.add.at(counts[label], [columns[word] for word in text], 1)
        log_words = np.log((counts + 1) / (counts.sum(1, keepdims=True) + len(columns)))
        with np.errstate(divide="ignore"):
            log_prior = np.log(np.bincount(known, minlength=len(labels)) / len(train))
        return cls(labels, len(train), columns, log_prior, log_words)

    def tally(self, test: Sequence[Record]) -> Tally:
        """Answer `test` and count; of equally likely labels the first is answered.

        The loss is of the probabilities after a pseudo-record for each label, as in `majority_tally`: p becomes
        (n p + 1) / (n + L), so that a label unseen in training does not cost an infinite loss. Answers do not depend
        on it.

        Raises:
            RecordError: a response is none of the labels.
        """
        truth = label_numbers(test, self.labels)
        found = [self.log_prior + self.log_words[:, self._known(record)].sum(1) for record in test]
        return tally_of(np.array(found).reshape(len(test), len(self.labels)), truth, self.training_records)

    def _known(self, record: Record) -> list[int]:
        """The column of each word of a record that training had, as often as it stands in the record."""
        return [column for word in words(record.prompt or "") if (column := self.columns.get(word)) is not None]


def tally_of(scores: NDArray[np.float64], truth: NDArray[np.int64], training_records: float) -> Tally:
    """Count the likeliest answers; the loss is that of `NaiveBayes.tally`.

    Args:
        scores: (N, L) log-probabilities up to a constant a row.
        truth: (N,) label numbers.
        training_records: n of the loss.
    """
    answers, size = scores.argmax(1), scores.shape[1]
    shares = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    smoothed = (training_records * shares + 1) / (training_records + size)
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (truth, answers), 1)
    hits, rows = answers == truth, np.arange(len(truth))
    losses = -np.log(smoothed[rows, truth])
    return Tally(
        records=len(truth),
        loss_sum=float(losses.sum()),
        loss_units=len(truth),
        correct=int(hits.sum()),
        answered=len(truth),
        confusion=confusion,
        hits=hits,
        per_record=PerRecord.classified(losses, truth, answers, smoothed[rows, answers]),
    )


def label_numbers(records: Sequence[Record], labels: Sequence[str]) -> NDArray[np.int64]:
    """The number of each record's label. Raises RecordError if a response is none of the labels."""
    numbers = {label: number for number, label in enumerate(labels)}
    found = [numbers.get(record.response or "", -1) for record in records]
    if -1 in found:
        raise RecordError(
            f"{records[found.index(-1)].place or 'a record'}: its response is none of the labels",
            expected=f"one of {len(labels)} labels",
            remedy="list it in task.labels",
        )
    return np.array(found, np.int64)
