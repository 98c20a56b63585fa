"""Answers that an adapted model gives to test records, by greedy decoding.

An answer is stopped at as many tokens as the expected one has, so that a model which never ends costs no more time than
one that does; what it would have gone on to say is not counted.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from yoriai.client.model.lora import AdaptedModel
from yoriai.client.records.encoding import Example
from yoriai.strategies.adapter import AdapterState

# Answers that are shown side by side.
SAMPLES: Final = 5
# Of prompts and answers that are written at once: keys and values of 190 MB in a base of 135 million parameters.
_TOKENS_AT_ONCE: Final = 4096


@dataclass(frozen=True)
class Answer:
    """One test record and what a model answers. It is record text, which stays where the records are.

    Attributes:
        prompt: what the model was given, without special tokens.
        expected, given: up to where generation ends.
        exact: whether both are the same, token for token.
        ended: whether the model came to an end by itself, and was not stopped.
    """

    prompt: str = field(repr=False)
    expected: str = field(repr=False)
    given: str = field(repr=False)
    exact: bool
    ended: bool

    @property
    def shown(self) -> str:
        """What the model said, with three dots where it was stopped."""
        return self.given if self.ended else f"{self.given} …"


def answers(
    model: AdaptedModel, examples: Sequence[Example], tell: Callable[[int, int], None] | None = None
) -> list[Answer]:
    """Greedy decoding from the prompts of examples that have a target, with the adapter that is loaded.

    Several are written at once, since to write a token reads all weights, for one record or for many. Compared is the
    first response up to where generation ends: what a chat template puts behind that end (ChatML a line end) is learnt,
    and never generated.

    Args:
        tell: called as (answers written, answers in all) before each piece.
    """
    asked = [_asked(example, model.base.end_tokens) for example in examples]
    found: dict[int, Answer] = {}
    for piece in _pieces(asked):
        if tell is not None:
            tell(len(found), len(asked))
        found.update(zip(piece, _written(model, [asked[place] for place in piece]), strict=True))
    return [found[place] for place in range(len(asked))]


@dataclass(frozen=True)
class _Asked:
    """Tokens of a prompt, and of the response that is expected."""

    prompt: list[int]
    wanted: list[int]


def _asked(example: Example, ends: Collection[int]) -> _Asked:
    token_ids, is_target = example.token_ids.tolist(), example.loss_mask.tolist()
    start = is_target.index(True)
    stop = next((i for i in range(start, len(is_target)) if not is_target[i]), len(is_target))
    stop = next((i + 1 for i in range(start, stop) if token_ids[i] in ends), stop)
    return _Asked(token_ids[:start], token_ids[start:stop])


def _pieces(asked: Sequence[_Asked]) -> Iterator[list[int]]:
    """Places of those that are written at once: responses of like lengths, so that few wait for the longest."""
    piece: list[int] = []
    width = 0
    for place in sorted(range(len(asked)), key=lambda each: (len(asked[each].wanted), len(asked[each].prompt))):
        width = max(width, len(asked[place].prompt))
        if piece and (len(piece) + 1) * (width + len(asked[place].wanted)) > _TOKENS_AT_ONCE:
            yield piece
            piece, width = [], len(asked[place].prompt)
        piece.append(place)
    if piece:
        yield piece


@torch.no_grad()
def _written(model: AdaptedModel, asked: Sequence[_Asked]) -> list[Answer]:
    """Prompts are filled up on the left, where the mask keeps everything away from what fills them."""
    width = max(len(each.prompt) for each in asked)
    prompts = torch.full((len(asked), width), model.base.tokenizer.pad_token_id)
    mask = torch.zeros_like(prompts)
    for row, each in enumerate(asked):
        prompts[row, width - len(each.prompt) :] = torch.tensor(each.prompt)
        mask[row, width - len(each.prompt) :] = 1
    whole = model.peft_model.generate(
        input_ids=prompts.to(model.base.device),
        attention_mask=mask.to(model.base.device),
        max_new_tokens=max(len(each.wanted) for each in asked),
        do_sample=False,
        pad_token_id=model.base.tokenizer.pad_token_id,
    )
    return [_answer(model, each, row[width:].tolist()) for each, row in zip(asked, whole, strict=True)]


def _answer(model: AdaptedModel, asked: _Asked, written: Sequence[int]) -> Answer:
    ends, given = model.base.end_tokens, list(written[: len(asked.wanted)])
    stop = next((i + 1 for i, token in enumerate(given) if token in ends), None)
    given = given[:stop]
    return Answer(
        prompt=_text(model, asked.prompt),
        expected=_text(model, asked.wanted),
        given=_text(model, given),
        exact=given == asked.wanted,
        ended=stop is not None,
    )


def both_answer(
    model: AdaptedModel, examples: Sequence[Example], before: AdapterState, after: AdapterState
) -> list[tuple[Answer, Answer]]:
    """What two adapters answer to the same examples, all of which have a target."""
    found = []
    for adapter in (before, after):
        model.load(adapter)
        found.append(answers(model, examples))
    return list(zip(*found, strict=True))


def _text(model: AdaptedModel, token_ids: Sequence[int]) -> str:
    text: str = model.base.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
