"""A whole federation in miniature: a tiny base in a folder, and sites with records that it can learn from."""

import json
import random
from pathlib import Path

from tests.tiny import tiny_llama, tiny_tokenizer

WORDS = {"pump": ("leaks", "drips"), "engine": ("smokes", "stalls"), "cabin": ("rattles", "squeaks")}


def save_tiny_base(folder: Path, *, seed: int = 0) -> Path:
    """Write a random LLaMA with a byte-level tokenizer in Hugging Face's layout."""
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer, seed=seed)
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
        "lora.layers": "last:2",
        "lora.rank": 4,
        "lora.alpha": 4.0,
        "federation.rounds": 3,
        "federation.server_learning_rate": 0.05,
        "training.sampling_rate": 0.5,
        "evaluation.every": 1,
        "speed.threads": 1,
        **more,
    }
