"""A site that serves: the real command in a process of its own, on a tiny base, with two versions to answer with."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from tests.client.last_adapters import last_adapter
from tests.client.tiny_gguf import write_tiny_gguf
from tests.commands import site
from yoriai.client.base.base_model import load_base
from yoriai.client.session.export import save_adapter
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.config import JobConfig, SpeedSection, override

LABELS = ("cabin", "engine", "pump")
_LORA: dict[str, object] = {
    "federation.rule": "fedavg",
    "lora.rank": 4,
    "lora.alpha": 8.0,
    "lora.layers": "last:2",
    "speed.threads": 1,
}
WRITES = _LORA | {"task.kind": "instruct", "task.template": "Q: {prompt} A:"}
CHOOSES = _LORA | {"task.kind": "classify", "task.labels": LABELS}


def free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class ServedSite:
    """A site whose base is a GGUF file, with versions of its own making in its channel.

    Args:
        folder: for the site.
        base: the GGUF file; written if it is not there.
        settings: of [serve], as TOML has them.
    """

    def __init__(self, folder: Path, base: Path, **settings: object) -> None:
        self.base = base if base.exists() else write_tiny_gguf(base)
        self.folder = site(folder, "north")
        text = (folder / "site.toml").read_text().replace("smollm2-135m-instruct", str(self.base), 1)
        before, mark, after = text.partition("\n[serve]\n")
        for name, value in settings.items():
            line = next(one for one in after.splitlines() if one.startswith(f"{name} = "))
            after = after.replace(f"\n{line}\n", f"\n{name} = {value}\n", 1)
        text = before + mark + after
        (folder / "site.toml").write_text(text)
        self.place = ChannelPlace(folder / "channels", "production")

    def pull(self, number: int, job: dict[str, object], seed: int = 0) -> Path:
        """Put a version with drawn factors into use; its folder."""
        base = load_base(str(self.base), device=torch.device("cpu"))
        session, made = ModelSession(base, SpeedSection(threads=1)), override(JobConfig(name="tiny"), job)
        with self.place.draft(number) as part:
            save_adapter(session, made, last_adapter(session, made, seed), part)
        session.close()
        self.place.use(number)
        return self.place.folder_of(number)

    @property
    def key(self) -> str:
        """What clients show."""
        return (self.folder / "serve.key").read_text().strip()


class Endpoint:
    """`yoriai site serve` of a site, until it is stopped.

    Args:
        folder: of the site.
        options: more of the command.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "yoriai.cli", "site", "serve", str(folder), "--port", str(self.port)]
        self.log: list[str] = []
        self._heard = threading.Condition()
        self._process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """As OpenAI's client wants it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_for(self, *words: str, since: int = 0) -> str:
        """The first line of the log with all of these words, once it is there."""

        def found() -> str | None:
            return next((line for line in self.log[since:] if all(word in line for word in words)), None)

        with self._heard:
            assert self._heard.wait_for(lambda: found() or not self._reader.is_alive(), 240), self.log
            line = found()
        assert line is not None, self.log
        return line

    def engines(self) -> list[int]:
        """Processes of llama.cpp."""
        listed = subprocess.run(
            ["ps", "--ppid", str(self._process.pid), "-o", "pid=", "-o", "args="],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return [int(line.split()[0]) for line in listed.splitlines() if "edge.engine" in line]

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._reader.join(10)
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._heard:
                self.log.append(line)
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own limit ends it."""
    pause = threading.Event()
    while not holds():
        pause.wait(0.05)
