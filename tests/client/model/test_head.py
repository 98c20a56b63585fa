"""A head that trains: what it reads, what a record's gradient is, and what no record may change for another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.client.conftest import LABELS, JobMaker
from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.pieces import Rows
from yoriai.client.base.states import FrozenStates, places
from yoriai.client.model.conditioning import conditioning
from yoriai.client.model.head_model import TEMPERATURE, HeadModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.records.records import Record
from yoriai.client.session.export import save_adapter
from yoriai.client.session.loading import load
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import AcceptedJob, Round, training_plan
from yoriai.client.site.round_trainer import RoundTrainer, SiteHooks
from yoriai.client.training.evaluate import evaluate
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.train import LocalUpdate, train_round
from yoriai.config import JobConfig
from yoriai.errors import AdapterError, BaseModelError, ConfigError, RecordError, TrainingError
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.job_terms.noise import LocalNoise, NoNoise
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import rule_of

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")

RECORDS = [
    Record(prompt=prompt, response=LABELS[n % 3], owner=f"owner {n % 2}")
    for n, prompt in enumerate(["cab rattles", "engine smokes badly", "pump leaks", "door", "no start again today"])
]


@pytest.fixture
def make_head_job(make_job: JobMaker) -> JobMaker:
    """A job whose head trains, small enough for the tiny base."""

    def make(**settings: Any) -> JobConfig:
        small: dict[str, Any] = {
            "task__head": "trained",
            "head__states": ("last", "mean:2"),
            "head__directions": 8,
            "head__words": 32,
            "training__sampling_rate": 1.0,
            "federation__server_optimizer": "none",
        }
        return make_job(**{**small, **settings})

    return make


@pytest.fixture
def job(make_head_job: JobMaker) -> JobConfig:
    return make_head_job()


def started(session: ModelSession, job: JobConfig, seed: int = 1) -> AdapterState:
    """The job's first factors, with a head that is not zero."""
    first = session.initial_adapter(job)
    head = first.tensors["head:H"]
    moved = np.random.default_rng(seed).normal(size=head.shape).astype(np.float32)
    return AdapterState({**first.tensors, "head:H": moved})


def plan_of(job: JobConfig) -> Any:
    return training_plan(job, 0, weight=1, noise=LocalNoise(1.0), physical_batch_size=4)


class Collected:
    """Takes units' clipped gradients one by one."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        self.rows += list(rows.copy())


def gradients(session: ModelSession, job: JobConfig, records: Sequence[Record]) -> list[np.ndarray]:
    """Each unit's clipped gradient."""
    model, collected = session.model(job), Collected()
    prepared = session.prepare(records, job)
    at = RoundGradients.at(model, started(session, job), prepared, session.head(job), plan_of(job))
    at.batch(SeededSource(b"draw"), rows=collected)
    return collected.rows


# What is read.


@pytest.mark.parametrize("names", [("last",), ("mean:1",), ("mean:4", "last"), ("mean",)])
def test_states_are_those_that_the_base_itself_gives(base: BaseModel, names: tuple[str, ...]) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 0, 0], [9, 3, 4, 2, 6, 7]])
    lengths = torch.tensor([4, 6])
    found = FrozenStates(base, places(names, 4))(ids, lengths)
    for row in range(2):
        alone = ids[row : row + 1, : lengths[row]]
        with torch.no_grad():
            output = base.model.model(input_ids=alone, output_hidden_states=True)
        expected = []
        for name in names:
            layer = {"mean:1": 1, "mean:4": 4, "mean": 3}.get(name)
            if layer == 4:  # transformers lists the last layer's states after the norm.
                continue
            expected.append(
                output.last_hidden_state[0, -1] if layer is None else output.hidden_states[layer][0].mean(0)
            )
        width = base.width
        parts = [found[row, i * width : (i + 1) * width] for i, name in enumerate(names) if name != "mean:4"]
        for part, wanted in zip(parts, expected, strict=True):
            torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_that_the_base_does_not_have_is_refused(session: ModelSession, make_head_job: JobMaker) -> None:
    with pytest.raises(BaseModelError, match=r"mean:9.*mean:1 to mean:4"):
        session.model(make_head_job(head__states=("mean:9",)))


def test_conditioned_public_states_vary_alike_along_every_direction() -> None:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(400, 12)) @ np.diag(10.0 ** np.linspace(-2, 2, 12)) + 5
    mean, onto = conditioning(states, 6)
    conditioned = (states - mean) @ onto.T
    np.testing.assert_allclose(conditioned.mean(0), 0, atol=1e-3)
    assert np.ptp(conditioned.var(0)) < 0.2


def test_more_directions_than_the_public_texts_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"9 directions.*at most 8.*lower it"):
        conditioning(np.ones((20, 8)), 9)
    with pytest.raises(ConfigError, match=r"at most 4.*more public texts"):
        conditioning(np.ones((5, 8)), 6)


def test_what_the_head_reads_of_a_record_has_norm_one_at_most(session: ModelSession, job: JobConfig) -> None:
    model = session.model(job)
    assert isinstance(model, HeadModel)
    model.load(started(session, job))
    (batch,) = session.prepare(RECORDS, job).batches(range(5), 5)
    kept: list[torch.Tensor] = []
    hook = model.tail.score.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    model.tail(batch.entering)
    hook.remove()
    norms = kept[0].detach().norm(dim=1)
    torch.testing.assert_close(kept[0], batch.entering[:, 0])
    assert float(norms.max()) <= 1 + 1e-6
    assert float(norms.min()) > 0.9  # Each part is there, the words too.


def test_equal_tokens_with_other_words_have_states_of_their_own(session: ModelSession, make_head_job: JobMaker) -> None:
    """Where a long prompt is cut, its words still tell records apart."""
    job = make_head_job(task__max_tokens=24)
    records = [Record(prompt="x " * 40 + word, response="pump") for word in ("red", "blue")]
    prepared = session.prepare(records, job)
    assert prepared.examples[0].token_ids.tobytes() == prepared.examples[1].token_ids.tobytes()
    (batch,) = prepared.batches([0, 1], 2)
    assert not torch.equal(*batch.entering)


# Gradients.


def test_the_first_round_sums_features_by_label(session: ModelSession, make_head_job: JobMaker) -> None:
    job = make_head_job(privacy__noise="none", training__sampling_rate=1.0, training__local_steps=1)
    state, prepared = session.initial_adapter(job), session.prepare(RECORDS, job)
    assert not state.tensors["head:H"].any()
    model = session.model(job)
    plan = training_plan(job, 0, weight=1, noise=NoNoise(), physical_batch_size=8)
    total = RoundGradients.at(model, state, prepared, session.head(job), plan).batch(SeededSource(b"x"))
    (batch,) = prepared.batches(range(5), 5)
    sums = functional.one_hot(batch.labels, 3).T.float() @ batch.entering[:, 0]
    np.testing.assert_allclose(-total.flat().reshape(3, -1), sums, atol=1e-6)


def test_a_records_gradient_is_the_error_times_what_is_read(session: ModelSession, make_head_job: JobMaker) -> None:
    job = make_head_job(privacy__clip_norm=100.0)
    rows = gradients(session, job, RECORDS)
    model, state = session.model(job), started(session, job)
    (batch,) = session.prepare(RECORDS, job).batches(range(5), 5)
    model.load(state)
    kept: list[torch.Tensor] = []
    hook = model.tail.score.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        logits = model.tail(batch.entering)
    hook.remove()
    error = logits.softmax(1) - functional.one_hot(batch.labels, 3)
    expected = -torch.einsum("nl,nd->nld", error, kept[0]).flatten(1).numpy()
    found = -np.stack(rows)
    order = [int(np.abs(found - row).sum(1).argmin()) for row in expected]
    assert sorted(order) == list(range(5))
    np.testing.assert_allclose(found[order], expected, rtol=1e-3, atol=1e-5)
    assert np.linalg.norm(found, axis=1).max() <= 2**0.5 + 1e-6


def test_no_bit_of_a_records_gradient_depends_on_the_others(session: ModelSession, job: JobConfig) -> None:
    whole = {row.tobytes() for row in gradients(session, job, RECORDS)}
    assert len(whole) == len(RECORDS)
    for left_out in range(len(RECORDS)):
        fewer = [record for i, record in enumerate(RECORDS) if i != left_out]
        assert {row.tobytes() for row in gradients(session, job, fewer)} < whole


def test_an_owners_gradient_is_clipped_as_one(session: ModelSession, make_head_job: JobMaker) -> None:
    rows = gradients(session, make_head_job(privacy__unit="owner", privacy__clip_norm=0.5), RECORDS)
    assert len(rows) == 2
    np.testing.assert_allclose([np.linalg.norm(row) for row in rows], 0.5, rtol=1e-6)


def test_records_that_were_read_under_another_jobs_conditioning_are_read_again(
    session: ModelSession, job: JobConfig
) -> None:
    model, prepared, state = session.model(job), session.prepare(RECORDS, job), started(session, job)

    def read(state: AdapterState) -> torch.Tensor:
        model.load(state)
        return next(prepared.batches([0, 1], 2)).entering

    other = AdapterState({n: t * 2 if n.endswith("M") else t for n, t in state.tensors.items()})
    first, second, again = read(state), read(other), read(state)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_an_equal_record_is_read_once_whoever_has_it(
    session: ModelSession, job: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows, read = session.model(job), list[int](), HeadModel.read
    model.load(started(session, job))

    def counted(self: HeadModel, entering: torch.Tensor) -> torch.Tensor:
        rows.append(len(entering))
        return read(self, entering)

    monkeypatch.setattr(HeadModel, "read", counted)
    for records in (RECORDS, RECORDS[1:]):
        list(session.prepare(records, job).batches(range(len(records)), 8))
    assert sum(rows) == len(RECORDS)


def test_states_that_are_not_kept_are_the_same_ones(session: ModelSession, job: JobConfig) -> None:
    model, prepared = session.model(job), session.prepare(RECORDS, job)
    anew = PreparedRecords(model, prepared.examples, known=None)
    for records in ([0, 1, 2, 3, 4], [3], [4, 1]):
        ((kept,), (made,)) = (list(found.pieces(records, lambda _shape: Rows(8))) for found in (prepared, anew))
        assert torch.equal(kept.batch.entering, made.batch.entering)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of texts of each pass of the base."""
    seen: list[int] = []
    read = FrozenStates.__call__

    def counted(self: FrozenStates, token_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        seen.append(len(lengths))
        return read(self, token_ids, lengths)

    monkeypatch.setattr(FrozenStates, "__call__", counted)
    return seen


def test_the_base_runs_once_a_record_however_many_rounds(
    session: ModelSession, job: JobConfig, passes: list[int]
) -> None:
    model, state = session.model(job), started(session, job)
    prepared = session.prepare(RECORDS, job)
    model.check_output()  # As before each round; its public tokens pass once.
    assert sum(passes) >= len(RECORDS)
    passes.clear()
    for round_index in range(3):
        model.check_output()
        train_round(model, state, prepared, session.head(job), plan_of(job), source=SeededSource(bytes([round_index])))
    assert passes == []


def test_a_heads_rounds_and_measurements_wake_no_second_thread(
    session: ModelSession, job: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cores would wait for each other in each small operation, next to other work for most of the time."""
    model, unused, seen = session.model(job), cast(Any, None), list[int]()
    load, before = model.load, torch.get_num_threads()

    def note(*_: object) -> None:
        seen.append(torch.get_num_threads())

    def train(*_: object) -> LocalUpdate:
        note()
        return LocalUpdate(session.initial_adapter(job).select({"H"}), None)

    def loading(state: AdapterState) -> None:
        note()
        load(state)

    monkeypatch.setattr(model, "load", loading)
    accepted = AcceptedJob("run", job, model, unused, unused, unused, 1, NoNoise(), offer=unused)
    prepared, head = session.prepare(RECORDS, job), session.head(job)
    torch.set_num_threads(2)
    try:
        RoundTrainer("north", unused, SiteHooks(check=note, train=train)).train(
            Round(accepted, 0, unused, unused, None)
        )
        evaluate(model, started(session, job), prepared, head, physical_batch_size=8)
        assert (seen, torch.get_num_threads()) == ([1, 1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_rounds_are_checked_with_one_pass_of_the_base_and_still_checked(
    session: ModelSession, job: JobConfig, passes: list[int]
) -> None:
    model = session.model(job)
    model.load(started(session, job))
    passes.clear()
    model.check_output()
    model.check_output()
    assert len(passes) == 1
    with torch.no_grad():
        model.factor_parameters()["head:H"].fill_(1e38)
    with pytest.raises(TrainingError, match="before any record is looked at"):
        model.check_output()


def test_training_without_noise_learns_its_records(session: ModelSession, make_head_job: JobMaker) -> None:
    job = make_head_job(privacy__noise="none", training__learning_rate=2.0, training__local_steps=40)
    model, state = session.model(job), session.initial_adapter(job)
    prepared = session.prepare(RECORDS, job)
    plan = training_plan(job, 0, weight=1, noise=NoNoise(), physical_batch_size=8)
    update = train_round(model, state, prepared, session.head(job), plan, source=SeededSource(b"x")).update
    model.load(state.merged_with(AdapterState({"head:H": state.tensors["head:H"] + update.tensors["head:H"]})))
    (batch,) = prepared.batches(range(5), 5)
    head = session.head(job)
    with torch.no_grad():
        tally = head.tally(head.hidden(model, batch), batch)
    assert tally.accuracy == 1.0
    assert tally.loss < float(np.log(3))
    mean = float(head.losses(head.hidden(model, batch), batch).detach().mean())
    assert mean == pytest.approx(TEMPERATURE * tally.loss, rel=1e-3)


# What comes from elsewhere.


@pytest.mark.parametrize("fault", ["lacks a part", "another shape", "not finite", "too large", "one part more"])
def test_a_state_that_is_not_the_jobs_is_refused(session: ModelSession, job: JobConfig, fault: str) -> None:
    fit = dict(session.initial_adapter(job).tensors)
    changed = {
        "lacks a part": {name: t for name, t in fit.items() if name != "head.last:M"},
        "another shape": fit | {"head:H": fit["head:H"][:, 1:]},
        "not finite": fit | {"head.last:D": np.full_like(fit["head.last:D"], np.inf)},
        "too large": fit | {"head:H": np.full_like(fit["head:H"], 1e7)},
        "one part more": fit | {"head.mean-1:M": fit["head.last:M"]},
    }[fault]
    for check in (session.model(job).check, lambda state: session.check_adapter(job, state)):
        with pytest.raises(AdapterError):
            check(AdapterState(changed))
    session.check_adapter(job, AdapterState(fit))


def test_the_sum_of_heads_moves_the_head_alone(session: ModelSession, job: JobConfig) -> None:
    rule, state = rule_of(job), started(session, job)
    update = AdapterState({"head:H": np.ones_like(state.tensors["head:H"])})
    after = rule.combine(state, update, 0)  # type: ignore[union-attr]
    np.testing.assert_array_equal(after.tensors["head:H"], state.tensors["head:H"] + 1)
    assert all(after.tensors[name] is state.tensors[name] for name in state.tensors if name != "head:H")
    with pytest.raises(AdapterError):
        rule.combine(state, state, 0)  # type: ignore[union-attr]


# Saved and loaded.


@pytest.mark.parametrize("head", ["trained", "labels"])
def test_a_saved_folder_predicts_what_the_session_does(
    base_folder: Path, make_head_job: JobMaker, tmp_path: Path, head: str
) -> None:
    from yoriai.client.base.base_model import load_base
    from yoriai.config import SpeedSection

    session = ModelSession(load_base(str(base_folder), device=torch.device("cpu")), SpeedSection(threads=1))
    job = make_head_job(task__head=head)
    state = started(session, job) if head == "trained" else _moved(session.initial_adapter(job))
    save_adapter(session, job, state, tmp_path / "adapter")
    model, task_head = session.model(job), session.head(job)
    model.load(state)
    expected = []
    for batch in session.prepare(RECORDS, job).batches(range(5), 1):
        hidden = task_head.hidden(model, batch)
        logits = hidden if head == "trained" else task_head.logits(hidden)  # type: ignore[attr-defined]
        expected.append(logits.detach().softmax(1))
    session.close()
    loaded = load(tmp_path / "adapter", device="cpu")
    prompts = [record.prompt or "" for record in RECORDS]
    by_length = sorted(
        range(5), key=lambda i: (len(session.encode(RECORDS[i : i + 1], job.task).examples[0].token_ids), i)
    )
    found = loaded.probabilities([prompts[i] for i in by_length])
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-3, atol=1e-4)
    assert loaded.predict(prompts) == [LABELS[int(i)] for i in loaded.probabilities(prompts).argmax(1)]
    assert loaded.predict([]) == []


def _moved(state: AdapterState) -> AdapterState:
    generator = np.random.default_rng(0)
    return AdapterState(
        {n: t + 0.3 * generator.normal(size=t.shape).astype(np.float32) for n, t in state.tensors.items()}
    )


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text("[]")
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(AdapterError, match=r"task\.json does not say"):
            load(folder)


def test_public_texts_are_cut_even_where_long_records_are_refused(base: BaseModel, make_head_job: JobMaker) -> None:
    """A job of short records could not be prepared otherwise: some texts that come with Yoriai are longer."""
    session = ModelSession(base, make_head_job().speed)
    cut, refused = (
        session.initial_adapter(make_head_job(task__max_tokens=24, task__too_long=what)) for what in ("cut", "refuse")
    )
    assert cut.digest() == refused.digest()
    with pytest.raises(RecordError, match="longer than 24 tokens"):
        session.prepare(
            [Record(prompt="x" * 30, response=LABELS[0])], make_head_job(task__max_tokens=24, task__too_long="refuse")
        )
