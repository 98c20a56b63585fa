"""An adapter on test records."""

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, JobMaker, start_for
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.tasks import LabelHead
from yoriai.client.records.encoding import Example
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training import answers as answers_module
from yoriai.client.training import evaluate as module
from yoriai.client.training.answer_scores import chrf, token_f1
from yoriai.client.training.answers import answers, both_answer
from yoriai.client.training.evaluate import evaluate

ORDERS = [Record(prompt=f"{'long ' * (n % 3)}order {n}", response=LABELS[n % 3]) for n in range(7)]
PAIRS = [Record(prompt="ask", response="yes"), Record(prompt="ask more", response="no no no")]


def test_counts_are_those_of_each_record_by_itself(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job()
    model, head, records = session.model(job), session.head(job), session.prepare(ORDERS, job)
    assert isinstance(head, LabelHead)
    adapter = start_for(model, "core")
    tally = evaluate(model, adapter, records, head, physical_batch_size=3)
    losses, right = [], 0
    with torch.no_grad():
        for index in range(len(records)):
            (batch,) = records.batches([index], 1)
            logits = head.logits(head.hidden(model, batch))[0]
            losses.append(float(torch.nn.functional.cross_entropy(logits, batch.labels[0])))
            right += int(logits.argmax() == batch.labels[0])
    assert (tally.records, tally.correct) == (7, right)
    assert tally.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert tally.hits is not None
    assert int(tally.hits.sum()) == right


@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_batch_size_changes_no_count(session: ModelSession, make_job: JobMaker, size: int) -> None:
    job = make_job()
    model = session.model(job)
    records = session.prepare(ORDERS, job)
    tallies = [
        evaluate(model, start_for(model, "core"), records, session.head(job), physical_batch_size=n) for n in (3, size)
    ]
    assert tallies[0].hits is not None
    assert tallies[1].hits is not None
    assert tallies[0].hits.tolist() == tallies[1].hits.tolist()
    assert tallies[0].loss == pytest.approx(tallies[1].loss, rel=1e-5)


def test_measuring_leaves_no_gradient_and_keeps_nothing_for_one(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job()
    model = session.model(job)
    start, records, head = start_for(model, "core"), session.prepare(ORDERS, job), session.head(job)
    model.load(start)
    trained = model.set_trainable(("R",))
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (batch,) = records.batches(range(len(records)), len(records))
        head.hidden(model, batch)
        assert kept  # In training something is.
        kept.clear()
        evaluate(model, start, records, head, physical_batch_size=4)
    assert not kept
    assert all(parameter.grad is None for parameter in trained.values())


def test_no_records_give_no_score(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job()
    model = session.model(job)
    none = module.PreparedRecords(model, [], known=None)
    tally = evaluate(model, start_for(model, "core"), none, session.head(job), physical_batch_size=4)
    assert (tally.records, tally.accuracy) == (0, None)


def test_greedy_decoding_with_the_adapter_is_what_is_compared(session: ModelSession, make_job: JobMaker) -> None:
    """A response made of what the adapted model itself says next matches; one that differs in a token does not."""
    job = make_job(task__kind="instruct", task__labels=())
    model, adapter = session.model(job), start_for(session.model(job), "core")
    model.load(adapter)
    prompts = [[5], [7, 9, 11, 13, 15, 17, 19], [21, 8, 30]]
    own = [
        asked([*prompt, *said_next(session, model, prompt, 4 + place)], len(prompt))
        for place, prompt in enumerate(prompts)
    ]
    wrong = asked([*own[1].token_ids[:-1].tolist(), 3], len(prompts[1]))
    records = module.PreparedRecords(model, [*own, wrong], known=None)
    tally = evaluate(model, adapter, records, session.head(job), physical_batch_size=4, exact_match=True)
    assert (tally.correct, tally.answered, tally.accuracy) == (3, 4, 0.75)
    assert tally.hits is not None
    assert tally.hits.tolist() == [True, True, True, False]


def said_next(session: ModelSession, model: AdaptedModel, prompt: list[int], count: int) -> list[int]:
    """What the adapted model says next, token by token, of this prompt alone."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            hidden = model.final_hidden(model.prefix(torch.tensor([ids])))[0, -1]
            ids.append(int((session.base.model.get_output_embeddings().weight @ hidden).argmax()))
    assert not session.base.end_tokens.intersection(ids)
    return ids[len(prompt) :]


@pytest.mark.parametrize("at_once", [1, 40, 4096])
def test_however_many_are_written_at_once_each_answer_is_its_own(
    session: ModelSession, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(answers_module, "_TOKENS_AT_ONCE", at_once)
    model = session.model(make_job(task__kind="instruct", task__labels=()))
    model.load(start_for(model, "core"))
    generator = np.random.default_rng(0)
    examples = [asked(generator.integers(3, 200, n + m).tolist(), n) for n, m in ((1, 9), (30, 2), (4, 4), (12, 6))]
    ended = asked([5, 6, 7], 1)
    rows, told = [], list[tuple[int, int]]()
    real = model.peft_model.generate

    def generate(**given: torch.Tensor) -> torch.Tensor:
        rows.append(len(given["input_ids"]))
        written: torch.Tensor = real(**given)
        return written

    monkeypatch.setattr(model.peft_model, "generate", generate)
    found = answers(model, [*examples, ended], lambda done, total: told.append((done, total)))
    for example, answer in zip(examples, found, strict=False):
        start = int(example.loss_mask.argmax())
        alone = said_next(session, model, example.token_ids[:start].tolist(), len(example.token_ids) - start)
        assert answer.given == session.base.tokenizer.decode(alone, skip_special_tokens=True)
    assert told[0] == (0, 5)
    assert len(told) == len(rows)
    assert sum(rows) == 5
    assert (max(rows) == 1) == (at_once == 1)
    assert (len(rows) == 1) == (at_once == 4096)


def test_at_most_so_many_responses_are_generated_and_none_without_targets(
    session: ModelSession, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_MATCH_RECORDS", 2)
    job = make_job(task__kind="instruct", task__labels=())
    model = session.model(job)
    (example,) = session.encode(PAIRS[:1], job.task).examples
    silent = type(example)(example.token_ids, np.zeros_like(example.loss_mask))
    records = module.PreparedRecords(model, [silent, *[example] * 3], known=None)
    tally = evaluate(
        model, start_for(model, "core"), records, session.head(job), physical_batch_size=4, exact_match=True
    )
    assert (tally.records, tally.answered) == (4, 2)


def test_a_response_is_compared_up_to_where_generation_ends(
    session: ModelSession, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat template may put more behind its end token, which is learnt and never generated."""
    model = session.model(make_job())
    model.load(start_for(model, "core"))
    prompt = [5, 60, 70, 80]
    ids = torch.tensor([prompt])
    given = model.peft_model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, eos_token_id=None
    )[0, 4:].tolist()
    end = given[-1]
    own = given[: given.index(end) + 1]
    monkeypatch.setattr(session.base.model.generation_config, "eos_token_id", [2, end])
    assert session.base.end_tokens == {2, end}
    for behind in ([], [9], [9, 9, 9]):
        whole = [*prompt, *own, *behind]
        assert answers(model, [asked(whole, 4)])[0].exact
    wrong = [*prompt, (own[0] + 1) % 200 + 3, *own[1:]]
    assert not answers(model, [asked(wrong, 4)])[0].exact


def asked(token_ids: list[int], start: int) -> Example:
    """A prompt, and from `start` on the answer that is expected."""
    return Example(np.array(token_ids, np.int32), np.arange(len(token_ids)) >= start)


def test_answers_that_come_near_are_scored_by_how_near(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job(task__kind="instruct", task__labels=())
    model, adapter = session.model(job), start_for(session.model(job), "core")
    model.load(adapter)
    own = said_next(session, model, [5, 6], 12)
    examples = [asked([5, 6, *own], 2), asked([5, 6, *own[:9], 100, 101, 102], 2)]
    records = module.PreparedRecords(model, examples, known=None)
    tally = evaluate(model, adapter, records, session.head(job), physical_batch_size=4, exact_match=True)
    found = answers(model, examples)
    assert (tally.correct, tally.answered) == (1, 2)
    near = [token_f1(found[1].given, found[1].expected), chrf(found[1].given, found[1].expected)]
    assert 0 < near[1] < 1
    assert tally.token_f1 == pytest.approx((1 + near[0]) / 2)
    assert tally.chrf == pytest.approx((1 + near[1]) / 2)
    twice = tally + tally
    assert (twice.token_f1, twice.chrf) == (tally.token_f1, tally.chrf)


def test_a_task_without_answers_has_no_score_of_them(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job()
    model, records = session.model(job), session.prepare(ORDERS, job)
    tally = evaluate(model, start_for(model, "core"), records, session.head(job), physical_batch_size=4)
    assert (tally.token_f1, tally.chrf) == (None, None)


def test_an_answer_holds_its_texts_and_tells_them_to_no_log(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job(task__kind="instruct", task__labels=(), task__template="Q {prompt} A ")
    model = session.model(job)
    (example,) = session.encode([Record(prompt="why", response="because")], job.task).examples
    ((before, after),) = both_answer(model, [example], start_for(model, "core"), start_for(model, "core", seed=4))
    assert (before.prompt, before.expected) == (after.prompt, after.expected) == ("Q why A ", "because")
    assert before.given != after.given
    assert before.shown == before.given + ("" if before.ended else " …")
    assert "why" not in repr(before)
    assert "because" not in repr(before)
