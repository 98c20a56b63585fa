"""What other programs want beside the weights: Ollama's Modelfile, and the line that has vLLM serve the folder.

Checked against https://docs.ollama.com/modelfile.md, https://docs.ollama.com/import.md and vLLM's LoRAConfig, whose
ranks are a closed list (`MaxLoRARanks`); an adapter above the one it was started with is refused there.
"""

from collections.abc import Mapping
from typing import Any, Final

_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
_PROMPT: Final = "{prompt}"


def modelfile(task: Mapping[str, Any], source: str, adapter: str | None = None) -> str:
    """Ollama's description of a model.

    Args:
        task: as task.json has it.
        source: the model, from the Modelfile's own folder.
        adapter: the adapter beside it.
    """
    lines = [f"# Made by Yoriai of the job {_plain(str(task.get('job', '')))}: ollama create NAME -f Modelfile"]
    if task["kind"] == "classify":
        lines.append("# It chooses a label by the probabilities of the next token (export.json, labels).")
        lines.append("# What it writes is no answer.")
    lines.append(f"FROM ./{source}" if source != "." else "FROM .")
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    if (template := _template(task)) is not None:
        lines.append(f'TEMPLATE """{template}"""')
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"


def vllm_line(rank: int, folder: str) -> str | None:
    """How vLLM serves a PEFT folder; None for a rank that it has no place for."""
    room = next((one for one in _RANKS if one >= rank), None)
    if room is None:
        return None
    return f"vllm serve BASE --enable-lora --lora-modules adapter={folder} --max-lora-rank {room}"


def _template(task: Mapping[str, Any]) -> str | None:
    """The job's own in Ollama's language; None where it cannot be said there, and Ollama takes the base's."""
    template = task.get("template") or _PROMPT
    if "{{" in template or '"""' in template or template.count(_PROMPT) != 1:
        return None
    return str(template).replace(_PROMPT, "{{ .Prompt }}")


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:80]
