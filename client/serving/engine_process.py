"""Starts llama.cpp's server as a child, talks to it, and ends it. One engine has one adapter for all of its life."""

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
import threading
from dataclasses import dataclass

import httpx

from yoriai.client.edge.engine import Engine
from yoriai.client.edge.llama_server import require_llama
from yoriai.errors import ServerError

_TO_START_S = 300.0  # A large file on a slow disk; it answers, or its process ends.
_TO_END_S = 10.0


@dataclass(frozen=True)
class EngineProcess:
    """An engine that runs.

    Attributes:
        client: who may talk to it. Whoever waits for an answer waits as long as that takes.
    """

    client: httpx.AsyncClient
    _process: subprocess.Popen[bytes]

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    async def end(self) -> None:
        """End the process, at the latest after ten seconds. What it was still answering is cut off."""
        await self.client.aclose()
        await asyncio.to_thread(_end, self._process)


def start_engine(
    *, gguf: str, adapter: str, name: str, context_tokens: int, parallel: int, threads: int
) -> EngineProcess:
    """Start an engine, as `Engine` has it, and wait until it answers.

    Raises:
        ConfigError: llama.cpp is not installed.
        ServerError: it does not load base or adapter, or ended before it answered.
    """
    require_llama()
    key = secrets.token_urlsafe(32)
    engine = Engine(gguf, adapter, name, key, context_tokens, parallel, threads)
    process = subprocess.Popen(
        [sys.executable, "-m", "yoriai.client.edge.engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    # A process that hangs is killed, and then its line ends.
    watchdog = threading.Timer(_TO_START_S, process.kill)
    watchdog.start()
    try:
        told = _exchange(process, engine.to_line())
    finally:
        watchdog.cancel()
    if "address" not in told:
        _end(process)
        raise ServerError(
            f"llama.cpp does not load {'the adapter' if adapter else 'the base'}",
            found=str(told.get("fault") or f"its process ended with {process.returncode}"),
            expected="a base that is whole, and an adapter of that very base",
            remedy="check both files; with too little memory lower serve.parallel or serve.context_tokens",
        )
    client = httpx.AsyncClient(
        base_url=str(told["address"]),
        headers={"Authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(None, connect=10.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=parallel),
        trust_env=False,  # No proxy of the environment sees what is asked on this machine.
    )
    return EngineProcess(client, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its standard input ends, and so does it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_TO_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> dict[str, object]:
    """Give the process its line, and take its own; nothing if it ends before."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        told: dict[str, object] = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        return {}
    return told
