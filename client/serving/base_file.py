"""The base as llama.cpp reads it: one .gguf file, whose digest and tokenizer are those that adapters name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoriai.base_digest import difference
from yoriai.client.base.base_model import choose_device, gguf_file, load_base
from yoriai.client.base.quiet import quiet_libraries
from yoriai.errors import AdapterError, ConfigError


@dataclass(frozen=True)
class BaseFile:
    """A base that llama.cpp can load.

    Attributes:
        name: as settings have it.
        gguf: the file.
        digest: over weights and tokenizer, as jobs have it.
        tokenizer: of transformers, so that a prompt becomes the tokens that training makes of it.
        context_tokens: longest input.
    """

    name: str
    gguf: Path
    digest: str
    tokenizer: Any
    context_tokens: int

    def check(self, trained_on: str) -> None:
        """Raise AdapterError unless an adapter was trained on the base with this digest."""
        if unlike := difference(self.digest, trained_on):
            raise AdapterError(
                f"the adapter was trained on another base than {self.name}: its {unlike.what} differs",
                found=unlike.found[:16],
                expected=unlike.expected[:16],
                remedy="set base.model in site.toml to the adapter's base, or name that base's adapter",
            )


def base_file(name: str) -> BaseFile:
    """Find the file, and read digest and tokenizer; the weights are read once for that, and let go.

    Raises:
        ConfigError: the base is no .gguf file.
        BaseModelError: it does not load.
        AssetError: a packaged one cannot be fetched.
    """
    gguf = _gguf_of(name)
    with quiet_libraries():
        base = load_base(name, device=choose_device("cpu"))
    return BaseFile(name, gguf, base.digest, base.tokenizer, base.context_tokens)


def _gguf_of(name: str) -> Path:
    if (path := gguf_file(name)) is None:
        raise ConfigError(
            "llama.cpp reads a base from a .gguf file",
            found=name,
            expected="a packaged base or a .gguf file",
            remedy="set base.model in site.toml to the .gguf file that the job's base was loaded from",
        )
    return path.resolve()
