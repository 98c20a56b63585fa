"""What plays sites in a process of its own: Flower's worker on this machine, or one at each node of a Ray cluster."""

import fcntl
import hashlib
import os
import platform
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig
from yoriai.errors import TrainingError, YoriaiError
from yoriai.privacy.secagg.work import SharedWork
from yoriai.simulations.run.engines import SiteSpec

if TYPE_CHECKING:
    from yoriai.client.node.client_app import Door

# Whose versions a result hangs on, or what travels between two processes.
_PACKAGES = ("cryptography", "flwr", "numpy", "peft", "pydantic", "ray", "tokenizers", "torch", "transformers")


class SiteHost:
    """Sites of this process around one base, each built where the first message for it arrives, with its open ledger.

    Args:
        base_digest: of the base model that their job names.
        synced: whether each row of a ledger is durable by itself. On another machine it has to be: what syncs the
            ledgers of all sites once a round does so on the machine that coordinates.
    """

    def __init__(self, base_digest: str, *, synced: bool = False) -> None:
        self._base_digest, self._synced = base_digest, synced
        self._session: ModelSession | None = None
        self._work = SharedWork()
        self._built: dict[str, Door] = {}

    def load(self, job: JobConfig) -> ModelSession:
        """The base and what is built on it; loaded at the first call.

        Raises:
            BaseModelError, AssetError: as `load_base`.
        """
        if self._session is None:
            device = choose_device(job.speed.device)
            base = load_base(job.base.model, device=device, expected_digest=self._base_digest)
            self._session = ModelSession(base, job.speed)
        return self._session

    def site(self, spec: SiteSpec) -> "Door":
        """The site of this name; the specification of one that is built already is not looked at."""
        name = spec.records.name
        if name not in self._built:
            ledger = spec.open_ledger(synced=self._synced)
            self._built[name] = spec.build(self.load(spec.job), ledger, work=self._work)
        return self._built[name]


class NodeHost:
    """A host at a node of a cluster, as Ray starts it there: it proves that it may play sites, and then does.

    Nothing that it raises quotes a record, for Ray writes what is raised to a log of the node.
    """

    def __init__(self, base_digest: str) -> None:
        self._sites = SiteHost(base_digest, synced=True)
        self._specs: dict[str, SiteSpec] = {}

    def look(self, shown: Path, word: str) -> tuple[dict[str, str], str]:
        """The software here, and what is wrong with the run's folder as seen from here; empty: nothing.

        Args:
            shown: file in the run's folder, which the machine that coordinates has locked.
            word: what it wrote there.
        """
        return software(), fault_of_folder(shown, word)

    def load(self, job: JobConfig) -> None:
        """Load the base.

        Raises:
            BaseModelError, AssetError: as `load_base`.
        """
        self._sites.load(job)

    def handle(self, name: str, payload: bytes, spec: SiteSpec | None) -> bytes:
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
        except YoriaiError:
            raise
        except Exception as error:  # The type alone: the text might quote a record.
            raise TrainingError(f"internal error: {type(error).__name__}") from None


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
