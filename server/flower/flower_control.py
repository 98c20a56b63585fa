"""Flower's control interface, on loopback, through its own command line: nodes, runs, and starting the SuperLink.

Commands are short-lived processes with a folder of their own for Flower's files, so that no setting of a user's own
Flower comes in.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from yoriai.errors import RoundError
from yoriai.flower import environment
from yoriai.system.files import write_atomically
from yoriai.system.supervisor import installed

# The SuperLink hands its environment on to every ServerApp; that is how one finds the server's folder.
SERVER_VARIABLE = "YORIAI_SERVER"
_CONNECTION = "yoriai"  # As flower/config.toml names it.
_TIMEOUT_S = 60.0
_LONGEST_QUOTE = 200


class KeyInUse(Exception):
    """Flower has registered this key already, for a node whose number is not known here."""


@dataclass(frozen=True)
class Seen:
    """When Flower has seen a node.

    Attributes:
        online: whether it is connected now.
        since: since when it is, or is not, in seconds since the epoch; None where it was never connected.
    """

    online: bool
    since: float | None


def _seen(node: Mapping[str, Any]) -> Seen:
    online = node["status"] == "online"
    since = None
    with suppress(KeyError, TypeError, ValueError):  # "N/A" for never.
        since = datetime.fromisoformat(node["online-at" if online else "offline-at"]).timestamp()
    return Seen(online, since)


class FlowerControl:
    """The SuperLink of one server.

    Args:
        home: Flower's folder, whose config.toml names the SuperLink.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._environment = home, environment(home)

    def is_up(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            self._flwr("list", _CONNECTION)
        except RoundError:
            return False
        return True

    def run(self, bundle: Path, run_id: str) -> str:
        """Start a run of the bundle for a job.

        Returns:
            Flower's number of the run.

        Raises:
            RoundError: Flower cannot be reached, or refuses.
        """
        answer = self._flwr("run", str(bundle), _CONNECTION, "--run-config", f"job={json.dumps(run_id)}")
        return str(answer["run-id"])

    def stop(self, flower_run: str) -> None:
        """Stop a run; one that has ended is no error."""
        try:
            self._flwr("stop", flower_run, _CONNECTION)
        except RoundError:
            return

    def register(self, site: str, key: str) -> int:
        """Register a node by its public key, one line as OpenSSH has it.

        Returns:
            The node's number.

        Raises:
            KeyInUse: it is registered already.
            RoundError: Flower cannot be reached, or refuses.
        """
        with tempfile.TemporaryDirectory(dir=self._home) as folder:
            path = write_atomically(Path(folder) / "node.pub", f"{key}\n".encode())
            return int(self._flwr("supernode", "register", str(path), _CONNECTION, "--name", site)["node-id"])

    def unregister(self, node_id: int) -> None:
        """Take a node out; one that is not there is no error."""
        try:
            self._flwr("supernode", "unregister", str(node_id), _CONNECTION)
        except RoundError:
            if not self.is_up():
                raise

    def seen(self) -> dict[int, Seen]:
        """Registered nodes by number. It takes a process of Flower's, so about one second of a core.

        Raises:
            RoundError: Flower cannot be reached.
        """
        nodes = self._flwr("supernode", "list", _CONNECTION)["nodes"]
        return {int(node["node-id"]): _seen(node) for node in nodes}

    def online(self) -> dict[int, bool]:
        """Registered nodes by number, and whether each is connected now.

        Raises:
            RoundError: Flower cannot be reached.
        """
        return {number: node.online for number, node in self.seen().items()}

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        """Flower's answer to a command, as JSON."""
        try:
            done = subprocess.run(
                [installed("flwr"), *arguments, "--format", "json"],
                env=self._environment,
                cwd=self._home,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            answer = json.loads(done.stdout)
            if done.returncode == 0 and answer["success"]:
                return dict(answer)
        except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
            raise self._cannot(arguments, "no answer that can be read") from None
        said = str(answer.get("error-message", ""))
        if "already in use" in said.lower():
            raise KeyInUse
        raise self._cannot(arguments, said)

    def _cannot(self, arguments: tuple[str, ...], said: str) -> RoundError:
        quoted = "".join(c if c.isprintable() else " " for c in said)[:_LONGEST_QUOTE].strip()
        return RoundError(
            f"Flower's SuperLink has not done: flwr {arguments[0]}",
            found=quoted,
            remedy=f"look at {self._home.parent / 'log' / 'superlink.log'}",
        )
