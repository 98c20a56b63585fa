"""An adapter leaves Yoriai: `export` writes the folder of a format, has it judged, and only then lets it appear.

    gguf-adapter   base.gguf, adapter.gguf, Modelfile                  llama.cpp, Ollama
    gguf           model.gguf, Modelfile                               llama.cpp, Ollama
    peft           adapter_model.safetensors, adapter_config.json      PEFT, vLLM
    merged         model.safetensors, config.json, tokenizer, Modelfile   transformers, vLLM, Ollama
    head           head.safetensors, task.json                         yoriai.load

Beside them `export.json`: what it is of, each file's digest, and the figures it was let out with.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

import yoriai
from yoriai.client.base.base_model import choose_device, gguf_file, load_base
from yoriai.client.base.gguf_header import read_header
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.edge.adapter_folder import AdapterFolder, Factors, read_folder
from yoriai.client.edge.engine_process import require_llama
from yoriai.client.edge.families import family_of
from yoriai.client.edge.gguf_writing import MERGED_TYPES, stored, write_adapter, write_merged
from yoriai.client.edge.judging import ADAPTER_FILE, BASE_FILE, MODEL_FILE, Check, Judgement, judge
from yoriai.client.edge.modelfile import modelfile, vllm_line
from yoriai.client.edge.reference import Reference, measure_reference, public_sample
from yoriai.client.edge.safetensors_writing import write_merged_folder, write_peft
from yoriai.client.model.adapter_audit import audit_folder
from yoriai.client.session.export import HEAD_FILE, TASK_FILE
from yoriai.client.session.loading import load
from yoriai.errors import AdapterError, BaseModelError, ConfigError
from yoriai.system.files import folder_made_whole

FORMATS: Final = ("gguf-adapter", "gguf", "peft", "merged")
EXPORT_FILE: Final = "export.json"
_SCHEMA: Final = 1
_LIMITS: Final = {
    "gguf-adapter": "the adapter goes with base.gguf and no other file",
    "gguf": "matrices are of one type; a 4 or 5 bit type after a merge is worse than no adapter",
    "peft": "the base is not in the folder",
    "merged": "fp32; whoever quantises it again should measure it again",
    "head": "llama.cpp, PEFT, vLLM and Ollama read no head: they would answer as the bare base. It reads states inside "
    "the base, which GGUF files and their servers give no way to; yoriai.load answers with it",
}


@dataclass(frozen=True)
class Asked:
    """What is wanted.

    Attributes:
        form: of FORMATS; None for gguf-adapter, or for a head that trained.
        kind: f16 or q8_0 of a merged GGUF; None for f16.
        base: where the base is, if not where task.json says.
        check: what a GGUF file is judged with.
    """

    form: str | None = None
    kind: str | None = None
    base: str | None = None
    check: Check = "auto"


def export(folder: Path, out: Path, asked: Asked) -> dict[str, Any]:
    """Write an adapter's folder for other programs, once it is seen to answer as the adapted model does.

    Args:
        folder: as `yoriai.load` takes it.
        out: must not be there.

    Returns:
        What export.json says.

    Raises:
        ConfigError: the place is taken, or format, type and adapter do not go together.
        AdapterError: the folder is damaged, or the export is no nearer to the adapted model than the base.
        BaseModelError: the base is not there, another one, or of a family without a mapping.
        StorageError: it cannot be written. Whatever is raised, nothing is at the place.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="name a new folder, or move it away")
    audit_folder(folder).refuse()
    source = read_folder(folder)
    form = _form(source, asked)
    if source.factors is None:
        return _export_head(source, out, asked)
    plan = _plan(source, source.factors, form, asked)
    with quiet_libraries():
        base = load_base(
            asked.base or source.base_name, device=choose_device("cpu"), expected_digest=source.task["base"]["digest"]
        )
        reference = measure_reference(base, folder, source.task)
        with folder_made_whole(out, alone=True) as part:
            _write(plan, part, reference)
            judgement = judge(form, part, reference, asked.check)
            judgement.fidelity.check()
            document = _document(plan, out, reference, judgement, part)
            _write_document(part, document)
    return document


@dataclass(frozen=True)
class _Plan:
    source: AdapterFolder
    factors: Factors
    form: str
    kind: str | None
    base_file: Path | None


def _form(source: AdapterFolder, asked: Asked) -> str:
    if source.factors is None:
        if asked.form is not None:
            raise ConfigError(
                f"a head that trained is no {asked.form}", found=_LIMITS["head"], remedy="leave --format out"
            )
        return "head"
    form = asked.form or "gguf-adapter"
    if form not in FORMATS:
        raise ConfigError("no such format", found=form, expected=", ".join(FORMATS))
    if asked.kind is not None and form != "gguf":
        raise ConfigError(
            f"--type is of a merged GGUF file, not of {form}", remedy="add --format gguf, or leave it out"
        )
    if asked.kind is not None and asked.kind not in MERGED_TYPES:
        raise ConfigError(
            "a merged model is not written in that type",
            found=asked.kind,
            expected=" or ".join(MERGED_TYPES),
            remedy="4 and 5 bits after a merge answer worse than the base without its adapter; for a small file export "
            "with --format gguf-adapter, which leaves the base as it is",
        )
    if form in ("gguf-adapter", "peft") and source.factors.rank > source.factors.own_rank:
        raise ConfigError(
            f"this adapter has a dense remainder, which {form} could hold at rank {source.factors.rank} alone",
            remedy="export with --format gguf or merged",
        )
    return form


def _plan(source: AdapterFolder, factors: Factors, form: str, asked: Asked) -> _Plan:
    """What can be refused before the base is loaded, which takes longest, is refused here."""
    if form not in ("gguf-adapter", "gguf"):
        return _Plan(source, factors, form, None, None)
    if asked.check == "llama":
        require_llama()
    name = asked.base or source.base_name
    base_file = gguf_file(name)
    if base_file is None:
        raise BaseModelError(
            f"{form} needs the base as a GGUF file",
            found=name,
            expected="a packaged base, or a .gguf file",
            remedy="name it with --base, if the adapter was trained on it; or export with --format merged, and convert "
            "that with llama.cpp's own script",
        )
    stored(factors, base_file)
    return _Plan(source, factors, form, (asked.kind or "f16") if form == "gguf" else None, base_file)


def _write(plan: _Plan, part: Path, reference: Reference) -> None:
    task = plan.source.task
    if plan.form == "gguf-adapter":
        assert plan.base_file is not None
        shutil.copyfile(plan.base_file, part / BASE_FILE)
        architecture = family_of(read_header(plan.base_file)).architecture
        write_adapter(part / ADAPTER_FILE, stored(plan.factors, plan.base_file), architecture)
        text = modelfile(task, BASE_FILE, ADAPTER_FILE)
    elif plan.form == "gguf":
        assert plan.base_file is not None
        assert plan.kind is not None
        write_merged(part / MODEL_FILE, stored(plan.factors, plan.base_file), plan.base_file, plan.kind)
        text = modelfile(task, MODEL_FILE)
    elif plan.form == "peft":
        write_peft(plan.source, plan.factors, part)
        return
    else:
        write_merged_folder(reference.base, plan.factors, part)
        text = modelfile(task, ".")
    (part / "Modelfile").write_text(text, encoding="utf-8")


def _document(plan: _Plan, out: Path, reference: Reference, judgement: Judgement, part: Path) -> dict[str, Any]:
    fidelity = judgement.fidelity
    found = _head_of(plan.source, plan.form) | {"type": plan.kind, "rank": plan.factors.rank}
    found["judged"] = {
        "loaded_by": judgement.loaded_by,
        "texts": "public_texts.txt of Yoriai, in the job's template; no record was looked at",
        **asdict(fidelity),
        "relative": fidelity.relative,
        "same_tokens": judgement.same_tokens,
    }
    if plan.form == "peft":
        found["vllm"] = vllm_line(plan.factors.rank, out.name)
    if reference.labels:
        found["classify"] = {
            "labels": reference.labels,
            "prior": list(reference.prior),
            "score": "mean log-probability of the label's tokens as the next token, less its prior; the highest wins",
        }
    return found | {"files": _files(part)}


def _head_of(source: AdapterFolder, form: str) -> dict[str, Any]:
    task = source.task
    return {
        "schema": _SCHEMA,
        "format": form,
        "job": task.get("job", ""),
        "kind": task["kind"],
        "template": task["template"],
        "base": dict(task["base"]),
        "made_by": {"yoriai": yoriai.__version__}
        | {name: metadata.version(name) for name in ("gguf", "transformers", "peft")},
        "limits": _LIMITS[form],
    }


def _files(part: Path) -> Mapping[str, dict[str, Any]]:
    found = {}
    for path in sorted(part.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def _write_document(part: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    (part / EXPORT_FILE).write_text(text, encoding="utf-8")


def _export_head(source: AdapterFolder, out: Path, asked: Asked) -> dict[str, Any]:
    """A head's own file, loaded where it will lie and asked again: it must say the very same."""
    texts = public_sample()
    before = load(source.path, asked.base, device="cpu").probabilities(texts).numpy()
    with folder_made_whole(out, alone=True) as part:
        for name in (HEAD_FILE, TASK_FILE):
            shutil.copyfile(source.path / name, part / name)
        after = load(part, asked.base, device="cpu").probabilities(texts).numpy()
        if not np.array_equal(before, after):
            raise AdapterError("the exported head answers otherwise than the one it was made of")
        document = _head_of(source, "head")
        document["judged"] = {"loaded_by": "yoriai.load", "positions": len(texts), "kl": 0.0, "labels": 1.0}
        document["files"] = _files(part)
        _write_document(part, document)
    return document
