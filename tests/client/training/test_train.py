"""One round at one site: the private step against loops over single records, its noise, and what it may see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, Attach, JobMaker, start_for
from tests.client.rounds import GRAIN, PLAN, CountingSource, NoLoss, SpoiltLoss, examples, label_head, prepared, update
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import training_plan
from yoriai.client.training.train import train_round
from yoriai.errors import AdapterError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.dpsgd import ClippedGradientSum
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.job_terms.noise import LocalNoise, NoNoise
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.lowpass import lowpass
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

RULES = ("core", "fedavg", "ffa")


@pytest.mark.parametrize("rule", RULES)
def test_the_private_step_is_that_of_a_loop_over_single_records(attach: Attach, rule: str) -> None:
    model = attach(rule)
    records, head, start = prepared(model), label_head(), start_for(model, rule)
    model.load(start)
    model.set_trainable(get_rule(rule).trainable(0))
    parameters = [p for _, p in sorted(model.factor_parameters().items()) if p.requires_grad]
    rows = []
    for index in range(len(records)):
        (batch,) = records.batches([index], 1)
        gradients = torch.autograd.grad(head.losses(head.hidden(model, batch), batch).sum(), parameters)
        row = torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
        rows.append(row * min(1.0, PLAN.clip_norm / np.linalg.norm(row)))
        assert np.linalg.norm(row) > 0
    found = update(model, rule, PLAN)
    np.testing.assert_allclose(found, -np.sum(rows, axis=0), rtol=1e-3, atol=GRAIN)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 3])
def test_physical_pieces_change_neither_the_update_nor_the_number_of_draws(
    attach: Attach, rule: str, size: int
) -> None:
    model, source = attach(rule), CountingSource(silent=True)
    whole = update(model, rule, replace(PLAN, local_steps=2))
    plan = replace(PLAN, local_steps=2, physical_batch_size=size)
    np.testing.assert_allclose(update(model, rule, plan, source=source), whole, rtol=1e-3, atol=GRAIN)
    assert source.gaussians == [whole.size] * 2


@pytest.mark.parametrize("rule", RULES)
def test_dropping_a_record_moves_the_update_by_at_most_the_clip_norm(attach: Attach, rule: str) -> None:
    model = attach(rule)
    whole = update(model, rule, PLAN)
    all_examples = examples()
    moved = [
        np.linalg.norm(
            whole - update(model, rule, PLAN, records=prepared(model, all_examples[:i] + all_examples[i + 1 :]))
        )
        for i in range(len(all_examples))
    ]
    assert PLAN.clip_norm * 0.99 < max(moved) <= PLAN.clip_norm * (1 + 1e-4)


def test_the_noise_has_the_declared_deviation_and_no_other(attach: Attach) -> None:
    model = attach("fedavg", rank=16, layers="all", target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj"))
    plan = replace(PLAN, clip_norm=0.5, noise=LocalNoise(3.0), divisor=10.0, learning_rate=2.0)
    zero_start = get_rule("fedavg").initial(model.maps, model.rank, 0)
    noise = update(model, "fedavg", plan, head=NoLoss(), source=SeededSource(b"sigma"), start=zero_start).astype(float)
    expected = 2.0 * 3.0 * 0.5 / 10.0
    assert noise.size > 15_000

    def fits(deviation: float) -> bool:
        # A sum of n squares over sigma² has standard deviation sqrt(2 n).
        return abs(float((noise**2).sum()) / deviation**2 - noise.size) < 5 * np.sqrt(2 * noise.size)

    assert fits(expected)
    assert not fits(expected * 2 / 3)
    assert not fits(expected * 3 / 2)
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)


def test_noise_is_never_used_twice(attach: Attach) -> None:
    model, source = attach("core"), SeededSource(b"twice")
    first = update(model, "core", PLAN, head=NoLoss(), source=source)
    second = update(model, "core", PLAN, head=NoLoss(), source=source)
    assert not set(first.tolist()) & set(second.tolist())


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_batch_is_noised_and_charged(attach: Attach, count: int) -> None:
    model, source = attach("core"), CountingSource()
    plan = replace(PLAN, sampling_rate=1e-9)
    records = prepared(model, examples(count))
    done = train_round(model, start_for(model, "core"), records, label_head(), plan, source=source)
    assert done.update.flatten().all()
    assert len(source.gaussians) == 1
    assert done.event == SampledGaussian(1e-9, 1.0, 1) == plan.event()


def test_the_event_counts_the_steps_that_were_released(attach: Attach) -> None:
    model = attach("core")
    plan = replace(PLAN, local_steps=3, sampling_rate=0.5)
    done = train_round(model, start_for(model, "core"), prepared(model), label_head(), plan, source=CountingSource())
    assert done.event == SampledGaussian(0.5, 1.0, 3)


def test_without_privacy_nothing_is_clipped_noised_or_charged(attach: Attach) -> None:
    model, source = attach("core"), CountingSource()
    plan = replace(PLAN, noise=NoNoise())
    done = train_round(model, start_for(model, "core"), prepared(model), label_head(), plan, source=source)
    assert done.event is None
    assert plan.event() is None
    assert not source.gaussians
    assert np.linalg.norm(done.update.flatten()) > len(examples()) * PLAN.clip_norm


@pytest.mark.parametrize("rule", RULES)
def test_equal_seeds_give_equal_updates_to_the_bit(attach: Attach, rule: str) -> None:
    model = attach(rule)
    plan = replace(PLAN, local_steps=3, sampling_rate=0.5, optimizer="adam", learning_rate=0.01)
    first, again, other = (update(model, rule, plan, source=SeededSource(seed)) for seed in (b"a", b"a", b"b"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [2, 64])
def test_the_prefix_cache_changes_no_update(attach: Attach, rule: str, size: int) -> None:
    model = attach(rule)
    plan = replace(PLAN, physical_batch_size=size, local_steps=2)
    cached = update(model, rule, plan)
    np.testing.assert_allclose(
        cached, update(model, rule, plan, records=prepared(model, cache=False)), rtol=1e-3, atol=GRAIN
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_map_moves_after_one_step(attach: Attach, rule: str) -> None:
    model = attach(rule)
    plan = replace(PLAN, factors=get_rule(rule).trainable(0), noise=NoNoise())
    done = train_round(model, start_for(model, rule), prepared(model), label_head(), plan, source=CountingSource())
    assert {name.rsplit(":", 1)[1] for name in done.update.tensors} == set(plan.factors)
    assert all(np.abs(tensor).max() > 0 for tensor in done.update.tensors.values())


def test_factors_that_alternate_between_rounds_train_as_if_alone(attach: Attach) -> None:
    model = attach("fedavg")
    start = start_for(model, "fedavg")

    def trained(factors: tuple[str, ...]) -> AdapterState:
        plan = replace(PLAN, factors=factors)
        return train_round(model, start, prepared(model), label_head(), plan, source=CountingSource(silent=True)).update

    alternating = [trained(("B",)), trained(("A",)), trained(("B",)), trained(("A", "B"))]
    assert [state.factors() for state in alternating] == [("B",), ("A",), ("B",), ("A", "B")]
    assert alternating[0] == alternating[2]
    model = attach("fedavg")
    assert trained(("A",)) == alternating[1]
    assert not np.array_equal(alternating[3].select("A").flatten(), alternating[1].flatten())  # Clipped together.


def test_a_round_that_broke_off_does_not_spoil_the_next(attach: Attach) -> None:
    """A forward pass without its backward must not stay anywhere."""
    model = attach("core")
    expected = update(model, "core", PLAN)
    with pytest.raises(TrainingError, match="not a number"):
        update(model, "core", replace(PLAN, noise=NoNoise()), head=SpoiltLoss(label_head(), 0))
    np.testing.assert_array_equal(update(model, "core", PLAN), expected)


def test_everything_stays_in_evaluation_mode_and_the_core_alone_trains(attach: Attach) -> None:
    model = attach("core")
    update(model, "core", PLAN)
    assert not [name for name, module in model.peft_model.named_modules() if module.training]
    trainable = {name for name, p in model.peft_model.named_parameters() if p.requires_grad}
    assert all(name.endswith("lora_B.default.R.weight") for name in trainable)
    assert all(p.grad is None for p in model.peft_model.parameters())


def test_without_privacy_a_loss_that_is_not_a_number_stops_the_round(attach: Attach) -> None:
    with pytest.raises(TrainingError, match="not a number"):
        update(attach("core"), "core", replace(PLAN, noise=NoNoise()), head=SpoiltLoss(label_head(), 1))


def test_under_privacy_a_record_whose_loss_is_not_a_number_counts_as_zero(attach: Attach) -> None:
    """A refusal would tell, free of charge, that the record was in the batch."""
    model = attach("core")
    others = tuple(example for example in examples() if example.label != 1)
    np.testing.assert_allclose(
        update(model, "core", PLAN, head=SpoiltLoss(label_head(), 1)),
        update(model, "core", PLAN, records=prepared(model, others)),
        rtol=1e-3,
        atol=GRAIN,
    )


def test_an_update_that_is_not_finite_is_not_handed_out(attach: Attach) -> None:
    with pytest.raises(TrainingError, match="diverged"):
        update(attach("core"), "core", replace(PLAN, learning_rate=1e38, clip_norm=100.0), source=SeededSource(b""))


def test_a_start_of_other_shapes_is_refused_before_it_is_broadcast(attach: Attach) -> None:
    model = attach("core")
    start = start_for(model, "core")
    name = next(name for name in start.tensors if name.endswith(":R"))
    with pytest.raises(AdapterError, match="not those of this base"):
        update(model, "core", PLAN, start=AdapterState({**start.tensors, name: start.tensors[name][:1]}))


def test_the_clip_spans_all_trainable_factors_together(attach: Attach) -> None:
    model = attach("fedavg")
    one = update(model, "fedavg", PLAN, records=prepared(model, examples(1)))
    assert np.linalg.norm(one) == pytest.approx(PLAN.clip_norm, rel=1e-4)


def test_adam_steps_by_the_learning_rate(attach: Attach) -> None:
    model = attach("core")
    plan = replace(PLAN, optimizer="adam", learning_rate=0.01)
    moved = np.abs(update(model, "core", plan, source=SeededSource(b"adam")))
    np.testing.assert_allclose(moved, 0.01, rtol=1e-3)


def test_adam_keeps_nothing_from_one_round_to_the_next(attach: Attach) -> None:
    model = attach("core")
    plan = replace(PLAN, optimizer="adam", learning_rate=0.01, local_steps=2)
    np.testing.assert_array_equal(update(model, "core", plan), update(model, "core", plan))


def test_golden_update_of_the_tiny_model(attach: Attach) -> None:
    """The same on every machine to float tolerance; it changes only when the loop, the noise or the model does."""
    plan = replace(PLAN, local_steps=3, sampling_rate=0.5, divisor=3.0, learning_rate=0.5)
    found = update(attach("core"), "core", plan, source=SeededSource(b"golden"))
    assert found.size == 6 * 4 * 4
    golden = [1.218892, -0.004745, -0.013334]
    np.testing.assert_allclose([np.abs(found).sum(), found[0], found[-1]], golden, rtol=2e-3)


def test_plan_and_draws_do_not_depend_on_the_records(make_job: JobMaker, session: ModelSession) -> None:
    """Neighbouring data sets: the same plan, the same event, the same noise; only the secret sample differs."""
    job = make_job(training__records_per_weight=7, training__local_steps=2)
    plan = training_plan(job, 0, weight=3, noise=LocalNoise(1.5), physical_batch_size=8)
    assert plan.divisor == 0.5 * 3 * 7
    assert plan.event() == SampledGaussian(0.5, 1.5, 2)
    model, start = session.model(job), session.initial_adapter(job)
    records = [Record(prompt=f"record {n}", response=LABELS[n % 3]) for n in range(5)]
    draws, norms = [], []
    for chosen in (records, records[:-1]):
        source = CountingSource()
        done = train_round(model, start, session.prepare(chosen, job), NoLoss(), plan, source=source)
        draws.append(source.gaussians)
        norms.append(float(np.linalg.norm(done.update.flatten())))
        assert done.event == plan.event()
    assert draws[0] == draws[1]
    assert norms[0] == pytest.approx(norms[1], rel=0.3)


def test_the_divisor_is_the_plans(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach("core")
    halved = update(model, "core", replace(PLAN, divisor=2.0))
    np.testing.assert_allclose(2 * halved, update(model, "core", PLAN), rtol=1e-3, atol=GRAIN)
    monkeypatch.setattr(ClippedGradientSum, "flat", lambda self: np.ones(self._sum.numel()))
    np.testing.assert_allclose(update(model, "core", replace(PLAN, divisor=4.0)), -0.25, rtol=1e-6)


def start_vector(model: AdaptedModel, rule: str) -> np.ndarray:
    return start_for(model, rule).select(get_rule(rule).trainable(0)).flatten()


def test_fedprox_pulls_the_second_step_back_by_mu_times_the_first(attach: Attach) -> None:
    """With a zero gradient and equal noise: -n1, then -(n2 + mu · (-n1)), so mu · n1 less far."""
    model, plan = attach("core"), replace(PLAN, local_steps=2)
    free = update(model, "core", plan, head=NoLoss(), source=SeededSource(b"prox"))
    pulled = update(model, "core", replace(plan, proximal_mu=0.5), head=NoLoss(), source=SeededSource(b"prox"))
    first = update(model, "core", PLAN, head=NoLoss(), source=SeededSource(b"prox"))
    source = SeededSource(b"prox")
    source.uniform(len(examples()))
    np.testing.assert_allclose(first, -PLAN.clip_norm * source.gaussian(first.size), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pulled, free - 0.5 * first, rtol=1e-4, atol=1e-6)


def test_fedprox_moves_less_over_several_steps_on_records(attach: Attach) -> None:
    model, plan = attach("core"), replace(PLAN, local_steps=4)
    free, pulled = (update(model, "core", replace(plan, proximal_mu=mu)) for mu in (0.0, 0.5))
    assert np.linalg.norm(pulled) < 0.9 * np.linalg.norm(free)


def test_fedprox_changes_nothing_in_a_single_step(attach: Attach) -> None:
    model = attach("core")
    free, pulled = (update(model, "core", replace(PLAN, proximal_mu=mu)) for mu in (0.0, 7.0))
    np.testing.assert_array_equal(pulled, free)


@pytest.mark.parametrize("rule", ["fedavg", "ffa"])
def test_the_lowpass_filter_comes_after_the_noise(attach: Attach, rule: str) -> None:
    """With a zero gradient the update is the filtered noise; noise added after the filter would not be smooth."""
    model, trained = attach(rule), get_rule(rule).trainable(0)
    source = SeededSource(b"smooth")
    source.uniform(len(examples()))
    start = start_for(model, rule)
    noise = source.gaussian(start_vector(model, rule).size) * PLAN.clip_norm
    rough = start.select(trained).unflatten(noise)
    expected = {name: -lowpass(name, tensor.astype(np.float64)) for name, tensor in rough.tensors.items()}
    found = update(model, rule, replace(PLAN, lowpass=True), head=NoLoss(), source=SeededSource(b"smooth"))
    np.testing.assert_allclose(found, np.concatenate([e.ravel() for e in expected.values()]), rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(found) < 0.7 * np.linalg.norm(noise)


def test_the_lowpass_filter_works_without_privacy_as_well(attach: Attach) -> None:
    model, plan = attach("ffa"), replace(PLAN, noise=NoNoise())
    rough = start_for(model, "ffa").select(("B",)).unflatten(update(model, "ffa", plan))
    smooth = np.concatenate([lowpass(n, t.astype(np.float64)).ravel() for n, t in rough.tensors.items()])
    np.testing.assert_allclose(update(model, "ffa", replace(plan, lowpass=True)), smooth, rtol=1e-3, atol=1e-6)


def test_a_finished_update_is_scaled_down_to_its_bound_and_no_further(attach: Attach) -> None:
    model = attach("core")
    free = update(model, "core", PLAN)
    norm = float(np.linalg.norm(free))
    bounded = update(model, "core", replace(PLAN, update_norm_bound=norm / 4))
    np.testing.assert_allclose(bounded, free / 4, rtol=1e-5)
    assert np.linalg.norm(bounded.astype(float)) <= norm / 4
    np.testing.assert_array_equal(update(model, "core", replace(PLAN, update_norm_bound=norm * 4)), free)


@pytest.mark.parametrize(
    ("schedule", "factors"), [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("cosine", [1, None, 0.5])]
)
def test_the_local_learning_rate_follows_the_schedule(
    make_job: JobMaker, schedule: str, factors: list[float | None]
) -> None:
    job = make_job(training__schedule=schedule, training__learning_rate=0.2, federation__rounds=4)
    for index, factor in enumerate(factors):
        plan = training_plan(job, index, weight=1, noise=LocalNoise(1.0), physical_batch_size=8)
        if factor is not None:
            assert plan.learning_rate == pytest.approx(0.2 * factor)


def test_half_the_learning_rate_halves_the_step(attach: Attach) -> None:
    model = attach("core")
    whole, half = (update(model, "core", replace(PLAN, learning_rate=rate)) for rate in (1.0, 0.5))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-3, atol=1e-7)


def test_the_options_of_the_job_come_into_the_plan(make_job: JobMaker) -> None:
    job = make_job(training__proximal_mu=0.3, training__lowpass=True, federation__update_norm_bound=1.5)
    plan = training_plan(job, 0, weight=1, noise=LocalNoise(1.0), physical_batch_size=8)
    assert (plan.proximal_mu, plan.lowpass, plan.update_norm_bound, plan.rank) == (0.3, True, 1.5, None)
