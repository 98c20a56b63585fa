"""Which processes are to be told to end for a site to stop, and their end."""

from dataclasses import dataclass
from pathlib import Path

from yoriai.client.daemon_config import socket_in
from yoriai.client.door import SocketDoor
from yoriai.client.node import node_socket_in
from yoriai.errors import DaemonError
from yoriai.processes import end


@dataclass(frozen=True)
class Running:
    """A process of a site: its number, and what it is in a message."""

    pid: int
    what: str


def running(folder: Path) -> list[Running]:
    """The processes to end, in this order: whoever keeps both, or else the SuperNode's keeper and the daemon.

    A number is the kernel's word on who answers at a socket. One who claims to be kept by another is believed only
    where the kernel calls that one its parent, so that nobody has somebody else's process ended.

    Raises:
        DaemonError: the site is not running.
    """
    found, absent = [], None
    for path, name in ((node_socket_in(folder), "the SuperNode's keeper"), (socket_in(folder), "the site's daemon")):
        door = SocketDoor(path)
        try:
            pid, what = door.pid(), name
            claimed = door.health().get("supervisor")
        except DaemonError as error:
            absent = error
            continue
        if isinstance(claimed, int) and claimed == _parent_of(pid):
            pid, what = claimed, "`site start`"
        found.append(Running(pid, what))
    if not found and absent is not None:
        raise absent
    return list(dict.fromkeys(found))


def stop(process: Running, timeout_s: float) -> None:
    """Ask a process to end, and wait until it has.

    Raises:
        DaemonError: this user may not end it, or it takes longer.
    """
    remedy = f"wait longer, or kill it: the ledger stays intact (kill -9 {process.pid})"
    end(process.pid, process.what, timeout_s=timeout_s, remedy=remedy)


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
