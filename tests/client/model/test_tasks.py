"""The heads: label vectors and their prior, and next-token losses."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.client.conftest import LABELS, Attach, JobMaker, start_for
from tests.client.rounds import by_record
from yoriai.client.base.base_model import BaseModel
from yoriai.client.model.prepared import Batch, PreparedRecords
from yoriai.client.model.tasks import LabelHead, LanguageHead, check_labels, label_vectors
from yoriai.client.records.encoding import Example, encode
from yoriai.client.records.records import Record
from yoriai.client.records.token_bytes import token_bytes
from yoriai.client.session.model_session import ModelSession
from yoriai.config import TaskSection
from yoriai.errors import ConfigError


def _batch(hidden: torch.Tensor, last: list[int], labels: list[int]) -> Batch:
    shape = hidden.shape[:2]
    return Batch(
        entering=hidden,
        token_ids=torch.zeros(shape, dtype=torch.int64),
        targets=torch.zeros((len(last), 0), dtype=torch.int64),
        last=torch.tensor(last),
        labels=torch.tensor(labels),
    )


def test_a_labels_vector_is_the_mean_embedding_of_its_tokens_in_lower_case_after_a_space(base: BaseModel) -> None:
    embedding = base.model.get_output_embeddings().weight.detach()
    vectors = label_vectors(embedding, base.tokenizer, ("Ab", "C"))
    ids = base.tokenizer.convert_tokens_to_ids
    space, a, b, c = (ids(token) for token in ("Ġ", "a", "b", "c"))
    torch.testing.assert_close(vectors[0], embedding[[space, a, b]].mean(0))
    torch.testing.assert_close(vectors[1], embedding[[space, c]].mean(0))


def test_label_logits_by_hand() -> None:
    head = LabelHead(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, -0.5]))
    hidden = torch.tensor([[1.0, 3.0], [2.0, 1.0]])
    batch = _batch(hidden[:, None], last=[0, 0], labels=[0, 1])
    torch.testing.assert_close(head.logits(hidden), torch.tensor([[0.5, 6.5], [1.5, 2.5]]))
    expected = [math.log(1 + math.exp(6.0)), math.log(1 + math.exp(-1.0))]
    torch.testing.assert_close(head.losses(hidden, batch), torch.tensor(expected))


def test_a_classifier_reads_each_records_last_position(attach: Attach) -> None:
    model = attach("core")
    ids = torch.tensor([[5, 60, 70], [80, 0, 0]])
    batch = _batch(model.prefix(ids), last=[2, 0], labels=[0, 1])
    with torch.no_grad():
        found = LabelHead(torch.eye(32), torch.zeros(32)).hidden(model, batch)
        whole = model.final_hidden(batch.entering)
    torch.testing.assert_close(found, torch.stack([whole[0, 2], whole[1, 0]]), rtol=1e-5, atol=1e-6)


def test_label_tally_by_hand() -> None:
    head = LabelHead(torch.eye(2), torch.zeros(2))
    hidden = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    tally = head.tally(hidden, _batch(hidden[:, None], last=[0, 0, 0], labels=[0, 1, 1]))
    assert (tally.records, tally.correct, tally.answered, tally.loss_units) == (3, 2, 3, 3)
    assert tally.confusion is not None
    assert tally.confusion.tolist() == [[1, 0], [1, 1]]
    assert tally.hits is not None
    assert tally.hits.tolist() == [True, False, True]
    expected = math.log(1 + math.exp(-3)) + math.log(1 + math.exp(3)) + math.log(1 + math.exp(-1))
    assert tally.loss_sum == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("template", [None, "Order: {prompt}\nPart:"])
def test_the_untouched_base_gives_an_empty_prompt_uniform_logits(
    session: ModelSession, make_job: JobMaker, template: str | None
) -> None:
    job = make_job(task__template=template)
    model, head = session.model(job), session.head(job)
    assert isinstance(head, LabelHead)
    model.load(session.initial_adapter(job))
    empty = encode([Record(prompt="", response="pump")], session.base.tokenizer, job.task, context_tokens=256)
    (batch,) = PreparedRecords(model, empty.examples, known=None).batches([0], 1)
    logits = head.logits(head.hidden(model, batch))
    torch.testing.assert_close(logits, torch.zeros(1, len(LABELS)), rtol=0, atol=1e-6)
    assert head.prior.abs().max() > 1e-3


def test_the_prior_is_the_bases_own_whatever_adapter_is_loaded(session: ModelSession, make_job: JobMaker) -> None:
    job = make_job()
    before = session.head(job)
    session.close()
    model = session.model(job)
    model.load(start_for(model, "core"))
    after = session.head(job)
    assert isinstance(before, LabelHead)
    assert isinstance(after, LabelHead)
    torch.testing.assert_close(before.prior, after.prior, rtol=0, atol=0)


def test_nothing_of_a_label_head_trains(session: ModelSession, make_job: JobMaker) -> None:
    head = session.head(make_job())
    assert isinstance(head, LabelHead)
    assert not head.vectors.requires_grad
    assert not head.prior.requires_grad


def _language(base: BaseModel) -> LanguageHead:
    return LanguageHead(base.model.get_output_embeddings().weight, base.tokenizer)


@pytest.mark.parametrize("kind", ["lm", "instruct"])
def test_language_losses_are_hugging_faces_own(attach: Attach, base: BaseModel, kind: Any) -> None:
    model = attach("fedavg")
    model.load(start_for(model, "fedavg"))
    pairs = [("pump leaks oil", "seal"), ("x", "a longer answer")]
    texts = [Record(text=prompt + response) for prompt, response in pairs]
    answers = [Record(prompt=prompt, response=response) for prompt, response in pairs]
    examples = encode(
        texts if kind == "lm" else answers, base.tokenizer, TaskSection(kind=kind), context_tokens=256
    ).examples
    (batch,) = PreparedRecords(model, examples, known=None).batches(range(2), 2)
    with torch.no_grad():
        losses = _language(base).losses(model.final_hidden(batch.entering), batch)
        for loss, example in zip(losses, sorted(examples, key=lambda e: len(e.token_ids)), strict=True):
            ids = torch.from_numpy(example.token_ids).long()[None]
            labels = torch.where(torch.from_numpy(example.loss_mask)[None], ids, -100)
            expected = model.peft_model(input_ids=ids, labels=labels).loss
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_a_record_without_targets_has_no_loss_and_no_gradient(attach: Attach, base: BaseModel) -> None:
    model = attach("fedavg")
    model.load(start_for(model, "fedavg"))
    mask = np.array([False, True, True])
    ids = np.array([50, 60, 70], np.int32)
    examples = [Example(ids, np.zeros(3, np.bool_)), Example(ids, mask)]
    (batch,) = PreparedRecords(model, examples, known=None).batches(range(2), 2)

    def losses() -> torch.Tensor:
        return _language(base).losses(model.final_hidden(batch.entering), batch)

    none, some = losses()
    assert none == 0 < some
    for without, having in by_record(model, ("A", "B"), losses).values():
        assert not without.any()
        assert having.any()


def test_bits_per_byte_by_hand(base: BaseModel) -> None:
    """Uniform logits cost log2(vocabulary) bits a token; the accented letter has two bytes, the end of text none."""
    head = LanguageHead(torch.zeros(len(base.tokenizer), 4), base.tokenizer)
    (example,) = encode(
        [Record(prompt="q", response="né")], base.tokenizer, TaskSection(kind="instruct"), context_tokens=64
    ).examples
    size = len(example.token_ids)
    batch = Batch(
        entering=torch.zeros(1, size, 4),
        token_ids=torch.from_numpy(example.token_ids).long()[None],
        targets=torch.from_numpy(np.flatnonzero(example.loss_mask))[None],
        last=torch.tensor([size - 1]),
        labels=torch.tensor([-1]),
    )
    tally = head.tally(torch.zeros(1, size, 4), batch)
    assert (tally.records, tally.loss_units, tally.target_bytes) == (1, 4, 3)
    assert tally.loss == pytest.approx(math.log(len(base.tokenizer)), rel=1e-6)
    assert tally.bits_per_byte == pytest.approx(4 * math.log2(len(base.tokenizer)) / 3, rel=1e-6)
    assert tally.accuracy is None


@pytest.mark.parametrize("text", ["ポンプの圧力", "naïve ☃", "plain words", "混ぜる mixed"])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_bytes_are_those_of_the_tokens_wherever_they_cut_a_character(base: BaseModel, text: str, cut: int) -> None:
    ids = base.tokenizer.encode(text, add_special_tokens=False)[cut:]
    assert token_bytes(base.tokenizer)[ids].sum() == len(text.encode()) - cut


def test_special_tokens_stand_for_no_text(base: BaseModel) -> None:
    assert token_bytes(base.tokenizer)[base.tokenizer.all_special_ids].tolist() == [0, 0, 0]


def test_bytes_of_a_tokenizer_of_words_and_single_bytes() -> None:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "▁": 1, "▁pump": 2, "圧": 3, "<0xE3>": 4}
    core = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    core.decoder = decoders.ByteFallback()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert token_bytes(tokenizer).tolist() == [0, 1, 5, 3, 1]


@pytest.mark.parametrize("labels", [("seal pump", "x", "pump seal"), ("Seal", "x", "seal"), ("ab ab", "x", "ab")])
def test_labels_with_the_same_vector_are_refused_by_their_places(base: BaseModel, labels: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"labels 1 and 3 of task\.labels have the same tokens"):
        check_labels(base.tokenizer, labels)


@pytest.mark.parametrize("other", ["cafe\u0301", "ca\u200bfé", "café ", "ｃafé"])
def test_labels_that_look_the_same_are_refused_by_their_places(base: BaseModel, other: str) -> None:
    with pytest.raises(ConfigError, match=r"labels 1 and 3 of task\.labels differ in Unicode form"):
        check_labels(base.tokenizer, ("café", "x", other))


def test_labels_that_differ_in_a_letter_are_taken(base: BaseModel) -> None:
    check_labels(base.tokenizer, ("seal pump", "seal pumps", "seal pumpt"))
