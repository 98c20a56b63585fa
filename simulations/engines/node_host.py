"""The host at a node of a Ray cluster: light until it has shown that its node is as the machine that coordinates."""

import fcntl
import hashlib
import os
import platform
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from yoriai.errors import TrainingError, YoriaiError

if TYPE_CHECKING:
    from yoriai.config import JobConfig
    from yoriai.simulations.engines.site_host import SiteHost
    from yoriai.simulations.engines.site_spec import SiteSpec

# Whose versions a result hangs on, or what travels between two processes.
_PACKAGES = ("cryptography", "flwr", "numpy", "peft", "pydantic", "ray", "tokenizers", "torch", "transformers")


class NodeHost:
    """A host at a node of a cluster, as Ray starts it there: it proves that it may play sites, and then does.

    Libraries are loaded after the proof, for those of another version may fail in ways that name no version. Nothing
    that it raises quotes a record, for Ray writes what is raised to a log of the node.
    """

    def __init__(self, base_digest: str) -> None:
        self._base_digest = base_digest
        self._specs: dict[str, SiteSpec] = {}

    def look(self, shown: Path, word: str) -> tuple[dict[str, str], str]:
        """The software here, and what is wrong with the run's folder as seen from here; empty: nothing.

        Args:
            shown: file in the run's folder, which the machine that coordinates has locked.
            word: what it wrote there.
        """
        return software(), fault_of_folder(shown, word)

    def load(self, job: "JobConfig") -> None:
        """Load the base.

        Raises:
            BaseModelError, AssetError: as `load_base`.
        """
        self._sites.load(job)

    def handle(self, name: str, payload: bytes, spec: "SiteSpec | None") -> bytes:
        """A site's answer to a message.

        Args:
            spec: of the site, with its first message.

        Raises:
            YoriaiError: the site cannot be built.
        """
        if spec is not None:
            self._specs[name] = spec
        try:
            return self._sites.site(self._specs[name]).handle(payload)
        except YoriaiError as error:
            raise error from None  # Ray writes down what it came from as well, which might quote a record.
        except Exception as error:  # The type alone: the text might quote a record.
            raise TrainingError(f"internal error: {type(error).__name__}") from None

    @cached_property
    def _sites(self) -> "SiteHost":
        from yoriai.simulations.engines.site_host import SiteHost

        return SiteHost(self._base_digest, synced=True)


def software() -> dict[str, str]:
    """Versions of Python and of the packages that a result hangs on; Yoriai by a digest of its code."""
    return {
        "Python": platform.python_version(),
        "Yoriai": f"of code {_code_digest()[:12]}",
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def fault_of_folder(shown: Path, word: str) -> str:
    """What keeps this process from sharing the folder of a file that another one has written and locked.

    Ledgers are charged under locks, so a file system that keeps locks to each machine will not do.
    """
    try:
        with shown.open("r+b") as file:
            if file.read() != word.encode():
                return "another folder of this name"
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # POSIX lets a system choose between the two.
                return ""
            return "the folder, but not the locks that others hold in it"
    except FileNotFoundError:
        return "no such folder, or not the files in it"
    except OSError as error:
        return f"{error.strerror or type(error).__name__}"


def _code_digest() -> str:
    """SHA-256 (hex) over all of Yoriai's Python files: two checkouts between releases have one version."""
    digest, package = hashlib.sha256(), str(resources.files("yoriai"))
    for folder, below, names in os.walk(package, followlinks=True):  # Its rooms are links to folders at the top.
        below.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(folder) / name
                digest.update(f"{path.relative_to(package)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
