"""Which processes are to be told to end for a site to stop, and their end.

A process is known by the lock that it holds, and by nothing that anybody says at a socket: root may ask, and who
took over the SuperNode may listen in `node/`. Each lock is believed of one user, and only this user's processes are
told to end.

    run/start-USER.lock     `site start`, which keeps both; root's, or of the user who owns the site's folder
    run/daemon.sock.lock    the daemon; of that user
    node/node.sock.lock     the SuperNode's keeper; of the user who owns node/
"""

from dataclasses import dataclass
from pathlib import Path

from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.daemon.listener import lock_of
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.node import node_socket_in
from yoriai.errors import DaemonError
from yoriai.system.process_lock import Holder, holder_of
from yoriai.system.processes import end


@dataclass(frozen=True)
class Running:
    """A process of a site: who it is, by the word and as the process of which user, and what it is in a message."""

    holder: Holder
    owner: int
    what: str


def start_lock(folder: Path, user: int) -> Path:
    """The lock of a `site start` that keeps both and was started by this user."""
    return socket_in(folder).with_name(f"start-{user}.lock")


def running(folder: Path) -> list[Running]:
    """The processes to end, in this order: whoever keeps both, or else the SuperNode's keeper and the daemon.

    Raises:
        DaemonError: the site is not running, this user may not see whether it is, or a lock is not what it should be.
    """
    site = SiteFolder(folder.resolve())
    try:
        owner, node_owner = site.path.stat().st_uid, site.node.lstat().st_uid
    except OSError:
        raise DaemonError(f"there is no site in {folder}", remedy="correct the path") from None
    closed = DaemonError(f"this user may not see what runs in {site.path}", remedy="use its own users, or root")
    try:
        for user in sorted({0, owner}):
            if both := _seen(start_lock(site.path, user), user, "`site start`"):
                return both
    except PermissionError:
        raise closed from None
    found, hidden = [], False
    for socket, user, what in (
        (node_socket_in(site.path), node_owner, "the SuperNode's keeper"),
        (socket_in(site.path), owner, "the site's daemon"),
    ):
        try:
            found += _seen(lock_of(socket), user, what)
        except PermissionError:
            hidden = True  # The daemon's user stops the daemon, and the SuperNode's the SuperNode.
    if not found:
        raise closed if hidden else DaemonError(f"nothing runs in {site.path}", remedy="`yoriai site start` starts it")
    return found


def stop(process: Running, timeout_s: float) -> None:
    """Ask a process to end, and wait until it has.

    Raises:
        DaemonError: this user may not end it, it takes longer, or it is another process than the lock means.
    """
    remedy = f"wait longer, or kill it: the ledger stays intact (kill -9 {process.holder.pid})"
    end(process.holder, process.owner, process.what, timeout_s=timeout_s, remedy=remedy)


def _seen(lock: Path, owner: int, what: str) -> list[Running]:
    """The one that holds the lock, if one does."""
    holder = holder_of(lock, owner)
    return [] if holder is None else [Running(holder, owner, what)]
