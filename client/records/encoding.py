"""From records to tokens, with a mask of the tokens that a model is to learn.

Each part of a record (prompt, response, turn) is turned into tokens by itself, because that is how the parts meet when
a model answers: the prompt is there as tokens before the first token of the response exists. Control tokens come from
templates alone, whatever a text says (`control_tokens.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from yoriai.client.records.control_tokens import TextEncoder, Tokenizer
from yoriai.client.records.records import Record
from yoriai.client.records.words import no_words, word_hashes
from yoriai.config import TaskSection
from yoriai.errors import ConfigError, RecordError

DEFAULT_TEMPLATES: Final = {"classify": "{prompt}\nLabel:", "instruct": "{prompt}\n"}
_FITTING: Final = {
    "lm": {"texts"},
    "instruct": {"prompts with responses", "messages"},
    "classify": {"prompts with responses"},
}


@dataclass(frozen=True, eq=False)
class Example:
    """One record in tokens.

    Attributes:
        token_ids: (n,) int32.
        loss_mask: (n,) bool, True where the token is a target, predicted from those before it; never at position 0.
        label: index into the task's labels, to be chosen at the last position; -1 where the targets are tokens.
        words: sorted hashes of the prompt's distinct words, for a head that trains; empty where the targets are tokens.
    """

    token_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    label: int = -1
    words: NDArray[np.uint32] = field(default_factory=no_words)

    @property
    def content(self) -> bytes:
        """What a model's state of the record depends on; equal for records that it cannot tell apart."""
        return len(self.words).to_bytes(4, "little") + self.words.tobytes() + self.token_ids.tobytes()


@dataclass(frozen=True)
class Misfit:
    """A record that does not fit a task.

    Attributes:
        record: by its index.
        fault: why, in words that say nothing of its place or its text.
    """

    record: int
    fault: RecordError


@dataclass(frozen=True)
class EncodedRecords:
    """What a task can be taught by some records, in their order.

    Attributes:
        examples: one a record that fits.
        fitting: the index of each example's record.
        misfits: all other records.
        cut: how many examples had to be cut.
    """

    examples: tuple[Example, ...]
    fitting: tuple[int, ...]
    misfits: tuple[Misfit, ...]
    cut: int


def encode(
    records: Sequence[Record], tokenizer: Tokenizer, task: TaskSection, *, context_tokens: int
) -> EncodedRecords:
    """Turn records, all of which must fit the task, into examples; see `encode_fitting`.

    Raises:
        RecordError: a record does not fit.
        ConfigError: as `check_task`.
    """
    encoded = encode_fitting(records, tokenizer, task, context_tokens=context_tokens)
    if encoded.misfits:
        first = encoded.misfits[0]
        others = sum(misfit.fault.what == first.fault.what for misfit in encoded.misfits) - 1
        raise RecordError(
            f"{records[first.record].place or 'a record'}: {first.fault.what}"
            + (f", as in {others} other record{'s' * (others > 1)}" if others else ""),
            found=first.fault.found,
            expected=first.fault.expected,
            remedy=first.fault.remedy,
        )
    return encoded


def encode_fitting(
    records: Sequence[Record], tokenizer: Tokenizer, task: TaskSection, *, context_tokens: int
) -> EncodedRecords:
    """Turn the records that fit a task into examples of at most min(task.max_tokens, context_tokens) tokens.

    - `lm`: the text; every token but the first is a target.
    - `instruct`: the prompt in the template, then the response and the end-of-text token, which are the targets; a
      conversation goes through the base's own chat template, and the assistant's turns are the targets.
    - `classify`: the prompt in the template; the target is the label's index.

    What is too long is counted and cut, or does not fit, as the task says. Texts lose their end. Prompts lose the end
    of the prompt's own text, so that the template's end stays; a response loses its end only where it needs more than
    half of the room. Conversations lose their beginning.

    Whether a record fits depends on that record and the task alone. Nothing of the records raises an error.

    Raises:
        ConfigError: as `check_task`.
    """
    check_task(task, tokenizer, context_tokens=context_tokens)
    labels, limit = label_indices(task), min(task.max_tokens, context_tokens)
    encoder = TextEncoder(tokenizer)
    examples: dict[int, Example] = {}
    misfits: list[Misfit] = []
    cut = 0
    for index, record in enumerate(records):
        try:
            examples[index], was_cut = _example(record, encoder, task, limit, labels)
            cut += was_cut
        except RecordError as fault:
            misfits.append(Misfit(index, fault.with_traceback(None)))  # Its frames would keep the text.
        except Exception as error:  # The type alone: what a tokenizer says may quote the record.
            what, found = "cannot be turned into tokens", type(error).__name__
            misfits.append(Misfit(index, RecordError(what, found=found, remedy="correct the record")))
    return EncodedRecords(tuple(examples.values()), tuple(examples), tuple(misfits), cut)


def question_tokens(
    asked: str | Sequence[tuple[str, str]], tokenizer: Tokenizer, task: TaskSection, *, limit: int
) -> list[int]:
    """What a model is given to answer: an example's tokens before the response, just as it is taught to go on from.

    Args:
        asked: a prompt, or for `lm` how the text begins; for `instruct` also the turns of a conversation, as (role,
            content), of which the last is not the assistant's.
        limit: tokens at most. What is longer is cut as `encode_fitting` cuts it.

    Raises:
        RecordError: a conversation where the task has none, or one that ends with the assistant; a base without a
            fitting chat template; nothing that makes a token.
        ConfigError: as `check_task`.
    """
    check_task(task, tokenizer, context_tokens=limit)
    encoder = TextEncoder(tokenizer)
    if isinstance(asked, str):
        record = Record(text=asked) if task.kind == "lm" else Record(prompt=asked)
    elif task.kind != "instruct" or not asked or asked[-1][0] == "assistant":
        raise RecordError(
            "a conversation that cannot be gone on with",
            found=f"{len(asked)} turns for a task of the kind {task.kind}",
            expected="for instruct, turns of which the last is not the assistant's",
            remedy="ask with a text, or leave the assistant's last turn out",
        )
    else:
        record = Record(messages=tuple(asked))
    ids = _tokens(record, encoder, task, limit).ids
    if not ids:
        raise RecordError("no token at all", expected="a text that the base model's tokenizer knows")
    return ids


def check_task(task: TaskSection, tokenizer: Tokenizer, *, context_tokens: int) -> None:
    """What can be said of a task without a record.

    Raises:
        ConfigError: the kind is still `auto`, a classify task has no labels, or the template leaves no room for a
            prompt.
    """
    if task.kind == "auto":
        raise ConfigError("task.kind is still auto", expected="lm, instruct or classify", remedy="infer the kind first")
    if task.kind == "classify" and not task.labels:
        raise ConfigError("a classify task needs its labels", found="none", remedy="list them in task.labels")
    if task.kind == "lm":
        return
    limit = min(task.max_tokens, context_tokens)
    around = _around(TextEncoder(tokenizer), task.template or DEFAULT_TEMPLATES[task.kind])
    if limit - len(around.opening) - len(around.closing) < 2:
        raise ConfigError(
            "the template leaves no room for a prompt",
            found=f"{len(around.opening) + len(around.closing)} tokens of template, {limit} in all",
            remedy="raise task.max_tokens or shorten task.template",
        )


def suits(record: Record, kind: str) -> bool:
    """Whether a record has a shape that tasks of this kind learn from."""
    return record.shape in _FITTING[kind]


def label_indices(task: TaskSection) -> dict[str, int]:
    """The index of each label of a task: a job may have very many, and each record is looked up."""
    return {label: index for index, label in enumerate(task.labels)}


def fault_at_sight(record: Record, task: TaskSection, labels: Mapping[str, int]) -> RecordError | None:
    """Why a record does not fit the task, as far as that shows without its tokens; None if nothing does.

    Args:
        labels: the task's, as `label_indices`.
    """
    if not suits(record, task.kind):
        return RecordError(
            f"does not fit task.kind = {task.kind}",
            found=record.shape,
            expected=" or ".join(sorted(_FITTING[task.kind])),
            remedy="choose the other kind, or convert the records",
        )
    if record.messages is not None and record.messages[-1][0] != "assistant":
        return RecordError(
            "the last message is not the assistant's, and would teach nothing",
            found=f"one of the {record.messages[-1][0]}",
            expected="conversations that end with what the assistant is to say",
            remedy="add the assistant's answer, or take the last messages out",
        )
    if task.kind == "classify" and record.response not in labels:
        return RecordError(
            "a label outside the set",
            expected=f"one of the {len(labels)} labels of the task",
            remedy="add the label to task.labels, or correct the records",
        )
    return None


def _example(
    record: Record, encoder: TextEncoder, task: TaskSection, limit: int, labels: Mapping[str, int]
) -> tuple[Example, bool]:
    """A record as an example, and whether it had to be cut. Raises RecordError where it does not fit."""
    if (fault := fault_at_sight(record, task, labels)) is not None:
        raise fault
    tokens = _tokens(record, encoder, task, limit)
    if not tokens.ids:
        raise RecordError("no token at all", expected="a text that the base model's tokenizer knows")
    if tokens.cut and task.too_long == "refuse":
        raise RecordError(
            f"longer than {limit} tokens",
            remedy='raise task.max_tokens, shorten the records, or set task.too_long = "cut"',
        )
    loss_mask = np.array(tokens.is_target, dtype=np.bool_)
    loss_mask[:1] = False
    ids = np.array(tokens.ids, dtype=np.int32)
    if task.kind != "classify":
        return Example(ids, loss_mask), tokens.cut
    return Example(ids, loss_mask, labels[record.response or ""], word_hashes(record.prompt or "")), tokens.cut


@dataclass(frozen=True)
class _Tokens:
    """A record's tokens, at most as many as allowed, with True for each target."""

    ids: list[int]
    is_target: list[bool]
    cut: bool


def _tokens(record: Record, encoder: TextEncoder, task: TaskSection, limit: int) -> _Tokens:
    if record.messages is not None:
        ids, is_target = _conversation(record.messages, encoder)
        # The assistant speaks last, so the end always holds a target.
        return _Tokens(ids[-limit:], is_target[-limit:], len(ids) > limit)
    if record.text is not None:
        ids = _beginning(encoder.tokenizer) + encoder.encode_text(record.text)
        return _Tokens(ids[:limit], [True] * min(len(ids), limit), len(ids) > limit)
    targets: list[int] = []
    if task.kind == "instruct" and record.response is not None:
        end_token = encoder.tokenizer.eos_token_id
        targets = encoder.encode_text(record.response) + ([] if end_token is None else [int(end_token)])
    return _prompted(record.prompt or "", targets, encoder, task.template or DEFAULT_TEMPLATES[task.kind], limit)


@dataclass(frozen=True)
class _Around:
    """The tokens of a template before and after the prompt."""

    opening: list[int]
    closing: list[int]


def _around(encoder: TextEncoder, template: str) -> _Around:
    head, _, tail = template.partition("{prompt}")
    return _Around(_beginning(encoder.tokenizer) + encoder.encode(head), encoder.encode(tail))


def _prompted(prompt: str, targets: list[int], encoder: TextEncoder, template: str, limit: int) -> _Tokens:
    """The prompt in its template, then the targets; what is too long is cut inside the template, not off its end."""
    head, _, tail = template.partition("{prompt}")
    before = _beginning(encoder.tokenizer) + encoder.encode(head + encoder.hidden(prompt) + tail)
    cut = len(before) + len(targets) > limit
    if cut:
        around, middle = _around(encoder, template), encoder.encode_text(prompt)
        room = limit - len(around.opening) - len(around.closing)
        targets = targets[: max(room - len(middle), room // 2)]
        before = around.opening + middle[: room - len(targets)] + around.closing
    return _Tokens(before + targets, [False] * len(before) + [True] * len(targets), cut)


def _conversation(messages: tuple[tuple[str, str], ...], encoder: TextEncoder) -> tuple[list[int], list[bool]]:
    """Render growing prefixes: what an assistant's turn adds to its prompt is a target, all else is context."""
    turns = [{"role": role, "content": encoder.hidden(content)} for role, content in messages]
    answered = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    steps = [step for place in answered for step in ((place, False), (place + 1, True))]
    if len(turns) - 1 not in answered:  # Where a model is asked, the next turn is to be the assistant's.
        steps.append((len(turns), False))
    ids: list[int] = []
    is_target: list[bool] = []
    rendered = ""
    for count, target in steps:
        longer = _render(turns[:count], encoder.tokenizer, prompt=not target)
        if not longer.startswith(rendered):
            raise _template_error("rewrites earlier turns when a later one is added")
        piece = encoder.encode(longer[len(rendered) :])
        ids += piece
        is_target += [target] * len(piece)
        rendered = longer
    return ids, is_target


def _render(turns: list[dict[str, str]], tokenizer: Tokenizer, *, prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, ValueError):
        # The cause may quote the turns, so it is not chained.
        raise _template_error("is missing or refuses these roles") from None


def _template_error(what: str) -> RecordError:
    return RecordError(
        f"the base's chat template {what}",
        expected="a template that renders these messages turn by turn",
        remedy='give the records as {"prompt", "response"}, or choose another base',
    )


def _beginning(tokenizer: Tokenizer) -> list[int]:
    """The beginning-of-text token, for a tokenizer that puts one; what it may put at the end is left out."""
    special = tokenizer.encode("", add_special_tokens=True)
    return special[:1] if special and special[0] == tokenizer.bos_token_id else []
