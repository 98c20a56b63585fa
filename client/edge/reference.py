"""What an export is held against: the base with and without its adapter, by PEFT, after public texts in the template.

The texts are Yoriai's own (`public_texts.txt`), in fifteen languages. No record of a site is looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from yoriai.client.base.base_model import BaseModel
from yoriai.client.edge.fidelity import Logs, log_probabilities
from yoriai.client.model.public_texts import shipped_texts
from yoriai.client.model.tasks import label_tokens
from yoriai.client.records.control_tokens import TextEncoder
from yoriai.client.records.encoding import question_tokens
from yoriai.config import TaskSection

POSITIONS: Final = 32


@dataclass(frozen=True)
class Reference:
    """The adapted model and the bare base at the same positions.

    Attributes:
        base: bare again.
        texts: public texts in the job's template.
        prompts: their tokens.
        adapted, bare: log-probabilities of the next token, (positions, vocabulary).
        labels: each label's tokens; empty unless the task chooses one.
        prior: of each label.
    """

    base: BaseModel
    texts: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    adapted: Logs
    bare: Logs
    labels: Mapping[str, list[int]]
    prior: tuple[float, ...]

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows."""
        return int(self.base.model.config.vocab_size)


def measure_reference(base: BaseModel, folder: Path, task: Mapping[str, Any]) -> Reference:
    """Measure it.

    Args:
        base: bare; it is so again afterwards.
        folder: holds the adapter in PEFT's format.
        task: as task.json has it.
    """
    from peft import PeftModel

    texts = public_sample()
    prompts = tuple(prompt_tokens(base.tokenizer, text, task, base.context_tokens) for text in texts)
    bare = log_probabilities(base.model, prompts, base.device)
    adapted_model: Any = PeftModel.from_pretrained(base.model, str(folder)).eval()
    try:
        adapted = log_probabilities(adapted_model, prompts, base.device)
    finally:
        adapted_model.unload()
    labels = label_tokens_of(task, base.tokenizer)
    template = task["template"] or "{prompt}"
    filled = tuple(template.replace("{prompt}", text) for text in texts)
    return Reference(base, filled, prompts, adapted, bare, labels, tuple(task.get("prior", ())))


def peft_log_probabilities(reference: Reference, folder: Path) -> Logs:
    """What PEFT makes of a folder on the same base at the same positions."""
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(reference.base.model, str(folder)).eval()
    try:
        return log_probabilities(model, reference.prompts, reference.base.device)
    finally:
        model.unload()


def public_sample() -> tuple[str, ...]:
    """Evenly out of all, so that each language is among them."""
    every = shipped_texts()
    return every[:: max(1, len(every) // POSITIONS)][:POSITIONS]


def prompt_tokens(tokenizer: Any, text: str, task: Mapping[str, Any], context_tokens: int) -> tuple[int, ...]:
    """A text in the task's template, as training makes tokens of it.

    Args:
        task: as task.json has it.
        context_tokens: that the base reads.
    """
    limit = min(int(task["max_tokens"]), context_tokens)
    section = TaskSection(kind=task["kind"], template=task["template"], labels=task.get("labels", ()), max_tokens=limit)
    return tuple(question_tokens(text, tokenizer, section, limit=limit))


def label_tokens_of(task: Mapping[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    """Each label's tokens; none for a task that chooses no label."""
    encoder = TextEncoder(tokenizer)
    return {label: label_tokens(encoder, label) for label in task.get("labels", ())}
