"""`bench edge`: one adapter beside its base in several types, asked by language, with the adapter off and on."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from gguf import LlamaFileType

from yoriai.client.base.base_model import choose_device, gguf_file, load_base
from yoriai.client.base.gguf_header import read_header
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.edge.adapter_folder import AdapterFolder, read_folder
from yoriai.client.edge.engine_process import require_llama
from yoriai.client.edge.gguf_writing import MERGED_TYPES, Stored, stored, write_adapter, write_merged
from yoriai.client.edge.llama_server import LlamaServer, serving
from yoriai.client.model.adapter_audit import audit_folder
from yoriai.client.model.public_texts import shipped_texts
from yoriai.errors import BaseModelError, ConfigError
from yoriai.simulations.bench.edge.asking import Asker, Language, Measured
from yoriai.simulations.bench.edge.energy import EnergyMeter
from yoriai.simulations.experiment.machine import machine
from yoriai.simulations.scenarios import get_scenario

QUANTISATIONS: Final = ("own", *MERGED_TYPES)
_KANA: Final = re.compile("[\u3041-\u30ff]")


@dataclass(frozen=True)
class EdgePlan:
    """What is measured.

    Attributes:
        adapter: folder of an adapter, with LoRA factors.
        languages: what it is asked.
        quantisations: of QUANTISATIONS; `own` is the base's file as it came.
        threads: of llama.cpp.
        answers: timed answers a language.
        base: where the base is, if not where task.json says.
        say: told of each file.
    """

    adapter: Path
    languages: tuple[Language, ...]
    quantisations: tuple[str, ...]
    threads: int
    answers: int
    base: str | None
    say: Callable[[str], None]


def languages_of(scenario: str, records: int, texts: int) -> tuple[Language, ...]:
    """Each site of a scenario as a language, and Japanese by its public texts where no site has it.

    Args:
        records, texts: of each, at most.
    """
    found = []
    for site in get_scenario(scenario).sites(0):
        prompts = tuple(record.prompt for record in site.test if record.prompt)
        found.append(Language(site.name, site.test[:records], prompts[:texts]))
    japanese = tuple(text for text in shipped_texts() if _KANA.search(text))
    return (*found, Language("ja", (), japanese[:texts]))


def bench_edge(plan: EdgePlan) -> dict[str, Any]:
    """Measure, and give the document.

    Raises:
        ConfigError: llama.cpp is not here, or the adapter is a head.
        AdapterError, BaseModelError: adapter or base do not load, or the base is no GGUF file.
    """
    require_llama()
    audit_folder(plan.adapter).refuse()
    source = read_folder(plan.adapter)
    adapter, base_file = _parts(source, plan)
    before = os.getloadavg()
    with quiet_libraries():
        base = load_base(
            plan.base or source.base_name, device=choose_device("cpu"), expected_digest=source.task["base"]["digest"]
        )
    asker = Asker(source.task, base.tokenizer, base.context_tokens, plan.answers)
    vocabulary = int(base.model.config.vocab_size)
    del base  # llama.cpp's memory is measured in its own process; this one's is free for it.
    files = []
    with TemporaryDirectory(prefix="yoriai-edge-") as place:
        written = Path(place) / "adapter.gguf"
        write_adapter(written, adapter, read_header(base_file).architecture)
        for kind in plan.quantisations:
            plan.say(f"measuring {kind}")
            model = _model(base_file, Path(place), kind)
            context = asker.longest(plan.languages)
            with serving(model, written, vocabulary=vocabulary, threads=plan.threads, context_tokens=context) as server:
                measured = _file(server, asker, plan)
            names = {"quantisation": kind, "type": _type_of(model)}
            sizes = {"model_bytes": model.stat().st_size, "adapter_bytes": written.stat().st_size}
            files.append({**names, **sizes, **measured})
            if model != base_file:
                model.unlink()
    return {
        "schema": 1,
        "machine": machine() | {"load_before": before, "load_after": os.getloadavg(), "threads": plan.threads},
        "versions": {name: metadata.version(name) for name in ("xllamacpp", "gguf", "transformers")},
        "job": source.task.get("job", ""),
        "kind": source.task["kind"],
        "base": source.base_name,
        "files": files,
    }


def _parts(source: AdapterFolder, plan: EdgePlan) -> tuple[Stored, Path]:
    if unknown := [kind for kind in plan.quantisations if kind not in QUANTISATIONS]:
        raise ConfigError("no such quantisation", found=", ".join(unknown), expected=", ".join(QUANTISATIONS))
    if source.factors is None:
        raise ConfigError(
            "a head that trained is not run by llama.cpp", remedy="name an adapter's run; see docs/edge.md"
        )
    base_file = gguf_file(plan.base or source.base_name)
    if base_file is None:
        raise BaseModelError(
            "llama.cpp needs the base as a GGUF file", found=source.base_name, remedy="name it: --base"
        )
    return stored(source.factors, base_file), base_file


def _model(base_file: Path, place: Path, kind: str) -> Path:
    """The base in a type; nothing is merged into it."""
    if kind == "own":
        return base_file
    path = place / f"{kind}.gguf"
    write_merged(path, Stored({}, 1.0), base_file, kind)
    return path


def _type_of(model: Path) -> str:
    try:
        return LlamaFileType(read_header(model).fields["general.file_type"]).name.removeprefix("MOSTLY_")
    except (KeyError, ValueError):
        return "unknown"


def _file(server: LlamaServer, asker: Asker, plan: EdgePlan) -> dict[str, Any]:
    meter, rows = EnergyMeter(), []
    taken: dict[bool, list[Measured]] = {True: [], False: []}
    for bare in (True, False):
        for language in plan.languages:
            found = asker.ask(server, language, bare=bare)
            taken[bare].append(found)
            rows.append({"language": language.name, "adapted": not bare, **_scores(found)})
    times = {("base" if bare else "adapted"): _times(taken[bare]) for bare in (True, False)}
    return {
        "times": times,
        "peak_memory_bytes": server.peak_memory_bytes(),
        "joules": meter.joules(),
        "languages": rows,
    }


def _scores(found: Measured) -> dict[str, Any]:
    return {
        "correct": found.correct,
        "answered": found.answered,
        "bits_per_byte": found.bits / found.text_bytes if found.text_bytes else None,
        "text_bytes": found.text_bytes,
    }


def _times(measured: Sequence[Measured]) -> Mapping[str, Any]:
    first = [value for one in measured for value in one.first_ms]
    each = [value for one in measured for value in one.token_ms]
    found: dict[str, Any] = {"answers": len(first)}
    for name, values in (("first_token", first), ("token", each)):
        p50, p95 = np.percentile(values, [50, 95]) if values else (None, None)
        found |= {f"{name}_p50_ms": p50, f"{name}_p95_ms": p95}
    return found | {"tokens_per_s": 1000.0 / found["token_p50_ms"] if each else None}
