"""Each export is loaded by the program that it is for and asked what the adapted model was asked, before it is let out.

| format | loaded by |
|---|---|
| gguf-adapter, gguf | llama.cpp where the extra `edge` is installed; else transformers reads the files back |
| peft | PEFT, on the base |
| merged | transformers |

vLLM and Ollama are not run: their layouts are held against their documents (`modelfile.py`).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.base.weights import load_weights
from yoriai.client.edge.engine_process import has_llama, require_llama
from yoriai.client.edge.fidelity import Fidelity, Logs, compare, label_scores, log_probabilities
from yoriai.client.edge.gguf_writing import read_adapter, write_merged
from yoriai.client.edge.llama_server import LlamaServer, serving
from yoriai.client.edge.reference import Reference, peft_log_probabilities

Check = Literal["auto", "llama", "transformers"]
BASE_FILE: Final = "base.gguf"
ADAPTER_FILE: Final = "adapter.gguf"
MODEL_FILE: Final = "model.gguf"


@dataclass(frozen=True)
class Judgement:
    """What loaded an export, and how near it answers.

    Attributes:
        loaded_by: the program.
        same_tokens: share of the texts that it cuts into the tokens of training; None where it is given tokens.
    """

    loaded_by: str
    fidelity: Fidelity
    same_tokens: float | None = None


def judge(form: str, folder: Path, reference: Reference, check: Check) -> Judgement:
    """Load an export and measure it.

    Args:
        form: its format.
        folder: its files.

    Raises:
        ConfigError: llama.cpp is asked for and not installed.
        AdapterError, BaseModelError: it does not load.
    """
    if form in ("gguf-adapter", "gguf"):
        if check == "llama":
            require_llama()
        found = (
            _by_llama(folder, reference) if check != "transformers" and has_llama() else _read_back(folder, reference)
        )
    elif form == "peft":
        found = _judged("PEFT", reference, peft_log_probabilities(reference, folder))
    else:
        found = _judged("transformers", reference, _of_model(folder, reference))
    return found


def _by_llama(folder: Path, reference: Reference) -> Judgement:
    adapter = folder / ADAPTER_FILE
    has_adapter = adapter.exists()
    longest = max(map(len, reference.prompts))
    with serving(
        folder / (BASE_FILE if has_adapter else MODEL_FILE),
        adapter if has_adapter else None,
        vocabulary=reference.vocabulary,
        context_tokens=longest + 8,
    ) as server:
        exported = _ask(server, reference)
        without = _ask(server, reference, bare=True) if has_adapter else None
        cut = [tuple(server.tokens_of(text)) for text in reference.texts]
    same = float(np.mean([one == other for one, other in zip(cut, reference.prompts, strict=True)]))
    return replace(_judged("llama.cpp", reference, exported, without), same_tokens=same)


def _ask(server: LlamaServer, reference: Reference, *, bare: bool = False) -> Logs:
    return np.stack([server.next_log_probabilities(ids, bare=bare) for ids in reference.prompts])


def _read_back(folder: Path, reference: Reference) -> Judgement:
    """By transformers' own reading of a GGUF file, which puts rows and names back by code that is not ours."""
    if (folder / MODEL_FILE).exists():
        return _judged("transformers, from the GGUF file", reference, _of_model(folder, reference, MODEL_FILE))
    adapter = read_adapter(folder / ADAPTER_FILE)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_merged(Path(place) / MODEL_FILE, adapter, folder / BASE_FILE, "f32")
        exported = _of_model(Path(place), reference, MODEL_FILE)
    return _judged("transformers, from both GGUF files merged", reference, exported)


def _of_model(folder: Path, reference: Reference, gguf_file: str | None = None) -> Logs:
    options = {"gguf_file": gguf_file} if gguf_file else {}
    with quiet_libraries():
        model = load_weights(gguf_file or "the export", str(folder), **options).to(reference.base.device).eval()
    return log_probabilities(model, reference.prompts, reference.base.device)


def _judged(loaded_by: str, reference: Reference, exported: Logs, without: Logs | None = None) -> Judgement:
    fidelity = compare(reference.adapted, reference.bare, exported, without)
    if reference.labels and reference.prior:
        chosen = [_chosen(logs, list(reference.labels.values()), reference) for logs in (reference.adapted, exported)]
        fidelity = replace(fidelity, labels=float((chosen[0] == chosen[1]).mean()))
    return Judgement(loaded_by, fidelity)


def _chosen(logs: Logs, tokens: Sequence[Sequence[int]], reference: Reference) -> np.ndarray:
    return np.asarray(label_scores(logs, tokens, reference.prior).argmax(1))
