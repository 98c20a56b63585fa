"""What a job leaves open is filled in by its task, and what it names stays."""

from typing import Any

import pytest

from yoriai.client.session.task_defaults import head_rate, settled
from yoriai.config import JobConfig, job_digest, job_template, override, parse_job
from yoriai.config.by_task import BY_TASK, LABEL_VECTORS, TEXTS, TEXTS_BY_RULE, TRAINED_HEAD
from yoriai.errors import ConfigError
from yoriai.privacy.job_terms.calibration import calibrated
from yoriai.privacy.job_terms.noise import all_rounds
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import rule_of

CLASSIFY = {"task.kind": "classify", "task.labels": ["a", "b"]}


def job_of(**settings: Any) -> JobConfig:
    return override(JobConfig(name="test"), {key.replace("__", "."): value for key, value in settings.items()})


def classify(**settings: Any) -> JobConfig:
    return override(job_of(**settings), CLASSIFY)


def value(job: JobConfig, key: str) -> Any:
    table, setting = key.split(".")
    return getattr(getattr(job, table), setting)


def test_a_classify_job_trains_a_head_unless_it_names_a_rule() -> None:
    assert settled(classify()).trains_head
    assert rule_of(settled(classify())).name == "head"
    named = settled(classify(federation__rule="core"))
    assert (named.trains_head, named.task.head, rule_of(named).name) == (False, "labels", "core")
    assert settled(classify(federation__rule="core", task__head="trained")).trains_head


def test_a_stored_job_for_texts_keeps_the_weights_factors() -> None:
    """An earlier version wrote all of its settings into the file, the rule among them, and none of factors."""
    assert settled(job_of(task__kind="lm", federation__rule="core")).lora.factors == "svd"
    assert settled(job_of(task__kind="lm")).lora.factors == "public"


def test_a_job_that_is_not_settled_trains_no_head() -> None:
    """Jobs that an earlier version stored say nothing of heads."""
    assert not classify().trains_head


@pytest.mark.parametrize(
    ("settings", "defaults"),
    [
        (CLASSIFY, TRAINED_HEAD),
        (CLASSIFY | {"task.head": "labels"}, LABEL_VECTORS),
        (CLASSIFY | {"federation.rule": "ffa"}, LABEL_VECTORS),
        ({"task.kind": "lm"}, TEXTS),
        ({"task.kind": "instruct"}, TEXTS),
        ({"task.kind": "lm", "federation.rule": "core"}, TEXTS_BY_RULE),
        ({"task.kind": "lm", "lora.factors": "svd"}, TEXTS_BY_RULE),
        ({"task.kind": "lm", "federation.rule": "core", "lora.factors": "public"}, TEXTS),
    ],
)
def test_each_task_has_its_defaults(settings: dict[str, object], defaults: dict[str, object]) -> None:
    job = settled(override(JobConfig(name="test"), settings))
    assert {key: value(job, key) for key in defaults} == dict(defaults)
    assert set(defaults) <= BY_TASK


def test_no_rate_stands_beside_one_that_the_job_or_its_rule_has() -> None:
    rate = {"federation.rule": "core", "federation.server_learning_rate": 0.5}
    for settings in (rate, {"federation.rule": "core", "federation.server_optimizer": "momentum"}):
        federation = settled(override(JobConfig(name="test"), CLASSIFY | settings)).federation
        assert federation.server_learning_rate_without_noise is None
    assert settled(classify(federation__rule="flora")).federation.server_learning_rate_without_noise is None


def test_what_a_job_names_stays_though_it_is_the_general_default() -> None:
    plain = JobConfig(name="test")
    named = {key: value(plain, key) for key in TRAINED_HEAD} | {"federation.server_learning_rate": 0.01}
    job = settled(classify(**{key.replace(".", "__"): setting for key, setting in named.items()}))
    assert {key: value(job, key) for key in named} == named


def test_settled_again_a_job_stays_the_same() -> None:
    once = settled(classify(), sites=5, units=1000)
    assert settled(once, sites=2, units=10) == once


def test_a_kind_that_records_decide_settles_nothing() -> None:
    assert settled(job_of()) == job_of()


def test_a_head_steps_the_further_the_less_noise_there_is() -> None:
    def rate(units: int = 1500, **settings: Any) -> float:
        given = {"training.sampling_rate": 1.0, "task.head": "trained", "federation.rounds": 20, **settings}
        job = override(classify(), {key.replace("__", "."): setting for key, setting in given.items()})
        return head_rate(job, sites=5, units=units)

    shared = {"privacy__noise": "distributed", "federation__min_sites": 5, "training__records_per_weight": 300}
    rates = [rate(privacy__epsilon=epsilon) for epsilon in (1.0, 3.0, 8.0)]
    assert rates == sorted(set(rates))
    assert rate(privacy__noise="none") == 8.0  # 160 over 20 rounds.
    assert rates[2] < rate(**shared, privacy__epsilon=8.0) < 8.0
    assert rate(units=150_000) > rate(units=1500) > rate(units=150)


def test_a_heads_step_by_hand() -> None:
    """One site: the deviation of all rounds' noise in a mean gradient is the multiplier over √rounds · N."""
    job = settled(classify(privacy__epsilon=8.0))
    multiplier = calibrated(job, n_params=len(job.task.labels) * job.head.features, sites=1)
    assert multiplier is not None
    for deviation, steps in ((1e-3, 35.0), (16e-3, 35.0 / 8), (1.0, 2.5), (1e-6, 160.0)):
        units = round(multiplier / all_rounds(job) ** 0.5 / deviation)
        found = head_rate(job, sites=1, units=max(1, units)) * job.federation.rounds
        assert found == pytest.approx(steps, rel=0.04)  # Two digits of the rate stand in a job; units are whole.


def test_a_head_that_trains_goes_with_classify_alone() -> None:
    for kind in ("lm", "instruct"):
        with pytest.raises(ConfigError, match=f"task.head = trained with task.kind = {kind}"):
            check_fit(job_of(task__kind=kind, task__head="trained"))


def test_a_rule_that_would_do_nothing_beside_a_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"federation.rule = fedsvd with task.head = trained"):
        check_fit(classify(federation__rule="fedsvd", task__head="trained", federation__server_optimizer="none"))


def test_the_template_leaves_open_what_the_task_decides() -> None:
    read = override(parse_job(job_template()), CLASSIFY)
    assert settled(read) == settled(classify(name="my-job"))


def test_settings_of_heads_are_no_part_of_another_jobs_digest() -> None:
    """So that runs of before there were heads are resumed."""
    digest = "0" * 128
    old = classify(federation__rule="core")
    assert job_digest(old, digest) == job_digest(override(old, {"head.words": 7, "public.written": 9}), digest)
    assert job_digest(old, digest) == job_digest(override(old, {"task.head": "labels"}), digest)
    trained = override(old, {"task.head": "trained"})
    assert job_digest(trained, digest) != job_digest(override(trained, {"head.words": 7}), digest)
