"""`yoriai.load`: a trained folder, answering. What simulations write and sites are delivered loads alike."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yoriai.client.base.base_model import BaseModel, choose_device, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.base.states import places
from yoriai.client.model.adapter_audit import audit_folder
from yoriai.client.model.head_model import HeadModel, HeadShape
from yoriai.client.records.encoding import Example, encode, question_tokens
from yoriai.client.records.records import Record
from yoriai.client.session.base_answers import LabelWords
from yoriai.client.session.export import HEAD_FILE, TASK_FILE, TASK_SCHEMA
from yoriai.config import TaskSection
from yoriai.errors import AdapterError, ConfigError
from yoriai.strategies.adapter import AdapterState

_AT_ONCE = 64


@dataclass(frozen=True)
class Trained:
    """A base with what was trained on it.

    Attributes:
        task: as task.json has it.
        labels: of a classifier, in the job's order; empty otherwise.
    """

    base: BaseModel
    task: dict[str, Any]
    _model: Any

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it chooses from."""
        return tuple(self.task.get("labels", ()))

    @property
    def has_head(self) -> bool:
        """Whether a head was trained, and the base left as it is."""
        return isinstance(self._model, HeadModel)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text. Raises ConfigError if it is no classifier."""
        return [self.labels[int(row)] for row in self.probabilities(texts).argmax(1)]

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """(texts, labels) float32. Raises ConfigError if it is no classifier, RecordError for a text without tokens."""
        if not self.labels:
            raise ConfigError("this adapter chooses no label", found=str(self.task["kind"]), expected="classify")
        section = TaskSection(
            kind="classify", template=self.task["template"], labels=self.labels, max_tokens=self.task["max_tokens"]
        )
        records = [Record(prompt=text, response=self.labels[0]) for text in texts]
        encoded = encode(records, self.base.tokenizer, section, context_tokens=self.base.context_tokens)
        logits = [self._logits(encoded.examples[i : i + _AT_ONCE]) for i in range(0, len(texts), _AT_ONCE)]
        return torch.cat([torch.zeros(0, len(self.labels)), *logits]).softmax(1)

    def generate(self, prompt: str | Sequence[Mapping[str, str]], *, max_new_tokens: int = 64) -> str:
        """The likeliest answer to a prompt, which becomes the tokens that training makes of one.

        Args:
            prompt: a text, put into the task's template; or, where conversations were learnt, messages as records have
                them, `{"role": …, "content": …}`, put into the base's chat template.
            max_new_tokens: of the answer, at most. A prompt that leaves no room for them is cut as in training.

        Raises:
            ConfigError: it is a classifier; or the template, or the answer, leaves no room for a prompt.
            RecordError: as `question_tokens`.
        """
        if self.labels:
            raise ConfigError("this adapter chooses a label and writes nothing", remedy="call predict")
        asked = prompt if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]
        if (limit := self.base.context_tokens - max_new_tokens) < 1:
            raise ConfigError(
                "the answer leaves no room for a prompt",
                found=f"max_new_tokens = {max_new_tokens}",
                expected=f"below {self.base.context_tokens}, which the base reads in all",
                remedy="lower it",
            )
        section = TaskSection(kind=self.task["kind"], template=self.task["template"], max_tokens=limit)
        ids = torch.tensor([question_tokens(asked, self.base.tokenizer, section, limit=limit)], device=self.base.device)
        answer = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.base.tokenizer.pad_token_id,
        )
        found: str = self.base.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
        return found

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """The bare base, for as long as the context lasts: it generates, and chooses by the labels' own words."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [module for module in self.base.model.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def _logits(self, examples: Sequence[Example]) -> Tensor:
        if isinstance(self._model, HeadModel):
            entering = self._model.enter(examples, max(len(example.token_ids) for example in examples))
            logits: Tensor = self._model.tail(self._model.read(entering))
            return logits.float().cpu()
        words: LabelWords = self._model
        return words.of_examples(examples).cpu()


def load(folder: Path | str, base: str | None = None, *, device: str = "auto") -> Trained:
    """Load a folder that a run wrote or a site was delivered, with its base.

    Args:
        folder: holds task.json.
        base: where the base is, if it is not what task.json names: a folder, a .gguf file, a packaged name.
        device: auto, cpu or cuda:N.

    Raises:
        AdapterError: the folder is no such folder, or what is in it does not fit.
        BaseModelError: the base does not load, or is another one than it was trained on.
    """
    folder = Path(folder)
    task = read_task(folder)
    audit_folder(folder).refuse()
    with quiet_libraries():
        found = load_base(
            base or task["base"]["name"], device=choose_device(device), expected_digest=task["base"]["digest"]
        )
        if (folder / HEAD_FILE).exists():
            return Trained(found, task, _head_model(folder, task, found))
        from peft import PeftModel

        model = PeftModel.from_pretrained(found.model, str(folder)).eval()
    if task["kind"] == "classify":  # PEFT put the adapter into the base's own layers.
        return Trained(found, task, LabelWords(found, task["labels"], torch.tensor(task["prior"])))
    return Trained(found, task, model)


def _head_model(folder: Path, task: dict[str, Any], base: BaseModel) -> HeadModel:
    named = places(task["states"], int(base.model.config.num_hidden_layers))
    model = HeadModel(base, HeadShape(named, base.width, task["directions"], task["words"], len(task["labels"])))
    model.load(AdapterState.from_bytes((folder / HEAD_FILE).read_bytes()))
    return model


def read_task(folder: Path) -> dict[str, Any]:
    """What a folder's task.json says, once it is seen to say all that is needed. Raises AdapterError if it does not."""
    path = folder / TASK_FILE
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
        needed = {"kind", "template", "max_tokens", "base"}
        if task["schema"] != TASK_SCHEMA or not needed <= task.keys() or not {"name", "digest"} <= task["base"].keys():
            raise ValueError
        if task["kind"] == "classify" and not task["labels"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path} does not say what the folder answers",
            found=type(error).__name__,
            expected="a folder that yoriai simulate wrote or a site was delivered",
            remedy="check the path",
        ) from None
    return task  # type: ignore[no-any-return]
