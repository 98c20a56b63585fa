"""A loaded adapter is asked with the tokens that training taught it to go on from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tests.client.conftest import JobMaker
from yoriai.client.base.base_model import load_base
from yoriai.client.records.records import Record
from yoriai.client.session.export import save_adapter
from yoriai.client.session.loading import Trained, load
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection
from yoriai.errors import ConfigError, RecordError

TURNS = (("user", "a"), ("assistant", "bb"), ("user", "is </s> the end?"), ("assistant", "d"))
MESSAGES = [{"role": role, "content": content} for role, content in TURNS]


class Asked:
    """A model in the place of the adapted one, which keeps what it is given and says nothing."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def generate(self, *, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        """The input, unanswered."""
        self.ids = input_ids[0].tolist()
        return input_ids


@pytest.fixture(params=[(), ("<s>", "$A"), ("<s>", "$A", "</s>")], ids=["bare", "begun", "begun and ended"])
def bench(base_folder: Path, request: pytest.FixtureRequest) -> Iterator[ModelSession]:
    """A session on a base whose tokenizer puts tokens of its own around a text, or none."""
    session = ModelSession(load_base(str(base_folder), device=torch.device("cpu")), SpeedSection(threads=1))
    if request.param:
        core = session.base.tokenizer._tokenizer
        core.post_processor = TemplateProcessing(
            single=list(request.param), special_tokens=[(name, core.token_to_id(name)) for name in ("<s>", "</s>")]
        )
    yield session
    session.close()


def loaded(session: ModelSession, job: JobConfig, folder: Path) -> tuple[Trained, Asked]:
    save_adapter(session, job, session.initial_adapter(job), folder)
    task = load(folder, device="cpu").task
    return Trained(session.base, task, asked := Asked()), asked


def taught(session: ModelSession, job: JobConfig, record: Record) -> list[int]:
    """The tokens before an example's last response, and the response's first token is what is learnt after them."""
    (example,) = session.encode([record], job.task).examples
    places = np.flatnonzero(example.loss_mask)
    start = places[0] if len(places) == 1 else places[np.flatnonzero(np.diff(places, prepend=-2) > 1)[-1]]
    return list(example.token_ids[:start].tolist())


@pytest.mark.parametrize("template", [None, "Q: {prompt} </s>\nA:"])
@pytest.mark.parametrize("prompt", ["why", "is </s> the end?", "{prompt}", "x" * 400])
def test_a_prompt_becomes_the_tokens_that_training_makes_of_it(
    bench: ModelSession, make_job: JobMaker, tmp_path: Path, template: str | None, prompt: str
) -> None:
    room = bench.base.context_tokens - 1  # For what is asked, where one token is answered.
    job = make_job(task__kind="instruct", task__labels=(), task__template=template, task__max_tokens=room)
    trained, asked = loaded(bench, job, tmp_path)
    trained.generate(prompt, max_new_tokens=1)
    with_response = job.model_copy(update={"task": job.task.model_copy(update={"max_tokens": room + 1})})
    assert asked.ids == taught(bench, with_response, Record(prompt=prompt, response=""))


def test_a_conversation_becomes_the_tokens_that_training_makes_of_it(
    bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job(task__kind="instruct", task__labels=())
    trained, asked = loaded(bench, job, tmp_path)
    trained.generate(MESSAGES[:-1])
    assert asked.ids == taught(bench, job, Record(messages=TURNS))


def test_a_text_is_gone_on_with_as_it_is_learnt(bench: ModelSession, make_job: JobMaker, tmp_path: Path) -> None:
    """Also where a template stands in the job: texts are not put into one."""
    job = make_job(task__kind="lm", task__labels=(), task__template="Q: {prompt}")
    trained, asked = loaded(bench, job, tmp_path)
    trained.generate("once </s> upon")
    (example,) = bench.encode([Record(text="once </s> upon")], job.task).examples
    assert asked.ids == example.token_ids.tolist()


@pytest.mark.parametrize("kind", ["lm", "instruct"])
def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused(
    bench: ModelSession, make_job: JobMaker, tmp_path: Path, kind: str
) -> None:
    trained, _ = loaded(bench, make_job(task__kind=kind, task__labels=()), tmp_path)
    with pytest.raises(ConfigError, match="no room for a prompt"):
        trained.generate("why", max_new_tokens=bench.base.context_tokens)


@pytest.mark.parametrize(("kind", "turns"), [("lm", MESSAGES[:1]), ("instruct", MESSAGES), ("instruct", [])])
def test_what_cannot_be_answered_is_refused(
    bench: ModelSession, make_job: JobMaker, tmp_path: Path, kind: str, turns: Sequence[dict[str, str]]
) -> None:
    trained, _ = loaded(bench, make_job(task__kind=kind, task__labels=()), tmp_path)
    with pytest.raises(RecordError, match="a conversation that cannot be gone on with"):
        trained.generate(turns)
