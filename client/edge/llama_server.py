"""llama.cpp at work on a model and perhaps an adapter: next tokens, answers, and what it takes of the machine.

It comes with the optional extra `edge`; nothing else of Yoriai needs it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from yoriai.client.edge.engine_process import start_engine
from yoriai.errors import AdapterError

_TIMEOUT_S: Final = 300.0
_CERTAIN: Final = 1e6


@dataclass(frozen=True)
class Answer:
    """What llama.cpp wrote.

    Attributes:
        text: without the prompt.
        tokens: of it.
        prompt_ms: until the first token.
        token_ms: for each further one; None where there is one alone.
    """

    text: str
    tokens: int
    prompt_ms: float
    token_ms: float | None


class LlamaServer:
    """A running llama.cpp; `serving` starts one.

    Args:
        client: talks to it.
        vocabulary: tokens of the model.
        pid: of its process.
        has_adapter: whether an adapter is loaded.
    """

    def __init__(self, client: httpx.Client, vocabulary: int, pid: int, *, has_adapter: bool) -> None:
        self._client, self._vocabulary, self._pid = client, vocabulary, pid
        self._has_adapter = has_adapter

    def next_log_probabilities(self, token_ids: Sequence[int], *, bare: bool = False) -> NDArray[np.float64]:
        """Of every token after these, (vocabulary,), in nats.

        Args:
            token_ids: one at least.
            bare: with the adapter switched off.
        """
        # Nothing is told of a token that ends the text, or whose bytes are no whole letter. What is told are the raw
        # probabilities, whichever token is drawn: so a harmless one is.
        found = self._complete(list(token_ids), 1, self._vocabulary, bare=bare, forced=self._harmless)
        logs = np.full(self._vocabulary, -np.inf)
        for entry in found["completion_probabilities"][0]["top_logprobs"]:
            logs[entry["id"]] = entry["logprob"]
        # Rounded on the way; a token that is not there would have had no probability at all.
        logs = np.maximum(logs, logs[np.isfinite(logs)].min())
        normalised: NDArray[np.float64] = logs - np.log(np.exp(logs).sum())
        return normalised

    def surprises(self, token_ids: Sequence[int], *, bare: bool = False) -> list[float]:
        """−log p of each token but the first, in nats, given those before it. Args as above."""
        return [self._surprise(token_ids[:place], token_ids[place], bare=bare) for place in range(1, len(token_ids))]

    def _surprise(self, before: Sequence[int], token: int, *, bare: bool) -> float:
        """Of one token: drawn by force, its raw probability is told, unless its bytes are no whole letter."""
        found = self._complete(list(before), 1, 1, bare=bare, forced=token, keep=True)
        told = found.get("completion_probabilities")
        if told and told[0]["id"] == token and told[0]["logprob"] is not None:
            return -float(told[0]["logprob"])
        return -float(self.next_log_probabilities(before, bare=bare)[token])

    def answer(self, token_ids: Sequence[int], max_new_tokens: int, *, bare: bool = False) -> Answer:
        """The likeliest answer, timed by llama.cpp itself. Args as above."""
        found = self._complete(list(token_ids), max_new_tokens, 0, bare=bare)
        timings, tokens = found["timings"], int(found["tokens_predicted"])
        each = timings["predicted_ms"] / (tokens - 1) if tokens > 1 else None
        return Answer(str(found["content"]), tokens, float(timings["prompt_ms"]), each)

    def tokens_of(self, text: str) -> list[int]:
        """How llama.cpp cuts a prompt."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        return list(self._post("/tokenize", asked)["tokens"])

    def peak_memory_bytes(self) -> int:
        """The largest resident size of its process so far, Python's own included."""
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0

    @cached_property
    def _harmless(self) -> int:
        return self.tokens_of("a")[-1]

    def _complete(
        self,
        token_ids: list[int],
        tokens: int,
        probabilities: int,
        *,
        bare: bool,
        forced: int | None = None,
        keep: bool = False,
    ) -> Any:
        asked: dict[str, Any] = {
            "prompt": token_ids,
            "n_predict": tokens,
            "n_probs": probabilities,
            "temperature": 0,
            "cache_prompt": keep,
        }
        if forced is not None:
            asked["logit_bias"] = [[forced, _CERTAIN]]
        if bare and self._has_adapter:
            asked["lora"] = [{"id": 0, "scale": 0.0}]
        return self._post("/completion", asked)

    def _post(self, path: str, asked: dict[str, Any]) -> Any:
        try:
            return self._client.post(path, json=asked).raise_for_status().json()
        except httpx.HTTPError as error:
            raise AdapterError(
                "llama.cpp does not answer with this export", found=type(error).__name__, remedy="export it again"
            ) from None


@contextmanager
def serving(
    model: Path, adapter: Path | None = None, *, vocabulary: int, threads: int = 1, context_tokens: int = 1024
) -> Iterator[LlamaServer]:
    """llama.cpp with a model, for as long as the context lasts; on loopback, under a key that nobody else has.

    Args:
        model: a GGUF file.
        adapter: a GGUF file of an adapter.
        vocabulary: tokens that the model knows.
        threads: that it computes with. With more than one they wait for each other in busy loops, which on a machine
            with other work takes many times as long.
        context_tokens: of the longest prompt with its answer.

    Raises:
        ConfigError: llama.cpp is not installed here.
        AdapterError: it does not load them.
    """
    engine = start_engine(model, adapter, name=model.stem, context_tokens=context_tokens, threads=threads)
    try:
        with httpx.Client(
            base_url=engine.address, headers=engine.headers, timeout=_TIMEOUT_S, trust_env=False
        ) as client:
            yield LlamaServer(client, vocabulary, engine.pid, has_adapter=adapter is not None)
    finally:
        engine.end()
