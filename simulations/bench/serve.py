"""An endpoint under load: some clients ask at once and without a pause, and every answer is seen to be whole.

A request counts as lost if it is refused, breaks off, or ends without a reason for its end. Times are the clients' own:
to the first piece, and to the end of the stream.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import httpx
import numpy as np

_TO_ANSWER_S: Final = 300.0
# Short questions, as a plant's own machine gets them; each client begins at another one.
_QUESTIONS: Final = (
    "The pump leaks at the seal. What is to be checked first?",
    "How do I bleed the hydraulic circuit?",
    "El motor no arranca en frío. ¿Qué hago?",
    "油圧ポンプの異音の原因は？",
    "Name three reasons why a bearing runs hot.",
    "Write a work order for a broken cabin door.",
    "Which oil goes into the gearbox?",
    "Why does the engine smoke under load?",
)


@dataclass(frozen=True)
class Load:
    """Who asks what, and for how long.

    Attributes:
        url: of the endpoint, with /v1.
        key: that it wants.
        model: that is asked.
        clients: at once.
        seconds: until the last request begins.
        answer_tokens: of each answer, at most.
    """

    url: str
    key: str
    model: str
    clients: int
    seconds: float
    answer_tokens: int

    def __repr__(self) -> str:
        return f"Load({self.url}, clients={self.clients})"


@dataclass
class _Client:
    """What one client has seen; times in seconds."""

    firsts: list[float] = field(default_factory=list)
    wholes: list[float] = field(default_factory=list)
    tokens: int = 0
    lost: list[str] = field(default_factory=list)


def bench_serve(load: Load) -> dict[str, Any]:
    """Ask for as long as the load says; returns counts, quantiles and what was lost, ready for JSON."""
    clients = [_Client() for _ in range(load.clients)]
    until = time.monotonic() + load.seconds
    began = time.monotonic()
    threads = [threading.Thread(target=_ask_on, args=(load, client, n, until)) for n, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    wholes = [seconds for client in clients for seconds in client.wholes]
    firsts = [seconds for client in clients for seconds in client.firsts]
    lost = [reason for client in clients for reason in client.lost]
    return {
        "schema": 1,
        "clients": load.clients,
        "seconds": round(took, 1),
        "answer_tokens": load.answer_tokens,
        "answered": len(wholes),
        "lost": len(lost),
        "why": sorted(set(lost)),
        "first_s": _quantiles(firsts),
        "whole_s": _quantiles(wholes),
        "tokens_per_s": round(sum(client.tokens for client in clients) / took, 1),
    }


def _quantiles(times: list[float]) -> dict[str, float]:
    if not times:
        return {}
    return {name: round(float(np.quantile(times, q)), 3) for name, q in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}


def _ask_on(load: Load, client: _Client, number: int, until: float) -> None:
    headers = {"Authorization": f"Bearer {load.key}"}
    with httpx.Client(base_url=load.url, headers=headers, timeout=_TO_ANSWER_S, trust_env=False) as http:
        for turn in count(number):
            if time.monotonic() >= until:
                return
            try:
                _ask(http, load, client, _QUESTIONS[turn % len(_QUESTIONS)])
            except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                client.lost.append(type(error).__name__)


def _ask(http: httpx.Client, load: Load, client: _Client, question: str) -> None:
    asked = {
        "model": load.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": load.answer_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, reason, tokens = time.monotonic(), 0.0, None, 0
    with http.stream("POST", "/chat/completions", json=asked) as answer:
        if answer.status_code != 200:
            client.lost.append(f"status {answer.status_code}")
            return
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.monotonic() - began
            piece = json.loads(line.removeprefix("data: "))
            reason = next((choice["finish_reason"] for choice in piece["choices"]), reason)
            tokens = (piece.get("usage") or {}).get("completion_tokens", tokens)
    if reason is None:
        client.lost.append("broke off")
        return
    client.firsts.append(first)
    client.wholes.append(time.monotonic() - began)
    client.tokens += tokens
