"""The untouched base of a job whose head trains: it answers with its labels' words, as fixed label vectors would."""

from typing import Any

import numpy as np
import pytest

from tests.client.conftest import LABELS, JobMaker
from yoriai.client.model.measure import Tally
from yoriai.client.records.records import Record
from yoriai.client.session.base_answers import LabelWords, base_tally
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training.evaluate import evaluate
from yoriai.config import JobConfig

HEAD: dict[str, Any] = {"task__head": "trained", "head__directions": 8, "head__words": 32, "public__written": 0}
RECORDS = [
    Record(prompt=prompt, response=LABELS[n % 3])
    for n, prompt in enumerate(["cab rattles", "engine smokes very badly today", "pump", "door", "no start", "leak"])
]


def words_of(session: ModelSession, job: JobConfig) -> LabelWords:
    """The untouched base, by the job's labels."""
    return LabelWords.untouched(session.base, job.task)


def untouched(session: ModelSession, job: JobConfig, rows: int = 4) -> Tally:
    """The base's answers where the job's head trains."""
    prepared = session.prepare(RECORDS, job, for_training=False)
    return base_tally(session.model(job), words_of(session, job), prepared, physical_batch_size=rows)


@pytest.mark.parametrize("template", [None, "Order: {prompt}\nPart:"])
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_it_says_what_label_vectors_say_before_their_adapter_trains_record_by_record(
    session: ModelSession, make_job: JobMaker, template: str | None, rows: int
) -> None:
    vectors = make_job(task__template=template, task__head="labels")
    model, head = session.model(vectors), session.head(vectors)
    prepared = session.prepare(RECORDS, vectors, for_training=False)
    wanted = evaluate(model, session.initial_adapter(vectors), prepared, head, physical_batch_size=rows)
    found = untouched(session, make_job(task__template=template, **HEAD), rows)
    assert wanted.hits is not None
    assert wanted.confusion is not None
    np.testing.assert_array_equal(found.hits, wanted.hits)
    np.testing.assert_array_equal(found.confusion, wanted.confusion)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert found.loss != pytest.approx(np.log(3), rel=1e-3)  # That of a head of zeros.


def test_its_answers_are_paired_with_those_of_the_head_that_trains(session: ModelSession, make_job: JobMaker) -> None:
    """Both list their hits by record in one order, longest last, whatever the batches."""
    job = make_job(**HEAD)
    model, head = session.model(job), session.head(job)
    prepared = session.prepare(RECORDS, job, for_training=False)
    zero = evaluate(model, session.initial_adapter(job), prepared, head, physical_batch_size=2)
    labels = np.array([LABELS.index(record.response or "") for record in RECORDS])
    order = sorted(range(len(RECORDS)), key=lambda i: (len(prepared.examples[i].token_ids), i))
    assert zero.hits is not None
    np.testing.assert_array_equal(zero.hits, labels[order] == 0)  # The first label, for every record.
    one_by_one = [base_hit(session, job, RECORDS[i]) for i in order]
    assert (untouched(session, job, rows=3).hits == one_by_one).all()  # type: ignore[union-attr]


def base_hit(session: ModelSession, job: JobConfig, record: Record) -> bool:
    """Whether the base answers one record right, by itself."""
    prepared = session.prepare([record], job, for_training=False)
    return base_tally(session.model(job), words_of(session, job), prepared, physical_batch_size=1).correct == 1


def test_labels_of_equal_tokens_stop_no_job_whose_head_trains(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job(task__labels=("pump", "PUMP", "cabin", "engine"), **HEAD)
    session.head(job)
    found = untouched(session, job)
    assert found.records == len(RECORDS)
    assert found.confusion is not None
    assert found.confusion[:, 1].sum() == 0  # Of two with one vector the first is answered.


def test_without_records_nothing_is_counted(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job(**HEAD)
    prepared = session.prepare(RECORDS, job, for_training=False)
    model = session.model(job)
    nothing = type(prepared)(model, (), known=None)
    tally = base_tally(session.model(job), words_of(session, job), nothing, physical_batch_size=4)
    assert (tally.records, tally.accuracy) == (0, None)


def test_progress_counts_the_records(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job(**HEAD | {"head__states": ("mean",)})  # The last position's states are not kept: the base runs.
    told: list[tuple[int, int]] = []
    base_tally(
        session.model(job),
        words_of(session, job),
        session.prepare(RECORDS, job, for_training=False),
        physical_batch_size=4,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 6), (4, 6)]
