"""What llama.cpp is asked of one language: the labels of records, the bits of texts, and a few answers against time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from yoriai.client.edge.fidelity import label_scores
from yoriai.client.edge.llama_server import LlamaServer
from yoriai.client.edge.reference import label_tokens_of, prompt_tokens
from yoriai.client.records.records import Record
from yoriai.client.records.token_bytes import token_bytes

_ANSWER_TOKENS: Final = 16


@dataclass(frozen=True)
class Language:
    """What one language is measured on.

    Attributes:
        records: test records of the task; may be empty.
        texts: whose bits are counted.
    """

    name: str
    records: tuple[Record, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """One language on one file, with the adapter on or off.

    Attributes:
        correct: right labels; None where the task chooses none.
        answered: records asked.
        bits, text_bytes: of the texts, from their second token on.
        first_ms: until the first token, a record or text each.
        token_ms: for each further token, an answer each.
    """

    correct: int | None
    answered: int
    bits: float
    text_bytes: int
    first_ms: tuple[float, ...]
    token_ms: tuple[float, ...]


class Asker:
    """Asks in the template of a task.

    Args:
        task: as task.json has it.
        tokenizer: of the base.
        context_tokens: of the base.
        answers: how many are timed, a language.
    """

    def __init__(self, task: Mapping[str, Any], tokenizer: Any, context_tokens: int, answers: int) -> None:
        self._task, self._tokenizer, self._context, self._answers = task, tokenizer, context_tokens, answers
        self._labels = label_tokens_of(task, tokenizer)
        self._bytes: NDArray[np.int64] = token_bytes(tokenizer)

    def ask(self, server: LlamaServer, language: Language, *, bare: bool) -> Measured:
        """Measure one language."""
        asked = [self._prompt(record.prompt or "") for record in language.records]
        right = sum(
            self._label(server, ids, bare=bare) == record.response
            for ids, record in zip(asked, language.records, strict=True)
            if self._labels
        )
        bits, size = self._bits(server, language.texts, bare=bare)
        timed = (asked or [self._prompt(text) for text in language.texts])[: self._answers]
        answers = [server.answer(ids, _ANSWER_TOKENS, bare=bare) for ids in timed]
        each = tuple(answer.token_ms for answer in answers if answer.token_ms is not None)
        first = tuple(answer.prompt_ms for answer in answers)
        return Measured(right if self._labels else None, len(asked) if self._labels else 0, bits, size, first, each)

    def longest(self, languages: Sequence[Language]) -> int:
        """Tokens of the longest prompt with its answer."""
        prompts = [record.prompt or "" for language in languages for record in language.records]
        texts = [text for language in languages for text in language.texts]
        return max(len(self._prompt(text)) for text in [*prompts, *texts]) + _ANSWER_TOKENS

    def _prompt(self, text: str) -> tuple[int, ...]:
        return prompt_tokens(self._tokenizer, text, self._task, self._context)

    def _label(self, server: LlamaServer, ids: Sequence[int], *, bare: bool) -> str:
        logs = server.next_log_probabilities(ids, bare=bare)[None]
        scores = label_scores(logs, list(self._labels.values()), self._task["prior"])
        return list(self._labels)[int(scores[0].argmax())]

    def _bits(self, server: LlamaServer, texts: Sequence[str], *, bare: bool) -> tuple[float, int]:
        """Bits of the texts' tokens but the first, which nothing comes before, and the bytes that these stand for."""
        bits, size = 0.0, 0
        for text in texts:
            ids = self._tokenizer.encode(text, add_special_tokens=True)
            bits += sum(server.surprises(ids, bare=bare)) / np.log(2)
            size += int(self._bytes[ids[1:]].sum())
        return float(bits), size
