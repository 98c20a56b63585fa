"""What an adapter costs the base on texts that have nothing to do with its job: bits per byte before and after.

The texts are Yoriai's own, short and general, five in each of ten languages, written for this project and given to the
public domain (CC0). No job trains on them, and no conditioning takes its measure of them. They are few: a small loss
in one language would not show. A head that trains leaves the base as it is, so there is nothing to forget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from yoriai.client.base.base_model import BaseModel, choose_device, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.evaluation.by_language import tally_of
from yoriai.client.model.paired import changes
from yoriai.client.model.per_record import PerRecord
from yoriai.client.records.token_bytes import token_bytes
from yoriai.client.session.export import HEAD_FILE
from yoriai.client.session.loading import read_task

_MEASURE: Final = "bits_per_byte"


@dataclass(frozen=True)
class Forgetting:
    """Bits per byte of general texts under the base and under the base with what was trained on it.

    Attributes:
        texts, languages: how many.
        change, low, high: after minus before, with its 95 % paired bootstrap interval; above zero something is lost.
        untouched: the base is not changed at all, so that both are one model.
    """

    texts: int
    languages: int
    before: float
    after: float
    change: float
    low: float
    high: float
    untouched: bool

    def told(self) -> str:
        """In a sentence."""
        of = f"{self.texts} texts in {self.languages} languages"
        if self.untouched:
            return f"{self.before:.3f} bits per byte on {of}, before and after: the base is not changed"
        open_mark = " ?" if self.low <= 0 <= self.high else ""
        return (
            f"{self.before:.3f} bits per byte before, {self.after:.3f} after on {of}: "
            f"{self.change:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{open_mark}"
        )


@cache
def general_texts() -> tuple[tuple[str, str], ...]:
    """The texts that come with Yoriai for this alone, each as (language, text)."""
    lines = files("yoriai.client.evaluation").joinpath("general_texts.txt").read_text(encoding="utf-8").splitlines()
    return tuple((language, text) for language, _, text in (line.partition("\t") for line in lines))


def forgetting(folder: Path, base: str | None = None, *, device: str = "auto") -> Forgetting:
    """Measure what a run wrote or a site was delivered.

    Args:
        folder: holds task.json.
        base: where the base is, if it is not what task.json names.
        device: auto, cpu or cuda:N.

    Raises:
        AdapterError: the folder is no such folder.
        BaseModelError: the base does not load, or is another one than it was trained on.
    """
    named = read_task(folder)["base"]
    texts = [text for _, text in general_texts()]
    with quiet_libraries():
        found = load_base(base or named["name"], device=choose_device(device), expected_digest=named["digest"])
        before = losses_of(found, found.model, texts)
        if untouched := (folder / HEAD_FILE).exists():
            after = before
        else:
            from peft import PeftModel

            after = losses_of(found, PeftModel.from_pretrained(found.model, str(folder)).eval(), texts)
    old, new = tally_of(before), tally_of(after)
    change = changes([old], [new])[_MEASURE]
    return Forgetting(
        texts=len(texts),
        languages=len({language for language, _ in general_texts()}),
        before=old.bits_per_byte or 0.0,
        after=new.bits_per_byte or 0.0,
        change=change.change,
        low=change.low,
        high=change.high,
        untouched=untouched,
    )


@torch.no_grad()
def losses_of(base: BaseModel, model: Any, texts: Sequence[str]) -> PerRecord:
    """Nats of each text's tokens, every one of them predicted from those before it; one text at a time.

    Args:
        base: whose tokenizer and device are used.
        model: the base's own, with or without an adapter.
    """
    sizes, start = token_bytes(base.tokenizer), base.start_token
    losses, units, byte_counts = [], [], []
    for text in texts:
        ids = [start, *base.tokenizer.encode(text, add_special_tokens=False)]
        tokens = torch.tensor([ids], device=base.device)
        logits = model(input_ids=tokens).logits[0, :-1].float()
        losses.append(float(functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")))
        units.append(len(ids) - 1)
        byte_counts.append(int(sizes[ids[1:]].sum()))
    return PerRecord.predicted(losses, units, byte_counts)
