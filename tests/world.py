"""A whole federation in miniature: a tiny base in a folder, and sites with records that it can learn from."""

import json
import random
from pathlib import Path

from tests.tiny import tiny_llama, tiny_tokenizer

WORDS = {"pump": ("leaks", "drips"), "engine": ("smokes", "stalls"), "cabin": ("rattles", "squeaks")}


def save_tiny_base(folder: Path, *, seed: int = 0, hidden: int = 32) -> Path:
    """Write a random LLaMA with a byte-level tokenizer in Hugging Face's layout."""
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer, seed=seed, hidden=hidden)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_sites(folder: Path, sizes: dict[str, int], *, test_size: int = 12, seed: int = 0) -> Path:
    """Write a folder a site with classify records."""
    generator = random.Random(seed)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for part, count in (("train", size), ("test", test_size)):
            lines = []
            for _ in range(count):
                label = generator.choice(sorted(WORDS))
                lines.append(json.dumps({"prompt": generator.choice(WORDS[label]), "response": label}))
            (folder / name / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def job_settings(base: Path, **more: object) -> dict[str, object]:
    """Overrides that make a job small enough for the tiny base."""
    return {
        "base.model": str(base),
        "federation.rule": "core",
        "lora.layers": "last:2",
        "lora.rank": 4,
        "lora.alpha": 4.0,
        "federation.rounds": 3,
        "federation.server_learning_rate": 0.05,
        "training.sampling_rate": 0.5,
        "evaluation.every": 1,
        "speed.threads": 1,
        "deadlines.gather_s": 0.0,
        **more,
    }


def write_job(path: Path, base: Path, **more: object) -> Path:
    """Write a job file with those settings."""
    from yoriai.config import JobConfig, job_to_toml, override

    settings = job_settings(base) | more
    path.write_text(job_to_toml(override(JobConfig(name="tiny"), settings)), encoding="utf-8")
    return path


def write_records(path: Path, records: list[dict[str, object]]) -> Path:
    """Write records as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


class Notebook:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.advances: list[tuple[str, int, int]] = []

    def advance(self, what: str, done: int, total: int) -> None:
        """Keep an advance."""
        self.advances.append((what, done, total))

    def say(self, text: str) -> None:
        """Keep a line."""
        self.said.append(text)


class Stop(Notebook):
    """An observer that interrupts a run, as Ctrl-C does, at the nth advance of a kind."""

    def __init__(self, what: str, done: int, times: int = 1) -> None:
        super().__init__()
        self._at, self._left = (what, done), times

    def advance(self, what: str, done: int, total: int) -> None:
        """Interrupt, if this is the place."""
        super().advance(what, done, total)
        if (what, done) == self._at:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
