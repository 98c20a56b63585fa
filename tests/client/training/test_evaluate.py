"""An adapter on test records."""

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, JobMaker, start_for
from yoriai.client.model.tasks import LabelHead
from yoriai.client.records.encoding import Example
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training import evaluate as module
from yoriai.client.training.answer_scores import chrf, token_f1
from yoriai.client.training.answers import answer, both_answer
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


def test_exact_match_counts_responses_generated_whole(
    session: ModelSession, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(task__kind="instruct", task__labels=())
    model, records = session.model(job), session.prepare(PAIRS, job)
    wanted = {len(e.token_ids) - int(e.loss_mask.sum()): e.token_ids.tolist() for e in records.examples}
    assert len(wanted) == 2
    answers = {start: torch.tensor([ids]) for start, ids in wanted.items()}
    answers[max(answers)][0, -2] += 1  # The second response is wrong in one token.
    monkeypatch.setattr(model.peft_model, "generate", lambda **given: answers[given["input_ids"].shape[1]])
    tally = evaluate(
        model, start_for(model, "core"), records, session.head(job), physical_batch_size=4, exact_match=True
    )
    assert (tally.correct, tally.answered, tally.accuracy) == (1, 2, 0.5)


def test_greedy_decoding_with_the_adapter_is_what_is_compared(session: ModelSession, make_job: JobMaker) -> None:
    """A response made of what the adapted model itself says next matches; one of what it does not say, does not."""
    job = make_job(task__kind="instruct", task__labels=())
    model = session.model(job)
    adapter = start_for(model, "core")
    records = session.prepare(PAIRS[:1], job)
    (example,) = records.examples
    start = int(np.flatnonzero(example.loss_mask)[0])
    ids = torch.from_numpy(example.token_ids).long()[None]
    model.load(adapter)
    with torch.no_grad():
        for position in range(start, ids.shape[1]):
            hidden = model.final_hidden(model.prefix(ids[:, :position]))[0, -1]
            ids[0, position] = (session.base.model.get_output_embeddings().weight @ hidden).argmax()
    said = module.PreparedRecords(model, [type(example)(ids[0].int().numpy(), example.loss_mask)], known=None)
    head = session.head(job)
    assert evaluate(model, adapter, said, head, physical_batch_size=1, exact_match=True).correct == 1
    assert evaluate(model, adapter, records, head, physical_batch_size=1, exact_match=True).correct == 0


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
        assert answer(model, asked(whole, 4)).exact
    wrong = [*prompt, (own[0] + 1) % 200 + 3, *own[1:]]
    assert not answer(model, asked(wrong, 4)).exact


def asked(token_ids: list[int], start: int) -> Example:
    """A prompt, and from `start` on the answer that is expected."""
    return Example(np.array(token_ids, np.int32), np.arange(len(token_ids)) >= start)


def test_answers_that_come_near_are_scored_by_how_near(
    session: ModelSession, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(task__kind="instruct", task__labels=())
    model, records = session.model(job), session.prepare(PAIRS, job)
    said = {"yes": "yes", "no no no": "no on"}

    def generate(**given: torch.Tensor) -> torch.Tensor:
        wanted = "yes" if given["input_ids"].shape[1] == min(starts) else "no no no"
        words = session.base.tokenizer.encode(said[wanted], add_special_tokens=False)
        return torch.cat([given["input_ids"], torch.tensor([[*words, session.base.tokenizer.eos_token_id]])], 1)

    starts = [int(np.flatnonzero(example.loss_mask)[0]) for example in records.examples]
    monkeypatch.setattr(model.peft_model, "generate", generate)
    tally = evaluate(
        model, start_for(model, "core"), records, session.head(job), physical_batch_size=4, exact_match=True
    )
    assert (tally.correct, tally.answered) == (1, 2)
    assert tally.token_f1 == pytest.approx((1 + token_f1("no on", "no no no")) / 2)
    assert tally.chrf == pytest.approx((1 + chrf("no on", "no no no")) / 2)
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
