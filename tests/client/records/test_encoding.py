"""From records to tokens: what is a target, what is cut, what is refused. One token is one byte here."""

from typing import Any

import pytest

from tests.tiny import tiny_llama, tiny_tokenizer
from yoriai.client.records.encoding import EncodedRecords, encode
from yoriai.client.records.records import Record
from yoriai.config import TaskSection
from yoriai.errors import ConfigError, RecordError

PAIR = Record(prompt="question", response="yes", place="a.jsonl line 1")
TEXT = Record(text="0123456789")
CHAT = Record(messages=(("user", "a"), ("assistant", "bb"), ("user", "c"), ("assistant", "d")), place="a.jsonl line 1")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def _encode(record: Record, tokenizer: Any, *, context_tokens: int = 256, **task: Any) -> EncodedRecords:
    return encode([record], tokenizer, TaskSection(**task), context_tokens=context_tokens)


def _texts(encoded: EncodedRecords, tokenizer: Any) -> tuple[str, str]:
    """The whole of a single example, and its targets only."""
    (example,) = encoded.examples
    return tokenizer.decode(example.token_ids), tokenizer.decode(example.token_ids[example.loss_mask])


def test_every_token_of_a_text_but_the_first_is_a_target(tokenizer: Any) -> None:
    encoded = _encode(TEXT, tokenizer, kind="lm")
    assert _texts(encoded, tokenizer) == ("0123456789", "123456789")
    assert (encoded.examples[0].token_ids.dtype, encoded.examples[0].loss_mask.dtype) == ("int32", "bool")


def test_targets_of_a_pair_are_the_response_and_the_end(tokenizer: Any) -> None:
    encoded = _encode(PAIR, tokenizer, kind="instruct")
    assert _texts(encoded, tokenizer) == ("question\nyes</s>", "yes</s>")


def test_targets_of_a_conversation_are_the_assistants_turns(tokenizer: Any) -> None:
    encoded = _encode(CHAT, tokenizer, kind="instruct")
    whole, targets = _texts(encoded, tokenizer)
    assert whole == "<user>a</s><assistant>bb</s><user>c</s><assistant>d</s>"
    assert targets == "bb</s>d</s>"


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_conversation_that_ends_unanswered_is_refused_by_its_place(role: str, tokenizer: Any) -> None:
    turns = (("system", "s"), ("user", "a"), ("assistant", "b"), (role, "unanswered"))
    records = [CHAT, Record(messages=turns, place="a.jsonl line 2"), Record(messages=turns, place="a.jsonl line 3")]
    with pytest.raises(RecordError, match=r"a\.jsonl line 2: the last message is not the assistant's") as caught:
        encode(records, tokenizer, TaskSection(kind="instruct"), context_tokens=256)
    assert "as in 1 other record" in str(caught.value)
    assert "add the assistant's answer" in str(caught.value)
    assert "unanswered" not in str(caught.value)


def test_a_class_is_chosen_after_the_template_and_has_no_target_token(tokenizer: Any) -> None:
    encoded = _encode(PAIR, tokenizer, kind="classify", labels=("no", "yes"))
    assert _texts(encoded, tokenizer) == ("question\nLabel:", "")
    assert encoded.examples[0].label == 1


def test_braces_in_a_prompt_are_text(tokenizer: Any) -> None:
    record = Record(prompt="{0} {prompt}", response="yes")
    encoded = _encode(record, tokenizer, kind="classify", labels=("yes",), template="Q {prompt} A")
    assert _texts(encoded, tokenizer)[0] == "Q {0} {prompt} A"


def test_a_long_text_loses_its_end(tokenizer: Any) -> None:
    encoded = _encode(TEXT, tokenizer, kind="lm", max_tokens=4)
    assert _texts(encoded, tokenizer)[0] == "0123"
    assert encoded.cut == 1


def test_a_long_prompt_is_cut_inside_the_template(tokenizer: Any) -> None:
    encoded = _encode(PAIR, tokenizer, kind="classify", labels=("yes",), template="<{prompt}>:", max_tokens=8)
    assert _texts(encoded, tokenizer)[0] == "<quest>:"
    assert encoded.cut == 1


def test_a_long_prompt_gives_way_to_its_response(tokenizer: Any) -> None:
    encoded = _encode(PAIR, tokenizer, kind="instruct", max_tokens=10)
    assert _texts(encoded, tokenizer) == ("quest\nyes</s>", "yes</s>")


def test_a_long_response_keeps_half_of_the_room(tokenizer: Any) -> None:
    record = Record(prompt="question", response="0123456789")
    encoded = _encode(record, tokenizer, kind="instruct", max_tokens=9)
    assert _texts(encoded, tokenizer) == ("ques\n0123", "0123")


def test_a_long_response_takes_what_a_short_prompt_leaves(tokenizer: Any) -> None:
    record = Record(prompt="q", response="0123456789")
    encoded = _encode(record, tokenizer, kind="instruct", max_tokens=9)
    assert _texts(encoded, tokenizer) == ("q\n0123456", "0123456")


def test_a_long_conversation_loses_its_beginning(tokenizer: Any) -> None:
    encoded = _encode(CHAT, tokenizer, kind="instruct", max_tokens=13)
    assert _texts(encoded, tokenizer) == ("<assistant>d</s>", "d</s>")


def test_what_just_fits_is_not_cut(tokenizer: Any) -> None:
    assert _encode(PAIR, tokenizer, kind="instruct", max_tokens=13).cut == 0
    assert _encode(PAIR, tokenizer, kind="instruct", max_tokens=12).cut == 1


def test_the_context_of_the_base_is_a_limit_too(tokenizer: Any) -> None:
    encoded = _encode(TEXT, tokenizer, kind="lm", max_tokens=128, context_tokens=6)
    assert len(encoded.examples[0].token_ids) == 6


def test_too_long_can_be_refused_with_place_and_count(tokenizer: Any) -> None:
    task = TaskSection(kind="instruct", max_tokens=5, too_long="refuse")
    with pytest.raises(RecordError, match=r"a\.jsonl line 1: longer than 5 tokens, as in 1 other record") as caught:
        encode([PAIR, PAIR], tokenizer, task, context_tokens=256)
    assert "question" not in str(caught.value)


def test_a_beginning_of_text_token_comes_first_where_the_tokenizer_puts_one() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert _texts(_encode(TEXT, tokenizer, kind="lm"), tokenizer) == ("<s>0123456789", "0123456789")
    assert _texts(_encode(PAIR, tokenizer, kind="instruct"), tokenizer)[0] == "<s>question\nyes</s>"


def test_labels_outside_the_set_are_counted_and_not_shown(tokenizer: Any) -> None:
    task = TaskSection(kind="classify", labels=("no",))
    with pytest.raises(RecordError, match=r"a\.jsonl line 1: a label outside the set, as in 2 other") as caught:
        encode([Record(prompt="p", response="no"), PAIR, PAIR, PAIR], tokenizer, task, context_tokens=256)
    assert "yes" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "kind"), [(PAIR, "lm"), (TEXT, "instruct"), (TEXT, "classify"), (CHAT, "classify"), (CHAT, "lm")]
)
def test_a_record_of_another_kind_is_refused(record: Record, kind: str, tokenizer: Any) -> None:
    with pytest.raises(RecordError, match=f"does not fit task.kind = {kind}"):
        _encode(record, tokenizer, kind=kind, labels=("yes",))


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ({"kind": "auto"}, "still auto"),
        ({"kind": "classify"}, "needs its labels"),
        ({"kind": "classify", "labels": ("yes",), "max_tokens": 8}, "leaves no room"),
    ],
)
def test_a_task_that_cannot_be_encoded_is_refused(task: dict[str, Any], what: str, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=what):
        _encode(PAIR, tokenizer, **task)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ messages|length }}{% for message in messages %}{{ message['content'] }}{% endfor %}", "rewrites earlier"),
        ("{{ raise_exception(messages[0]['content']) }}", "is missing or refuses"),
        (None, "is missing or refuses"),
    ],
)
def test_a_chat_template_that_does_not_serve_is_named(template: str | None, what: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(RecordError, match=rf"a\.jsonl line 1: the base's chat template {what}") as caught:
        _encode(CHAT, tokenizer, kind="instruct")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_tiny_model_reads_what_the_tiny_tokenizer_writes_and_follows_from_its_seed(tokenizer: Any) -> None:
    import torch

    ids = torch.tensor([tokenizer.encode("Grüße, 寄り合い")])
    first, again, other = (tiny_llama(tokenizer, seed=seed)(ids).logits for seed in (0, 0, 1))
    assert first.shape == (1, ids.shape[1], len(tokenizer))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert tokenizer.decode(ids[0]) == "Grüße, 寄り合い"
