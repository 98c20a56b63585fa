"""One base, one adapted model at a time, and what is kept while it serves."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, JobMaker
from tests.client.rounds import by_record
from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.digest import base_digest
from yoriai.client.model.lora import AdaptedModel, svd_factors
from yoriai.client.model.tasks import LabelHead, LanguageHead
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.config import SpeedSection
from yoriai.errors import AdapterError, BaseModelError, RecordError
from yoriai.strategies.adapter import AdapterState

RECORDS = [Record(prompt=f"order {n}", response=LABELS[n % 3]) for n in range(4)]


def test_one_model_and_head_serve_equal_jobs(session: ModelSession, make_job: JobMaker) -> None:
    first = session.model(make_job())
    head = session.head(make_job())
    assert session.model(make_job(federation__rounds=9)) is first
    assert session.head(make_job(privacy__epsilon=1.0)) is head


def test_another_shape_of_adapter_replaces_the_model_and_what_hangs_on_it(
    session: ModelSession, make_job: JobMaker
) -> None:
    first, head = session.model(make_job()), session.head(make_job())
    for settings in ({"lora__rank": 2}, {"lora__layers": "last:1"}, {"federation__rule": "fedavg"}):
        job = make_job(**settings)
        model = session.model(job)
        assert model is not first
        assert session.head(job) is not head
        assert set(model.factor_parameters()) == set(session.initial_adapter(job).tensors)
        first, head = model, session.head(job)


def test_rules_with_equal_factors_share_a_model(session: ModelSession, make_job: JobMaker) -> None:
    first = session.model(make_job(federation__rule="fedavg"))
    assert session.model(make_job(federation__rule="ffa")) is first


def test_a_job_that_does_not_fit_leaves_the_workbench_usable(session: ModelSession, make_job: JobMaker) -> None:
    session.model(make_job())
    with pytest.raises(BaseModelError, match="rank"):
        session.model(make_job(lora__rank=99))
    model = session.model(make_job())
    assert isinstance(model, AdaptedModel)
    (batch,) = session.prepare(RECORDS[:1], make_job()).batches([0], 1)
    assert by_record(model, ("R",), lambda: model.final_hidden(batch.entering))


@pytest.mark.parametrize("rule", ["core", "fedavg", "flora"])
def test_an_adapter_is_judged_without_its_model_as_with_it(
    session: ModelSession, make_job: JobMaker, rule: str
) -> None:
    """While the model of another job, which changes the base's weights, is at work."""
    at_work = make_job(federation__rule="flora", lora__layers="last:1")
    job = make_job(federation__rule=rule, lora__rank=2)
    fit = session.initial_adapter(job)
    one = next(iter(fit.tensors))
    rest = {name: tensor for name, tensor in fit.tensors.items() if name != one}
    states = {
        "fit": fit,
        "lacks a factor": AdapterState(rest),
        "another shape": AdapterState(rest | {one: fit.tensors[one][:1]}),
        "not finite": AdapterState(rest | {one: np.full_like(fit.tensors[one], np.nan)}),
        "too large": AdapterState(rest | {one: np.full_like(fit.tensors[one], 1e7)}),
        "a large product": AdapterState({name: np.full_like(t, 50) for name, t in fit.tensors.items()}),
    }
    with_model = {name: fault(partial(session.model(job).check, state)) for name, state in states.items()}
    model = session.model(at_work)
    folded = session.initial_adapter(at_work)
    model.load(AdapterState({name: np.full_like(t, 0.05) for name, t in folded.tensors.items()}))
    assert {name: fault(partial(session.check_adapter, job, state)) for name, state in states.items()} == with_model
    assert [name for name, words in with_model.items() if not words] == ["fit"]
    assert session.model(at_work) is model


def fault(check: Callable[[], None]) -> str:
    try:
        check()
    except AdapterError as error:
        return str(error)
    return ""


def test_closing_gives_the_base_back(session: ModelSession, make_job: JobMaker, base: BaseModel) -> None:
    session.model(make_job())
    session.close()
    session.close()
    assert base_digest(base.model, base.tokenizer) == base.digest


def test_the_first_core_adapter_holds_the_bases_own_factors(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job()
    state = session.initial_adapter(job)
    for path, (left, right) in svd_factors(session.model(job)).items():
        assert (state.factor(path, "U") == left).all()
        assert (state.factor(path, "A") == right).all()
        assert not state.factor(path, "R").any()


def test_the_first_adapter_is_the_same_each_time(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job(federation__rule="fedavg")
    first = session.initial_adapter(job)
    assert session.initial_adapter(job) == first
    assert session.initial_adapter(make_job(federation__rule="fedavg", training__seed=1)) != first


@pytest.mark.parametrize("kind", ["lm", "instruct"])
def test_the_head_is_that_of_the_task(session: ModelSession, make_job: JobMaker, kind: str) -> None:
    assert isinstance(session.head(make_job()), LabelHead)
    assert isinstance(session.head(make_job(task__kind=kind, task__labels=())), LanguageHead)


def test_prefixes_are_kept_between_sites_only_if_the_job_says_so(base: BaseModel, make_job: JobMaker) -> None:
    job = make_job()
    for cache in (True, False):
        bench = ModelSession(base, SpeedSection(threads=1, prefix_cache=cache))
        seen: list[int] = []
        for _ in range(2):
            bench.prepare(RECORDS, job, progress=lambda done, total, seen=seen: seen.append(done))  # type: ignore[misc]
        assert seen == ([4] if cache else [])
        bench.close()


def test_a_site_without_records_is_told_so(session: ModelSession, make_job: JobMaker) -> None:
    with pytest.raises(RecordError, match="no records"):
        session.prepare([], make_job())


def test_threads_are_set_only_where_the_job_names_a_number(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    ModelSession(base, SpeedSection(threads=0))
    ModelSession(base, SpeedSection(threads=3))
    assert asked == [3]
