"""The table of docs/benchmarks/dpsgd.md for a GPU, by one command: `python -m tests.gpu_table FILE` (`make test-gpu`).

A step of SmolLM2 with every layer adapted, of a LLaMA of one billion and of one of eight billion random weights, plain
against private; and the attacks of `yoriai audit` on the training as it runs there.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS = {
    "smollm2": ("--base", "smollm2-135m-instruct", "--batch", "64", "--length", "256"),
    "1b": ("--base", "random-llama-1b", "--batch", "32", "--length", "256"),
    "8b": ("--base", "random-llama-8b", "--batch", "8", "--length", "256"),
}


def asked(*words: str) -> dict[str, Any]:
    """What a command of yoriai prints as JSON; its return code too, of which 1 is an audit's finding."""
    print("yoriai", *words, flush=True)  # noqa: T201
    command = [sys.executable, "-m", "yoriai.cli", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return {"command": " ".join(["yoriai", *words]), "code": done.returncode, "found": json.loads(done.stdout or "{}")}


def main() -> None:
    """Run everything, write it, and print the table's rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", nargs="*", default=[*STEPS, "audit"])
    chosen = parser.parse_args()
    ways = [word for way in ("plain", "opacus", "yoriai") for word in ("--way", way)]
    found = {
        name: asked("bench", "dpsgd", *settings, "--rank", "16", "--layers", "all", "--device", chosen.device, *ways)
        for name, settings in STEPS.items()
        if name in chosen.only
    }
    if "audit" in chosen.only:
        found["audit"] = asked("audit", "--base", "tiny")
    chosen.file.write_text(json.dumps(found, indent=1))
    for name, one in found.items():
        for way, cost in one["found"].get("ways", {}).items():
            seconds, memory = f"{cost['step_s']:.3f} s", f"{cost['peak_memory_mb']:,.0f} MB"
            print(f"| {name} | {way} | {seconds} | {cost['tokens_per_s']:,.0f} | {memory} |")  # noqa: T201
    if any(one["code"] for one in found.values()):
        sys.exit("a command failed, or an audit refuted its claim")


if __name__ == "__main__":
    main()
