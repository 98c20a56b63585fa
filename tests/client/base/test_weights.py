"""Bases whose files are not whole: refused, each fault by its name, and nothing made up."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from yoriai.client.base import weights
from yoriai.client.base.base_model import load_base
from yoriai.errors import BaseModelError

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


def test_a_base_that_no_hub_has_is_refused_with_what_would_help() -> None:
    with pytest.raises(BaseModelError, match=r"does not load.*found .*Error from transformers.*yoriai fetch"):
        load_base("nobody/no-such-model", device=CPU)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none", "none/", "a/b/c"])
def test_what_can_only_be_a_path_is_asked_of_no_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(BaseModelError, match="there is no folder"):
        load_base(name, device=CPU)


def _without_tensors(file: Path) -> None:
    kept = {name: tensor for name, tensor in load_file(file).items() if ".1.mlp." not in name}
    save_file(kept, file, metadata={"format": "pt"})


def _not_finite(file: Path) -> None:
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})


def _quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (folder / "config.json").write_text(json.dumps(config))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "no config.json"),
    "a config that is none": (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON object"),
    "no kind": (lambda folder: (folder / "config.json").write_text("{}"), "names no model_type"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no weights in the folder"),
    "a pointer": (
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "model.safetensors is a Git LFS pointer",
    ),
    "cut": (lambda folder: os.truncate(folder / WEIGHTS, 20_000), "model.safetensors is cut short .*20000 bytes of"),
    "cut in its header": (lambda folder: os.truncate(folder / WEIGHTS, 100), "its header is longer than the file"),
    "no safetensors": (lambda folder: (folder / WEIGHTS).write_bytes(b"\2" + bytes(50)), "its header cannot be read"),
    "tensors missing": (
        lambda folder: _without_tensors(folder / WEIGHTS),
        r"3 tensors are missing, first model\.layers\.1\.mlp\.down_proj\.weight.*random weights",
    ),
    "not finite": (lambda folder: _not_finite(folder / WEIGHTS), r"not finite in 1 of its tensors, first model\.norm"),
    "quantised": (_quantised, "is quantised, and no gradients.*found nf4; .*own weights"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("token*")],
        "no tokenizer in the folder",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_base_that_is_not_whole_is_refused_with_its_fault(tmp_path: Path, base_folder: Path, fault: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    spoil, match = FAULTS[fault]
    spoil(folder)
    with pytest.raises(BaseModelError, match=match):
        load_base(str(folder), device=CPU)
