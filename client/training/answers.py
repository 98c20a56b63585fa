"""Answers that an adapted model gives to test records, by greedy decoding.

An answer is stopped at as many tokens as the expected one has, so that a model which never ends costs no more time than
one that does; what it would have gone on to say is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from yoriai.client.model.lora import AdaptedModel
from yoriai.client.records.encoding import Example
from yoriai.strategies.adapter import AdapterState

# Answers that are shown side by side.
SAMPLES: Final = 5


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


@torch.no_grad()
def answer(model: AdaptedModel, example: Example) -> Answer:
    """Greedy decoding from the prompt of an example that has a target, with the adapter that is loaded.

    Compared is the first response up to where generation ends: what a chat template puts behind that end (ChatML a line
    end) is learnt, and never generated.
    """
    token_ids, is_target = example.token_ids.tolist(), example.loss_mask.tolist()
    start = is_target.index(True)
    stop = next((i for i in range(start, len(is_target)) if not is_target[i]), len(is_target))
    ends = model.base.end_tokens
    stop = next((i + 1 for i in range(start, stop) if token_ids[i] in ends), stop)
    wanted = token_ids[start:stop]
    prompt = torch.tensor([token_ids[:start]], device=model.base.device)
    whole = model.peft_model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(wanted),
        do_sample=False,
        pad_token_id=model.base.tokenizer.pad_token_id,
    )
    given = whole[0, start:].tolist()
    return Answer(
        prompt=_text(model, token_ids[:start]),
        expected=_text(model, wanted),
        given=_text(model, given),
        exact=given == wanted,
        ended=len(given) < len(wanted) or given[-1] in ends,
    )


def both_answer(
    model: AdaptedModel, examples: Sequence[Example], before: AdapterState, after: AdapterState
) -> list[tuple[Answer, Answer]]:
    """What two adapters answer to the same examples, all of which have a target."""
    answers = []
    for adapter in (before, after):
        model.load(adapter)
        answers.append([answer(model, example) for example in examples])
    return list(zip(*answers, strict=True))


def _text(model: AdaptedModel, token_ids: Sequence[int]) -> str:
    text: str = model.base.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
