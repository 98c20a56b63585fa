"""Daemon and SuperNode of a site, started together: who runs as whom, and one process that keeps both alive.

    yoriai site start DIR                     keeps the two below; holds nothing itself
      yoriai site start DIR --only daemon     the daemon, as the owner of DIR
      yoriai site start DIR --only node       keeps the SuperNode, as the owner of DIR/node
        supernode.py                          Flower's, and its executor

The end of either is no reason for the other's. If the first is killed, the kernel kills the others, each with its
parent. Under systemd the second and the third are units of their own, and the first does not run.
"""

import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from yoriai import flower
from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.folder.daemon_environment import daemon_environment
from yoriai.client.folder.owners import make_run
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.daemon_watch import GRACE_S
from yoriai.client.node.node import node_socket_in
from yoriai.client.node.site_stop import start_lock
from yoriai.errors import ConfigError, DaemonError
from yoriai.system.files import cannot_write
from yoriai.system.log import EventLog
from yoriai.system.process_lock import hold, let_go
from yoriai.system.signals import wake_up_call
from yoriai.system.supervisor import Supervisor, installed
from yoriai.system.users import check_can_run, group_name, user_name

# The daemon gives the message at hand half a minute; the node's keeper, its SuperNode GRACE_S.
_DAEMON_GRACE_S = 45.0
_NODE_GRACE_S = GRACE_S + 5.0


@dataclass(frozen=True)
class Users:
    """The numbers of the users that daemon and SuperNode run as."""

    daemon: int
    node: int

    @property
    def node_name(self) -> str:
        """The name of the SuperNode's user."""
        return pwd.getpwuid(self.node).pw_name


def users_of(site: SiteFolder, node_user: str | None) -> Users:
    """Who runs what when this process starts both; whether the two are apart is for `refuse_same` to say.

    Args:
        node_user: the SuperNode's; None: the owner of its folder, where root starts it, and else this process's.

    Raises:
        ConfigError: there is no such user, only root could start it, or it may not read its own folder or cannot
            reach the daemon's.
    """
    own, is_root = os.geteuid(), os.geteuid() == 0
    daemon = site.path.stat().st_uid if is_root else own
    node = _number_of(node_user) if node_user is not None else site.node.stat().st_uid if is_root else own
    users = Users(daemon, node)
    if node != own and not is_root:
        raise ConfigError("only root can start the SuperNode as another user", remedy=f"use sudo, or {_units(site)}")
    if node != daemon:
        _check_ways(site, users)
    return users


def refuse_same(site: SiteFolder, users: Users) -> None:
    """Raise ConfigError where the SuperNode's user could read what is the daemon's."""
    if users.node in (users.daemon, 0):
        raise ConfigError(
            "the SuperNode, which is foreign code that talks to the server, would run as the daemon's user, or as root",
            found=f"user {user_name(users.node)}",
            expected="a user of its own",
            remedy=f"{_units(site)}, or --node-user USER as root; --same-user gives up this protection",
        )


def refuse_foreign(site: SiteFolder) -> None:
    """Raise ConfigError where root would run the daemon in another user's folder, and leave files there as its own."""
    owner = site.path.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        name = user_name(owner)
        raise ConfigError(
            f"{site.path} belongs to user {name}, who could not read what a daemon of root's leaves there",
            remedy=f"start the daemon as that user (runuser -u {name} -- yoriai site start DIR), or by its unit",
        )


def keep_both(
    site: SiteFolder, users: Users, log: EventLog, *, options: Sequence[str] = (), of_daemon: Sequence[str] = ()
) -> None:
    """Keep daemon and SuperNode alive until SIGTERM, SIGINT or SIGHUP. Call it in a process's main thread.

    Args:
        site: with an absolute path.
        options: of `site start` for both, beside those that name part and user.
        of_daemon: further ones for the daemon.

    Raises:
        DaemonError: one of the two is running.
        ConfigError: one of the two users cannot run Yoriai.
        StorageError: the lock by which `site stop` finds this process cannot be written.
    """
    for uid in {users.daemon, users.node}:
        check_can_run(uid, installed("yoriai"))
    _refuse_second(site)

    def child(name: str, uid: int, options: Sequence[str]) -> Supervisor:
        line = [installed("yoriai"), "site", "start", str(site.path), "--only", name]
        run_as = None if uid == os.geteuid() else uid
        # What starts the SuperNode belongs to its user, who could read there what root's environment holds.
        environment = flower.passed_on() if name == "node" else os.environ
        if name == "daemon" and run_as is not None:
            environment = daemon_environment(site, os.environ)
        return Supervisor(name, [*line, *options], environment=environment, log=log, run_as=run_as)

    shared = users.node in (users.daemon, 0)
    allowed = [] if users.node == users.daemon else ["--allow-user", users.node_name]
    daemon = child("daemon", users.daemon, [*options, *of_daemon, *allowed])
    node = child("node", users.node, [*options, *(["--same-user"] if shared else [])])
    with _found_by_stop(site, users), wake_up_call() as (woken, _):
        daemon.start()
        node.start()
        try:
            woken.recv(1)
        finally:
            log.event("stopping")
            node.stop(_NODE_GRACE_S)
            daemon.stop(_DAEMON_GRACE_S)
            log.event("stopped")


def _refuse_second(site: SiteFolder) -> None:
    for path in (socket_in(site.path), node_socket_in(site.path)):
        try:
            pid = DaemonClient(path).pid()
        except DaemonError:
            continue
        raise DaemonError(
            f"this site was started already: somebody listens at {path}",
            found=f"process {pid}",
            remedy="start it alone or under systemd, never both; `yoriai site stop` stops it",
        )


@contextmanager
def _found_by_stop(site: SiteFolder, users: Users) -> Iterator[None]:
    """Hold the lock by which `site stop` finds who keeps both."""
    lock = start_lock(site.path, os.geteuid())
    try:
        make_run(site, users.daemon)
        lock_descriptor = hold(lock)
    except BlockingIOError:
        raise DaemonError("this site was started already", remedy="`yoriai site stop` stops it") from None
    except OSError as error:
        raise cannot_write(lock, error) from error
    try:
        yield
    finally:
        let_go(lock_descriptor)


def _check_ways(site: SiteFolder, users: Users) -> None:
    """The SuperNode's user has its own folder, and may pass through the site's to the daemon's socket."""
    name = users.node_name
    if site.node.stat().st_uid != users.node:
        raise ConfigError(
            f"{site.node} is not {name}'s", remedy=f"chown -R {name}: {site.node}, or {_units(site)}, as root"
        )
    found = site.path.stat()
    groups = os.getgrouplist(name, pwd.getpwuid(users.node).pw_gid)
    by_group = found.st_gid in groups and found.st_mode & stat.S_IXGRP
    if not by_group and not found.st_mode & stat.S_IXOTH:
        raise ConfigError(
            f"{name} cannot pass through {site.path}",
            found=f"mode {stat.S_IMODE(found.st_mode):04o}, group {group_name(found.st_gid)}",
            expected="mode 0750, and the user in that group",
            remedy=f"usermod --append --groups GROUP {name}, and chmod 750 {site.path}",
        )


def _units(site: SiteFolder) -> str:
    return f"start the two units in {site.units}"


def _number_of(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(
            "--node-user: this machine has no such user", found=repr(name[:80]), remedy="make it first"
        ) from None
