"""A trained adapter or head as a folder: what it is, what it belongs to, and its factors.

FOLDER/
  task.json                  what answers with it: kind, template, labels, settings, the base's name and digest
  adapter_model.safetensors  adapter_config.json    LoRA factors, in PEFT's own format; or
  head.safetensors           a head that trained, with its public conditioning

A head is in no other library's format. `LlamaForSequenceClassification`, say, reads the last position alone, has no
bias for the mean that conditioning takes off, and knows neither the norms nor the words that are read beside states.
"""

import copy
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from yoriai.client.model.head_model import HeadModel
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.tasks import LabelHead
from yoriai.client.records.encoding import DEFAULT_TEMPLATES
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import rule_of
from yoriai.system.files import replace_content

TASK_FILE: Final = "task.json"
HEAD_FILE: Final = "head.safetensors"
TASK_SCHEMA: Final = 1


def save_adapter(session: ModelSession, job: JobConfig, state: AdapterState, folder: Path) -> None:
    """Write a folder that `yoriai.load` answers with, and PEFT too where it holds LoRA factors.

    Args:
        session: holds the job's base.
        state: all factors of the job.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = session.model(job)
    if isinstance(model, HeadModel):
        replace_content(folder / HEAD_FILE, state.to_bytes())
    else:
        assert isinstance(model, AdaptedModel)
        save_peft(model, rule_of(job).to_peft(state), folder)
    replace_content(folder / TASK_FILE, json.dumps(_task(session, job), ensure_ascii=False, indent=1).encode())


def _task(session: ModelSession, job: JobConfig) -> dict[str, Any]:
    """What a reader needs to answer with the folder, and to see what it belongs to."""
    task = job.task
    found: dict[str, Any] = {
        "schema": TASK_SCHEMA,
        "job": job.name,
        "kind": task.kind,
        "template": task.template or DEFAULT_TEMPLATES.get(task.kind),
        "max_tokens": task.max_tokens,
        "base": {"name": session.base.name, "digest": session.base.digest},
    }
    if task.kind == "classify":
        found["labels"] = list(task.labels)
        found["head"] = "trained" if job.trains_head else "labels"
    if job.trains_head:
        found |= job.head.model_dump(mode="json")
    head = session.head(job)
    if isinstance(head, LabelHead):
        found["prior"] = head.prior.tolist()
    return found


def save_peft(model: AdaptedModel, factors: AdapterState, folder: Path) -> None:
    """Write A and B factors in PEFT's own format, which `PeftModel.from_pretrained` loads.

    Args:
        factors: the A and B factors only, as a rule's `to_peft` returns them. Their rank may be another than the
            job's, and differ from map to map; PEFT's alpha then grows with it, so that the scale stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in factors.tensors.items():
        path, factor = name.rsplit(":", 1)
        tensors[f"base_model.model.{path}.lora_{factor}.weight"] = np.ascontiguousarray(tensor)
    # By our own hand, for the system's own errors, and so that a full disk leaves the adapter of before.
    replace_content(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    config = copy.copy(model.peft_config())
    config.inference_mode = True
    ranks = {path: factors.factor(path, "A").shape[0] for path in factors.module_paths()}
    config.rank_pattern = {path: rank for path, rank in ranks.items() if rank != model.rank}
    config.alpha_pattern = {path: model.alpha * rank / model.rank for path, rank in ranks.items() if rank != model.rank}
    config.base_model_name_or_path = model.base.name
    config.save_pretrained(str(folder))
