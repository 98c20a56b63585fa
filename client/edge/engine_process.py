"""Starts llama.cpp's server as a child, and ends it. One engine has one adapter for all of its life."""

import contextlib
import importlib.util
import json
import secrets
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from yoriai.client.edge.engine import Engine
from yoriai.errors import AdapterError, ConfigError

_TO_START_S = 300.0  # A large file on a slow disk; it answers, or its process ends.
_TO_END_S = 10.0


def has_llama() -> bool:
    """Whether llama.cpp is installed here."""
    return importlib.util.find_spec("xllamacpp") is not None


def require_llama() -> None:
    """Raise ConfigError, with what to install, if llama.cpp is not here."""
    if not has_llama():
        raise ConfigError("llama.cpp is not installed here (xllamacpp)", remedy='pip install "yoriai[edge]"')


@dataclass(frozen=True)
class EngineProcess:
    """An engine that runs.

    Attributes:
        address: of its server, on loopback.
        headers: without which it answers nobody; its key is in them.
    """

    address: str
    headers: dict[str, str]
    _process: subprocess.Popen[bytes]

    def __repr__(self) -> str:
        return f"EngineProcess({self.address})"

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, at the latest after ten seconds. What it was still answering is cut off."""
        _end(self._process)


def start_engine(
    gguf: Path, adapter: Path | None, *, name: str, context_tokens: int, parallel: int = 1, threads: int = 1
) -> EngineProcess:
    """Start an engine, as `Engine` has it, and wait until it answers.

    Raises:
        ConfigError: llama.cpp is not installed.
        AdapterError: it does not load base or adapter, or ended before it answered.
    """
    require_llama()
    key = secrets.token_urlsafe(32)
    engine = Engine(str(gguf), str(adapter or ""), name, key, context_tokens, parallel, threads)
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
        raise AdapterError(
            f"llama.cpp does not load {f'the adapter {adapter.name}' if adapter else f'the base {gguf.name}'}",
            found=str(told.get("fault") or f"its process ended with {process.returncode}"),
            expected="a base that is whole, and an adapter of that very base",
            remedy="check both files; where an endpoint has too little memory, lower serve.parallel or "
            "serve.context_tokens",
        )
    return EngineProcess(str(told["address"]), {"Authorization": f"Bearer {key}"}, process)


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
