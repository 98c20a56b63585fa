"""A version that writes: base and adapter in llama.cpp, and prompts in the tokens that the adapter was taught with."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from yoriai.client.edge.engine_process import EngineProcess, start_engine
from yoriai.client.records.encoding import question_tokens
from yoriai.client.serving.adapter_gguf import adapter_gguf
from yoriai.client.serving.asked import ChatAsked, CompletionAsked
from yoriai.client.serving.base_file import BaseFile
from yoriai.config import ServeSection, TaskSection
from yoriai.errors import ConfigError

_UNCUT = 1_000_000


@dataclass(frozen=True)
class Writer:
    """An engine with one adapter, and how it is asked.

    Attributes:
        client: talks to the engine. Whoever waits for an answer waits as long as that takes.
    """

    engine: EngineProcess
    client: httpx.AsyncClient
    base: BaseFile
    task: dict[str, Any]
    settings: ServeSection

    async def end(self) -> None:
        """End the engine; see `EngineProcess.end`."""
        await self.client.aclose()
        await asyncio.to_thread(self.engine.end)

    def chat_tokens(self, asked: ChatAsked, *, adapted: bool) -> list[int]:
        """The tokens of a chat.

        One message of a user goes into the task's template, as `yoriai.load(…).generate(TEXT)` puts it there, unless
        serve.one_message has it otherwise; several turns, and whatever the bare base is asked, go into the base's chat
        template.

        Raises:
            ConfigError: they leave no room for an answer.
            RecordError: the base has no template for these turns.
        """
        turns = [message.turn for message in asked.messages]
        single = len(turns) == 1 and turns[0][0] == "user"
        in_template = single and adapted and self.task["kind"] == "instruct" and self.settings.one_message == "template"
        return self._tokens(turns[0][1] if in_template else turns, "instruct", asked.most_tokens)

    def text_tokens(self, asked: CompletionAsked) -> list[int]:
        """The tokens of a text that is to go on. Raises ConfigError if they leave no room for an answer."""
        return self._tokens(asked.prompt, "lm", asked.most_tokens)

    def answer_tokens(self, asked: ChatAsked | CompletionAsked) -> int:
        """How long the answer may be."""
        return asked.most_tokens or self._usual

    @property
    def _usual(self) -> int:
        return min(self.settings.answer_tokens, self._context // 2)

    @property
    def _context(self) -> int:
        return min(self.settings.context_tokens, self.base.context_tokens)

    def _tokens(
        self, asked: str | Sequence[tuple[str, str]], kind: Literal["lm", "instruct"], most_tokens: int | None
    ) -> list[int]:
        answer = most_tokens or self._usual
        # Without a limit: what is too long is refused, where training would cut it.
        task = TaskSection(kind=kind, template=self.task["template"], max_tokens=_UNCUT)
        ids = question_tokens(asked, self.base.tokenizer, task, limit=_UNCUT)
        if len(ids) + answer > self._context:
            raise ConfigError(
                "the request is longer than this endpoint reads",
                found=f"{len(ids)} tokens, and {answer} for the answer",
                expected=f"{self._context} in all",
                remedy="shorten it, lower max_tokens, or have the operator raise serve.context_tokens",
            )
        return ids


def open_writer(
    folder: Path, task: dict[str, Any], base: BaseFile, name: str, settings: ServeSection, cache: Path
) -> Writer:
    """Start llama.cpp with the adapter of a folder.

    Args:
        task: what the folder's task.json says.
        name: what answers call the model.
        cache: where the adapter is kept in llama.cpp's format.

    Raises:
        AdapterError: it is of another base, or not one that llama.cpp can have or loads.
        ConfigError: llama.cpp is not installed.
    """
    base.check(task["base"]["digest"])
    adapter = adapter_gguf(folder, base.gguf, cache)
    engine = start_engine(
        base.gguf,
        adapter,
        name=name,
        context_tokens=min(settings.context_tokens, base.context_tokens),
        parallel=settings.parallel,
        threads=settings.threads or max(1, len(os.sched_getaffinity(0)) // 2),
    )
    client = httpx.AsyncClient(
        base_url=engine.address,
        headers=engine.headers,
        timeout=httpx.Timeout(None, connect=10.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.parallel),
        trust_env=False,  # No proxy of the environment sees what is asked on this machine.
    )
    return Writer(engine, client, base, task, settings)
