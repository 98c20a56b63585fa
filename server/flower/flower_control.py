"""Flower's control interface, on loopback: nodes, and runs of jobs.

Flower's own command line does the same, with a process of two seconds of a core for each command.
"""

import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

import httpx

from yoriai.errors import RoundError
from yoriai.flower_internals import Control, is_key_in_use

# The SuperLink hands its environment on to every ServerApp; that is how one finds the server's folder.
SERVER_VARIABLE: Final = "YORIAI_SERVER"
_CONNECTION: Final = "yoriai"  # As flower/config.toml names it.

T = TypeVar("T")


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


def _seen(online: bool, at: str) -> Seen:
    since = None
    with suppress(ValueError):  # Empty for never.
        since = datetime.fromisoformat(at).timestamp()
    return Seen(online, since)


class FlowerControl:
    """The SuperLink of one server.

    Args:
        home: Flower's folder, whose config.toml names the SuperLink.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    @cached_property
    def _control(self) -> Control:
        named = tomllib.loads((self._home / "config.toml").read_text())["superlink"][_CONNECTION]
        return Control(named["address"], Path(named["root-certificates"]).read_bytes())

    def is_up(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            self.online()
        except RoundError:
            return False
        return True

    def run(self, bundle: Path, **settings: str | int) -> str:
        """Start a run of a bundle.

        Args:
            settings: of the run, where they differ from the bundle's.

        Returns:
            Flower's number of the run.

        Raises:
            RoundError: Flower cannot be reached, or refuses.
        """
        return str(self._done("run", lambda: self._control.start(bundle, settings)))

    def stop(self, flower_run: str) -> None:
        """Stop a run; one that has ended is no error."""
        try:
            self._done("stop", lambda: self._control.stop(int(flower_run or 0)))
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
        return self._done("register", lambda: self._control.register(site, key.encode()))

    def unregister(self, node_id: int) -> None:
        """Take a node out; one that is not there is no error."""
        try:
            self._done("unregister", lambda: self._control.unregister(node_id))
        except RoundError:
            if not self.is_up():
                raise

    def online(self) -> dict[int, bool]:
        """Registered nodes by number, and whether each is connected now.

        Raises:
            RoundError: Flower cannot be reached.
        """
        return {number: node.online for number, node in self.seen().items()}

    def seen(self) -> dict[int, Seen]:
        """Registered nodes by number.

        Raises:
            RoundError: Flower cannot be reached.
        """
        return self._done("list", lambda: {number: _seen(*node) for number, node in self._control.nodes().items()})

    def _done(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
            if is_key_in_use(error):
                raise KeyInUse from None
            raise RoundError(
                f"Flower's SuperLink has not done: {what}",
                found=str(error)[:200] if isinstance(error, httpx.HTTPStatusError) else type(error).__name__,
                remedy=f"look at {self._home.parent / 'log' / 'superlink.log'}",
            ) from None
