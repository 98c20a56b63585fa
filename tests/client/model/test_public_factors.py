"""Fixed factors of core from public texts: what is measured, what is made of it, and when a job has them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.client.conftest import Attach, JobMaker
from yoriai.client.base.base_model import BaseModel
from yoriai.client.model.public_factors import RIDGE, Moments, moments, public_factors
from yoriai.client.model.public_texts import text_digest
from yoriai.client.model.tasks import LanguageHead
from yoriai.client.records.encoding import Example, encode
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import training_plan
from yoriai.client.training.train import train_round
from yoriai.config import JobConfig, TaskSection, job_digest, override
from yoriai.errors import ConfigError
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.job_terms.noise import NoNoise
from yoriai.strategies.fit import check_fit

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")

TEXTS = ["a short text", "one that is rather longer than the other", "ü"]
DIGEST = "0" * 128


@pytest.fixture
def make_text_job(make_job: JobMaker) -> JobMaker:
    """A job for texts whose factors are of public ones."""

    def make(**settings: Any) -> JobConfig:
        return make_job(**{"task__kind": "lm", "task__labels": (), "lora__factors": "public", **settings})

    return make


def head_of(base: BaseModel) -> LanguageHead:
    return LanguageHead(base.model.get_output_embeddings().weight, base.tokenizer)


def examples_of(base: BaseModel, texts: list[str]) -> tuple[Example, ...]:
    records = [Record(text=text) for text in texts]
    return encode(records, base.tokenizer, TaskSection(kind="lm"), context_tokens=base.context_tokens).examples


def test_moments_are_those_of_the_base_in_one_piece(attach: Attach, base: BaseModel) -> None:
    (example,) = examples_of(base, TEXTS[1:2])
    model = attach("core")
    found = moments(model, head_of(base), [example])
    path = "model.layers.2.self_attn.v_proj"
    ids = torch.from_numpy(example.token_ids).long()[None]
    seen: dict[str, torch.Tensor] = {}

    def keep(_module: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.update(x=inputs[0], y=output)

    module = base.model.get_submodule(path)
    handle = module.register_forward_hook(keep)
    with model.untouched(), torch.enable_grad():
        embedded = base.model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = base.model(inputs_embeds=embedded, use_cache=False).logits
        loss = functional.cross_entropy(logits[0, :-1], ids[0, 1:])  # The mean over targets, as in training.
        (delta,) = torch.autograd.grad(loss, [seen["y"]])
    handle.remove()
    x = seen["x"][0].detach().double().numpy()
    np.testing.assert_allclose(found[path].inputs, x.T @ x, rtol=1e-3, atol=1e-4)
    d = delta[0].double().numpy()
    np.testing.assert_allclose(found[path].gradients, d.T @ d, rtol=1e-3, atol=1e-3 * np.abs(d.T @ d).max())
    assert found[path].tokens == len(example.token_ids)


def test_what_fills_a_batch_up_does_not_count(attach: Attach, base: BaseModel) -> None:
    model, head, examples = attach("core"), head_of(base), examples_of(base, TEXTS)
    together = moments(model, head, examples)
    each = [moments(model, head, [example]) for example in examples]
    for path, found in together.items():
        for part in ("inputs", "gradients"):
            expected = sum(getattr(one[path], part) for one in each)
            np.testing.assert_allclose(getattr(found, part), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_texts_without_anything_to_learn_are_refused(attach: Attach, base: BaseModel) -> None:
    (whole,) = examples_of(base, ["x"])
    with pytest.raises(ConfigError, match="no public text is long enough"):
        moments(attach("core"), head_of(base), [Example(whole.token_ids, np.zeros_like(whole.loss_mask))])


def test_factors_whiten_what_enters_and_keep_where_outputs_move() -> None:
    inputs, gradients = np.diag([9.0, 1.0, 4.0]), np.diag([1.0, 16.0])
    weight_svd = (np.array([[2.0], [0.0]]), np.array([[0.0, 1.0, 0.0]]))
    u, a = public_factors(Moments(10, 10 * inputs, gradients), weight_svd)
    np.testing.assert_allclose(np.abs(u), [[0.0], [2.0]], atol=1e-6)  # The direction of 16, as long as the weight's.
    np.testing.assert_allclose(np.abs(a), [[1 / 3, 0.0, 0.0]], atol=1e-6)  # E|Ax|² is 1, as with the weight's own.
    weight_svd = (np.eye(2), np.eye(3)[:2])
    _, a = public_factors(Moments(10, 10 * inputs, gradients), weight_svd)
    sizes = np.diag(a @ inputs @ a.T)  # λ / (λ + ρ λ̄), up to their scale.
    ridge = RIDGE * inputs.trace() / 3
    assert sizes[0] / sizes[1] == pytest.approx((9 / (9 + ridge)) / (4 / (4 + ridge)), rel=1e-5)
    assert sizes.sum() == pytest.approx(10.0, rel=1e-5)


def test_a_job_starts_from_them_and_trains_as_before(session: ModelSession, make_text_job: JobMaker) -> None:
    job = make_text_job(privacy__noise="none", training__sampling_rate=1.0)
    start = session.initial_adapter(job)
    assert session.initial_adapter(job) == start
    svd = session.initial_adapter(override(job, {"lora.factors": "svd"}))
    assert start.select(("R",)) == svd.select(("R",))
    assert start.select(("A",)) != svd.select(("A",))
    assert start.select(("U",)) != svd.select(("U",))
    model = session.model(job)
    records = session.prepare([Record(text=text) for text in TEXTS], job)
    plan = training_plan(job, 0, weight=1, noise=NoNoise(), physical_batch_size=4)
    result = train_round(model, start, records, session.head(job), plan, source=SeededSource(b"0" * 32))
    assert np.abs(result.update.flatten()).max() > 0


def test_a_site_finds_its_own_texts_among_those_that_the_job_calls_public(
    session: ModelSession, make_text_job: JobMaker
) -> None:
    job, told = make_text_job(public__digests=(text_digest(TEXTS[0]),)), list[str]()
    records = [Record(text=text) for text in TEXTS]
    session.prepare_fitting(records, job, tell=told.append)
    assert [line.partition(" of the records")[0] for line in told] == ["1"]
    session.prepare_fitting(records, override(job, {"lora.factors": "svd"}), tell=told.append)
    assert len(told) == 1


def test_public_texts_are_cut_where_long_records_are_refused(session: ModelSession, make_text_job: JobMaker) -> None:
    small = make_text_job(task__max_tokens=8)
    refusing = make_text_job(task__max_tokens=8, task__too_long="refuse")
    assert session.initial_adapter(refusing) == session.initial_adapter(small)


@pytest.mark.parametrize("kind", ["lm", "instruct"])
def test_public_texts_are_taken_as_the_task_takes_records(
    session: ModelSession, make_text_job: JobMaker, kind: str
) -> None:
    """Those of an instruct task begin as a prompt in the template; so the task bears on the factors."""
    job = make_text_job(task__kind=kind)
    start = session.initial_adapter(job)
    if kind == "instruct":
        assert start != session.initial_adapter(make_text_job(task__kind=kind, task__template="Q {prompt} A"))
    assert all(np.isfinite(tensor).all() for tensor in start.tensors.values())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"task__kind": "classify", "task__labels": ("a", "b")}, "public texts have no labels"),
        ({"federation__rule": "ffa"}, "has no fixed factors of the base"),
    ],
)
def test_a_job_that_cannot_have_them_is_refused(make_text_job: JobMaker, settings: dict[str, Any], what: str) -> None:
    check_fit(make_text_job())
    with pytest.raises(ConfigError, match=what):
        check_fit(make_text_job(**settings))


def test_jobs_with_the_weights_factors_keep_their_digest(make_text_job: JobMaker) -> None:
    """And those with public ones have another for other public texts."""
    old = override(JobConfig(name="test"), {"task.kind": "lm"})
    assert job_digest(old, DIGEST) == job_digest(override(old, {"lora.factors": "svd", "public.written": 9}), DIGEST)
    public = make_text_job()
    assert job_digest(public, DIGEST) != job_digest(override(public, {"public.written": 9}), DIGEST)
    assert job_digest(public, DIGEST) != job_digest(override(public, {"lora.factors": "svd"}), DIGEST)
