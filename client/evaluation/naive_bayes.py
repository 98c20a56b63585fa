"""Multinomial naive Bayes over words: what counting gives without a model, a graphics card or a round.

A report's accuracy means little without it; on short texts it is hard to beat. Exactly:

    log p(label | text) = log n(label)/n + sum over words of log (n(word, label) + 1) / (n(all words, label) + V)

up to a constant, the counts n taken from the training records. Words are those of `client/records/words.py`, each as
often as it stands in the prompt; V is the number of distinct training words, and a word outside them is ignored. A
label without a training record is never answered. McCallum and Nigam, "A comparison of event models for naive Bayes
text classification", AAAI-98 workshop on learning for text categorization.
"""

from collections.abc import Sequence
from itertools import chain

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
    everybody = tuple(chain.from_iterable(site.train for site in sites))
    return {
        "naive_bayes_own": {site.name: naive_bayes_tally(site.train, site.test, labels) for site in sites},
        "naive_bayes_all": {site.name: naive_bayes_tally(everybody, site.test, labels) for site in sites},
    }


def naive_bayes_tally(train: Sequence[Record], test: Sequence[Record], labels: Sequence[str]) -> Tally:
    """Learn from `train`, answer `test` and count; of equally likely labels the first is answered.

    The loss is of the probabilities after a pseudo-record for each label, as in `majority_tally`: p becomes
    (n p + 1) / (n + L), so that a label unseen in training does not cost an infinite loss. Answers do not depend on it.

    Raises:
        RecordError: there is no training record, or a response is none of the labels.
    """
    if not train:
        raise RecordError("naive Bayes needs a training record", found="none")
    vocabulary = {word: column for column, word in enumerate(sorted({word for r in train for word in _words(r)}))}
    known, truth = label_numbers(train, labels), label_numbers(test, labels)
    frequencies = np.bincount(known, minlength=len(labels))  # (L,)
    counts = np.zeros((len(labels), len(vocabulary)))
    for record, label in zip(train, known, strict=True):
        np.add.at(counts[label], _columns(record, vocabulary), 1)
    log_words = np.log((counts + 1) / (counts.sum(1, keepdims=True) + len(vocabulary)))  # (L, V)
    with np.errstate(divide="ignore"):
        log_prior = np.log(frequencies / len(train))
    found = [log_prior + log_words[:, _columns(record, vocabulary)].sum(1) for record in test]
    scores = np.array(found).reshape(len(test), len(labels))
    return tally_of(scores, truth, len(train))


def tally_of(scores: NDArray[np.float64], truth: NDArray[np.int64], training_records: float) -> Tally:
    """Count the likeliest answers; the loss is that of `naive_bayes_tally`.

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


def _words(record: Record) -> list[str]:
    return words(record.prompt or "")


def _columns(record: Record, vocabulary: dict[str, int]) -> list[int]:
    """The column of each word that the vocabulary has, as often as it stands in the record."""
    return [column for word in _words(record) if (column := vocabulary.get(word)) is not None]


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
