"""A site of a deployment: its folder, its daemon and its SuperNode."""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.processes import Program, children_of, wait_until
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.privacy.ledger.ledger import Ledger


class Site:
    """A site's folder, its daemon and its SuperNode."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.name = folder, folder.name
        self.environment: Mapping[str, str] = environment or {}
        self.prefix: list[str] = []
        self._daemon: Program | None = None
        self._node: Program | None = None

    @property
    def has_daemon(self) -> bool:
        """Whether its daemon was started."""
        return self._daemon is not None

    @property
    def daemon(self) -> Program:
        """The daemon's process."""
        assert self._daemon is not None
        return self._daemon

    @property
    def node(self) -> Program:
        """The process that keeps the SuperNode."""
        assert self._node is not None
        return self._node

    @property
    def places(self) -> SiteFolder:
        """What lies where."""
        return SiteFolder(self.folder)

    def start(self, *options: str) -> None:
        """Start both; with options, the daemon of `tests/deploy/daemon.py`."""
        self.start_daemon(*options)
        self.start_node()

    def start_daemon(self, *options: str) -> None:
        """Start the daemon."""
        log = self.folder.parent / f"{self.name}.daemon.log"
        more = {"environment": self.environment, "prefix": self.prefix}
        if options:
            command = [sys.executable, "-m", "tests.deploy.daemon", str(self.folder), *options]
            self._daemon = Program(command, log, **more)  # type: ignore[arg-type]
        else:
            self._daemon = Program.yoriai(
                "site", "start", self.folder, "--only", "daemon", "--log-json", log=log, **more
            )

    def start_node(self) -> None:
        """Start the SuperNode."""
        log = self.folder.parent / f"{self.name}.node.log"
        arguments = ("site", "start", self.folder, "--only", "node", "--same-user", "--log-json")
        more = {"environment": self.environment, "prefix": self.prefix}
        self._node = Program.yoriai(*arguments, log=log, **more)

    def restart_daemon_when_dead(self, seconds: float = 400.0) -> None:
        """Wait for the daemon's end, and start it again as systemd would."""
        wait_until(lambda: not self.daemon.is_alive, seconds, f"the daemon of {self.name} lives on")
        self.start_daemon()

    def part_of_node(self, program: str) -> int:
        """A process of its SuperNode: supernode.py, or executor.py."""
        wait_until(lambda: bool(children_of(self.node.pid, program)), 240, f"there is no {program}")
        return children_of(self.node.pid, program)[0]

    def stop(self) -> None:
        """Stop both."""
        for program in (self._node, self._daemon):
            if program is not None:
                program.stop()

    def ledger(self) -> Ledger:
        """The ledger of its records; opening it checks its chain and its witness."""
        config = self.places.config()
        path = next(self.places.ledgers.rglob("*.sqlite"))
        witness = next(self.places.place(config.ledger.witness).rglob("*"), None)
        return Ledger.existing(path, witness=witness)

    def charged(self, run_id: str) -> list[int]:
        """The rounds that the ledger holds a charge for."""
        with self.ledger() as ledger:
            return sorted(charge.round_index for charge in ledger.charges() if charge.job_id == run_id)

    def final(self, run_id: str) -> Path:
        """The folder of the final adapter that it was given for a run."""
        return next(path.parent for path in self.places.adapters.glob("*/statement") if run_id in path.read_text())
