"""Private counting: what one unit can move, how much noise there is, and what its answers are."""

import math

import numpy as np
import pytest
from sklearn.naive_bayes import MultinomialNB

from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.records.words import word_hashes
from yoriai.config import JobConfig, PrivacySection, override
from yoriai.errors import RecordError
from yoriai.privacy.dp.accounting import epsilon
from yoriai.privacy.dp.events import SampledGaussian
from yoriai.simulations.scenarios.private_counts import (
    BUCKETS,
    noise_deviation,
    private_baseline,
    released_tally,
    unit_sum,
)

LABELS = ("engine", "hose", "pump")
RECORD, OWNER = PrivacySection(), PrivacySection(unit="owner")
WORDS = tuple(f"word{number}" for number in range(40))


def _records(count: int, seed: int, *, length: int | None = None) -> list[Record]:
    """Texts whose words depend on their label; `length` distinct words each, or any number of words from none on."""
    generator = np.random.default_rng(seed)
    shares = np.random.default_rng(7).dirichlet(np.full(len(WORDS), 0.3), len(LABELS)) + 1e-6
    records = []
    for number in range(count):
        label = number % len(LABELS)
        size = int(generator.integers(0, 9)) if length is None else length
        share = shares[label] / shares[label].sum()
        words = generator.choice(WORDS, size, p=share, replace=length is None)
        records.append(Record(prompt=" ".join(words), response=LABELS[label], owner=f"owner {number % 4}"))
    return records


def _job(**settings: object) -> JobConfig:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return override(JobConfig(name="tiny"), {"task.kind": "classify", "task.labels": LABELS, **dotted})


def _sites(count: int) -> tuple[SiteRecords, ...]:
    records = _records(30 * count, seed=1)
    parts = (records[30 * i : 30 * (i + 1)] for i in range(count))
    return tuple(SiteRecords(f"s{i}", tuple(own[:20]), tuple(own[20:])) for i, own in enumerate(parts))


# What one unit can move.


@pytest.mark.parametrize("prompt", ["", "leaks", "pump pump pump leaks", " ".join(f"w{n}" for n in range(5000))])
def test_a_record_is_a_vector_of_norm_one_at_most_however_many_words_it_has(prompt: str) -> None:
    vector = unit_sum([Record(prompt=prompt, response="pump")], LABELS, RECORD)
    assert np.linalg.norm(vector) == pytest.approx(1 if prompt else math.sqrt(0.19), abs=1e-12)
    assert vector[2, BUCKETS] == pytest.approx(math.sqrt(0.19))
    assert not vector[:2].any()


def test_one_record_more_or_less_moves_the_sum_by_one_at_most() -> None:
    records = _records(12, seed=2)
    whole = unit_sum(records, LABELS, RECORD)
    for left_out in range(len(records)):
        fewer = unit_sum(records[:left_out] + records[left_out + 1 :], LABELS, RECORD)
        assert np.linalg.norm(whole - fewer) <= 1 + 1e-12


def test_one_owner_more_or_less_moves_the_sum_by_one_at_most_and_would_move_it_further() -> None:
    records = _records(12, seed=2)
    for name in ("owner 0", "owner 3"):
        others = [record for record in records if record.owner != name]
        moved, unbounded = (
            np.linalg.norm(unit_sum(records, LABELS, unit) - unit_sum(others, LABELS, unit)) for unit in (OWNER, RECORD)
        )
        assert moved == pytest.approx(1, abs=1e-12)
        assert unbounded > 1.2


def test_an_owner_of_one_record_counts_as_the_record_does() -> None:
    record = Record(prompt="pump leaks", response="pump", owner="one")
    np.testing.assert_array_equal(unit_sum([record], LABELS, OWNER), unit_sum([record], LABELS, RECORD))


def test_of_an_owner_no_more_records_count_than_the_job_takes() -> None:
    first, second = (Record(prompt=prompt, response="pump", owner="one") for prompt in ("pump leaks", "hose"))
    capped = PrivacySection(unit="owner", records_per_owner=1)
    np.testing.assert_array_equal(unit_sum([first, second], LABELS, capped), unit_sum([first], LABELS, capped))


# How much noise there is.


@pytest.mark.parametrize("target", [8.0, 1.0])
def test_one_site_adds_the_least_noise_that_keeps_epsilon_in_one_release(target: float) -> None:
    deviation = noise_deviation(_job(privacy__epsilon=target), 1)
    assert deviation is not None
    spent = [epsilon([SampledGaussian(1.0, deviation * share, 1)], 1e-5) for share in (1.0, 2 / 3)]
    assert 0.98 * target < spent[0] <= target < spent[1]


def test_local_noise_is_whole_at_every_site_and_distributed_noise_whole_in_the_honest_shares() -> None:
    one = noise_deviation(_job(), 1)
    assert one is not None
    assert noise_deviation(_job(), 5) == pytest.approx(one * math.sqrt(5))
    shared = _job(privacy__noise="distributed", privacy__colluding=1, federation__min_sites=4)
    assert noise_deviation(shared, 5) == pytest.approx(one * math.sqrt(5 / 3))


def test_a_job_without_privacy_has_no_private_baseline() -> None:
    job = _job(privacy__noise="none")
    assert noise_deviation(job, 5) is None
    assert private_baseline(_sites(2), job) is None


def test_less_privacy_answers_better_and_the_same_job_always_the_same() -> None:
    sites = _sites(4)

    def accuracy(target: float) -> float:
        found = private_baseline(sites, _job(privacy__epsilon=target))
        assert found is not None
        assert sorted(found) == [site.name for site in sites]
        return sum(tally.correct or 0 for tally in found.values()) / sum(tally.records for tally in found.values())

    assert accuracy(1000.0) > 0.6 > accuracy(0.01)
    assert accuracy(1.0) == accuracy(1.0)


def test_two_splits_of_the_records_have_a_draw_of_noise_each() -> None:
    """At this epsilon answers are noise alone, so one draw for both would answer alike."""
    test = tuple(_records(90, seed=5, length=4))
    first, second = (
        private_baseline([SiteRecords("s0", tuple(_records(30, seed)), test)], _job(privacy__epsilon=0.001))
        for seed in (1, 2)
    )
    assert first is not None
    assert second is not None
    assert first["s0"].hits is not None
    assert second["s0"].hits is not None
    assert (first["s0"].hits != second["s0"].hits).any()


# What its answers are.


def test_without_noise_it_is_naive_bayes_on_the_presence_of_words() -> None:
    """Records of four distinct words each have entries of a half, which the factor of two makes counts."""
    train, test = _records(90, seed=3, length=4), _records(60, seed=4)

    def presence(records: list[Record]) -> np.ndarray:
        found = np.zeros((len(records), BUCKETS))
        for row, record in enumerate(records):
            found[row, word_hashes(record.prompt or "") % BUCKETS] = 1
        return found

    assert (presence(train).sum(1) == 4).all()
    model = MultinomialNB().fit(presence(train), [record.response for record in train])
    tally = released_tally(unit_sum(train, LABELS, RECORD), test, LABELS, deviation=0.0)
    assert tally.hits is not None
    expected = model.predict(presence(test))
    assert tally.hits.tolist() == [bool(a == r.response) for a, r in zip(expected, test, strict=True)]
    shares = model.predict_proba(presence(test))
    own = np.array([share[LABELS.index(r.response or "")] for share, r in zip(shares, test, strict=True)])
    assert tally.loss_sum == pytest.approx(-np.log((90 * own + 1) / 93).sum())
    assert 0.5 < (tally.accuracy or 0) < 1


def test_counts_below_two_deviations_are_dropped() -> None:
    released = np.zeros((3, BUCKETS + 1))
    record = Record(prompt="leaks", response="pump")
    (bucket,) = (word_hashes("leaks") % BUCKETS).tolist()
    released[2, bucket] = 1.9
    kept, dropped = (released_tally(released, [record], LABELS, deviation=d).correct for d in (0.9, 1.0))
    assert (kept, dropped) == (1, 0)


def test_label_counts_below_one_record_count_as_one() -> None:
    released = np.zeros((3, BUCKETS + 1))
    released[:, BUCKETS] = (-5.0, 0.0, 2.0)
    tally = released_tally(released, [Record(prompt="", response="pump")], LABELS, deviation=3.0)
    share = 2 / math.sqrt(0.19) / (2 + 2 / math.sqrt(0.19))
    total = 2 + 2 / math.sqrt(0.19)
    assert tally.loss == pytest.approx(-math.log((total * share + 1) / (total + 3)))


def test_a_site_without_test_records_counts_nothing() -> None:
    tally = released_tally(np.zeros((3, BUCKETS + 1)), [], LABELS, deviation=1.0)
    assert (tally.records, tally.accuracy) == (0, None)


def test_a_label_that_is_none_is_refused_without_its_text() -> None:
    with pytest.raises(RecordError, match="none of the labels") as caught:
        unit_sum([Record(prompt="secret", response="bucket")], LABELS, RECORD)
    assert "secret" not in str(caught.value)
