"""An adapter in llama.cpp's format, kept in the cache under the digest of what it was made from.

An engine reads it at its start alone, and it can be made again. So the files that were used last are kept, and no
others: each version has one, of up to some hundred MB.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from yoriai.client.base.gguf_header import read_header
from yoriai.client.base.kept import forget_older
from yoriai.client.edge.adapter_folder import read_folder
from yoriai.client.edge.gguf_writing import stored, write_adapter
from yoriai.client.model.adapter_audit import audit_folder, file_digest
from yoriai.errors import AdapterError
from yoriai.system.files import cannot_write, make_private_folder

_KEPT: Final = 4  # The versions in use of two channels, and those before them.


def adapter_gguf(folder: Path, base: Path, cache: Path) -> Path:
    """The adapter of a folder as a file for llama.cpp; written once, as long as it is among the last ones used.

    Args:
        folder: with PEFT's two files.
        base: the .gguf file of its base.
        cache: made when missing.

    Raises:
        AdapterError: the folder holds none, one that the audit refuses, or one that does not fit the base.
        BaseModelError: the base is of a family whose names in llama.cpp are not known.
        StorageError: the cache cannot be written.
    """
    audit_folder(folder).refuse()
    if (factors := read_folder(folder).factors) is None:
        raise AdapterError(f"{folder} holds no adapter", expected="adapter_model.safetensors")
    parts = (folder / "adapter_model.safetensors", folder / "adapter_config.json", base)
    path = make_private_folder(cache) / ("-".join(file_digest(part)[:16] for part in parts) + ".gguf")
    if not path.exists():
        unfinished = path.with_suffix(".part")
        try:
            write_adapter(unfinished, stored(factors, base), read_header(base).architecture)
            unfinished.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            unfinished.unlink(missing_ok=True)
    with suppress(OSError):  # A cache that cannot be tidied answers all the same.
        path.touch()
        forget_older(cache.glob("*.gguf"), _KEPT)
    return path
