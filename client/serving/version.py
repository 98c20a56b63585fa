"""One version as it answers: which folder it is of, and what in it writes or chooses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from yoriai.client.edge.engine_process import require_llama
from yoriai.client.serving.base_file import BaseFile, base_file
from yoriai.client.serving.writing import Writer, open_writer
from yoriai.client.session.loading import Trained, load, read_task
from yoriai.config import ServeSection

BASE: Final = "base"  # The model that clients name for the base without the adapter.


@dataclass(frozen=True)
class Version:
    """A version in memory.

    Attributes:
        folder: that it was read from; its name, such as production.7, stands in answers, so that a change shows.
        writer: of a version that writes; None for one that chooses labels.
        chooser: of a version that chooses labels; None for one that writes.
    """

    folder: Path
    task: dict[str, Any]
    writer: Writer | None
    chooser: Trained | None

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def is_alive(self) -> bool:
        """Whether it can answer."""
        return self.writer is None or self.writer.engine.is_alive

    async def close(self) -> None:
        """Give back what it took."""
        if self.writer is not None:
            await self.writer.end()


class Opener:
    """Opens versions of one site, one after another, on the site's base.

    Args:
        base_name: as the site's settings have it.
        model: what clients call the version, whichever it is.
        cache: for adapters in llama.cpp's format.
    """

    def __init__(self, base_name: str, model: str, settings: ServeSection, cache: Path) -> None:
        self._base_name, self._model, self._settings, self._cache = base_name, model, settings, cache
        self._base: BaseFile | None = None

    def open(self, folder: Path) -> Version:
        """Bring a version into memory; takes seconds.

        Args:
            folder: not a link, which may lead elsewhere a moment later.

        Raises:
            AdapterError: the folder is none that answers, or is of another base, or llama.cpp does not load it.
            BaseModelError: the site's base does not load, or is not the version's.
            ConfigError: llama.cpp is not installed, or the base is not a file that it reads.
        """
        task = read_task(folder)
        if task["kind"] == "classify":
            return Version(folder, task, None, load(folder, self._base_name, device="cpu"))
        require_llama()
        if self._base is None:
            self._base = base_file(self._base_name)
        writer = open_writer(folder, task, self._base, self._model, self._settings, self._cache)
        return Version(folder, task, writer, None)
