"""Two throwaway users of this machine, and processes that run as one of them. Only root can make them."""

import ctypes
import errno
import os
import pwd
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.client.daemons import WAIT_S, context
from tests.system import needed
from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.errors import YoriaiError

_PTRACE_ATTACH = 16


@dataclass(frozen=True)
class Pair:
    """The names of the daemon's user, and of the SuperNode's, who is in the first one's group."""

    site: str
    node: str


@contextmanager
def two_users() -> Iterator[Pair]:
    """Make them, and remove them at the end."""
    end = secrets.token_hex(4)
    pair = Pair(f"yt-site-{end}", f"yt-node-{end}")
    common = ["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "--user-group"]
    try:
        subprocess.run([needed("useradd", "passwd"), *common, pair.site], check=True)
        subprocess.run([needed("useradd", "passwd"), *common, "--groups", pair.site, pair.node], check=True)
        yield pair
    finally:
        for name in (pair.node, pair.site):
            subprocess.run([needed("userdel", "passwd"), name], check=False, capture_output=True)


def become(name: str) -> None:
    """Be this user, in all of their groups, for good."""
    entry = pwd.getpwnam(name)
    os.initgroups(name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


@contextmanager
def daemon_as(name: str, folder: Path, node_user: str, log: Path) -> Iterator[DaemonClient]:
    """A real daemon of a site's folder, as this user, which the other may talk to."""
    from yoriai.client.daemon.daemon_config import socket_in

    process = context().Process(target=_be_daemon, args=(name, folder, node_user, log), daemon=True)
    process.start()
    try:
        yield DaemonClient(socket_in(folder))
    finally:
        process.kill()
        process.join()


def _be_daemon(name: str, folder: Path, node_user: str, log: Path) -> None:
    from yoriai.client.daemon.daemon import run
    from yoriai.client.daemon.daemon_config import config_in
    from yoriai.client.daemon.daemon_site import open_site
    from yoriai.system.log import EventLog

    with log.open("a") as stream:
        os.dup2(stream.fileno(), 2)
    config = config_in(folder, allowed_uids=frozenset({pwd.getpwnam(node_user).pw_uid}))
    # The interpreter may lie where only root may read: what it loads late is loaded now, by another ledger.
    elsewhere = log.parent / "elsewhere"
    warm = replace(config, ledgers=elsewhere, witnesses=elsewhere / "witness")
    open_site(warm, EventLog(sys.stderr), lambda: None).close()
    become(name)
    run(config, EventLog(sys.stderr, as_json=True), open_site)


def as_user(name: str, what: Callable[..., Any], *arguments: object) -> Any:
    """What a function of this module gives to this user, in a process of theirs."""
    made = context()
    receiving, sending = made.Pipe(duplex=False)
    process = made.Process(target=_tell, args=(name, partial(what, *arguments), sending), daemon=True)
    process.start()
    try:
        assert receiving.poll(WAIT_S)
        return receiving.recv()
    finally:
        process.join(WAIT_S)


def _tell(name: str, what: Callable[[], Any], sending: Any) -> None:
    become(name)
    sending.send(what())


def reading(path: Path) -> str:
    """The name of the error with which a file or folder is refused; `read` if it is not."""
    try:
        if path.is_dir():
            os.listdir(path)
        else:
            path.read_bytes()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "read"


def memory_of(pid: int) -> str:
    """The same for the memory of a process."""
    return reading(Path(f"/proc/{pid}/mem"))


def tracing(pid: int) -> str:
    """The same for tracing a process as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_ATTACH, pid, 0, 0) == 0:
        return "traced"
    return errno.errorcode[ctypes.get_errno()]


def asking(socket: Path) -> dict[str, Any]:
    """The daemon's hello and health, or the error."""
    daemon = DaemonClient(socket)
    try:
        return {"hello": daemon.hello(), "health": daemon.health()}
    except YoriaiError as error:
        return {"error": str(error)}
