"""Naive Bayes: the same answers as scikit-learn's, and a loss that stays finite."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from yoriai.client.evaluation.naive_bayes import NaiveBayes, baselines, naive_bayes_tally
from yoriai.client.records.records import Record, SiteRecords
from yoriai.errors import RecordError

LABELS = ("engine", "hose", "pump")
WORDS = [f"word{number}" for number in range(40)]


def _record(prompt: str, response: str) -> Record:
    return Record(prompt=prompt, response=response)


def _synthetic(count: int, seed: int) -> list[Record]:
    """Texts of up to eight words whose frequencies depend on the label; the label frequencies differ too."""
    generator = np.random.default_rng(seed)
    shares = np.random.default_rng(7).dirichlet(np.full(len(WORDS), 0.3), len(LABELS))
    records = []
    for _ in range(count):
        label = int(generator.choice(len(LABELS), p=[0.6, 0.3, 0.1]))
        words = generator.choice(WORDS, int(generator.integers(1, 9)), p=shares[label])
        records.append(_record(" ".join(words).title(), LABELS[label]))
    return records


TRAIN = [
    _record("Pump leaks", "pump"),
    _record("pump, pump broken!", "pump"),
    _record("hose leaks", "hose"),
]


def test_answers_and_probabilities_are_those_of_scikit_learn() -> None:
    train, test = _synthetic(80, seed=1), _synthetic(300, seed=2)
    vectorizer = CountVectorizer(token_pattern=r"(?u)\w+")
    model = MultinomialNB().fit(vectorizer.fit_transform([r.prompt for r in train]), [r.response for r in train])
    columns = vectorizer.transform([r.prompt for r in test])
    expected = model.predict(columns)
    tally = naive_bayes_tally(train, test, LABELS)
    assert tally.hits is not None
    assert tally.confusion is not None
    assert tally.hits.tolist() == [answer == r.response for answer, r in zip(expected, test, strict=True)]
    assert tally.confusion.sum(0).tolist() == [list(expected).count(label) for label in LABELS]
    shares = model.predict_proba(columns)
    own = np.array([share[LABELS.index(r.response or "")] for share, r in zip(shares, test, strict=True)])
    assert tally.loss_sum == pytest.approx(-np.log((80 * own + 1) / 83).sum())
    assert 0.5 < (tally.accuracy or 0) < 1


def test_probabilities_by_hand() -> None:
    # Words: broken, hose, leaks, pump. pump: 5 words in all, pump 3 times; hose: 2 words.
    tally = naive_bayes_tally(TRAIN, [_record("PUMP", "pump")], LABELS)
    pump, hose = 2 / 3 * 4 / 9, 1 / 3 * 1 / 6
    assert tally.loss == pytest.approx(-math.log((3 * pump / (pump + hose) + 1) / 6))


def test_words_unseen_in_training_do_not_count() -> None:
    with_them = naive_bayes_tally(TRAIN, [_record("hose xyzzy", "hose")], LABELS)
    assert with_them.loss == naive_bayes_tally(TRAIN, [_record("hose", "hose")], LABELS).loss


def test_a_label_unseen_in_training_is_never_answered_and_costs_a_finite_loss() -> None:
    tally = naive_bayes_tally(TRAIN, [_record("nothing known", "engine")], LABELS)
    assert tally.correct == 0
    assert tally.loss == pytest.approx(math.log(6))


def test_a_site_without_test_records_counts_nothing() -> None:
    tally = naive_bayes_tally(TRAIN, [], LABELS)
    assert (tally.records, tally.correct, tally.accuracy) == (0, 0, None)


def test_own_and_all_differ_by_the_records_learnt_from() -> None:
    a = SiteRecords("a", (_record("pump", "pump"), _record("leak", "pump")), (_record("hose", "hose"),))
    b = SiteRecords("b", (_record("hose", "hose"),), (_record("hose", "hose"), _record("pump", "pump")))
    found = baselines((a, b), LABELS)
    own, everybody = found["naive_bayes_own"], found["naive_bayes_all"]
    assert {name: (tally.correct, tally.records) for name, tally in own.items()} == {"a": (0, 1), "b": (1, 2)}
    assert {name: (tally.correct, tally.records) for name, tally in everybody.items()} == {"a": (1, 1), "b": (2, 2)}


def test_everybodys_records_are_learnt_once_however_many_sites_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt, taught = NaiveBayes.learnt, list[int]()

    def learning(train: Sequence[Record], labels: Sequence[str]) -> NaiveBayes:
        taught.append(len(train))
        return learnt(train, labels)

    monkeypatch.setattr(NaiveBayes, "learnt", learning)
    baselines([SiteRecords(name, tuple(TRAIN), tuple(TRAIN)) for name in "abcd"], LABELS)
    assert sorted(taught) == [3, 3, 3, 3, 12]


def test_tallies_of_sites_add_up() -> None:
    train, test = _synthetic(50, seed=3), _synthetic(40, seed=4)
    parts = naive_bayes_tally(train, test[:15], LABELS) + naive_bayes_tally(train, test[15:], LABELS)
    whole = naive_bayes_tally(train, test, LABELS)
    assert parts.correct == whole.correct
    assert parts.loss == pytest.approx(whole.loss)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([], TRAIN, "needs a training record"),
        (TRAIN, [_record("secret", "bucket")], "none of the labels"),
        ([_record("secret", "bucket")], TRAIN, "none of the labels"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_without_its_text(
    train: list[Record], test: list[Record], message: str
) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        naive_bayes_tally(train, test, LABELS)
    assert "secret" not in str(caught.value)
    assert "bucket" not in str(caught.value)
