"""Users of this machine by name, as messages have them: a number means nothing to whoever reads it."""

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence

from yoriai.errors import ConfigError


def user_name(uid: int) -> str:
    """The user's name; the number of one that this machine does not know."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The group's name; the number of one that this machine does not know."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def output_as(uid: int, line: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end as this user, in their groups and home. Only root can run it as another one.

    Raises:
        ConfigError: there is no such user, or they may not run it.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise ConfigError("this machine has no such user", found=str(uid), remedy="make it first") from None
    own = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    try:
        return subprocess.run(
            line,
            env={**environment, **own},
            cwd="/",
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=groups,
            umask=0o077,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except PermissionError:
        raise _cannot_run(entry.pw_name, line[0]) from None


def check_can_run(uid: int, command: str) -> None:
    """Raise ConfigError unless this user may run a command of Yoriai's, and the Python and the packages behind it."""
    if uid == os.geteuid():
        return
    done = output_as(uid, [command, "--version"], {"PATH": os.environ.get("PATH", os.defpath)})
    if done.returncode != 0:
        raise _cannot_run(user_name(uid), command)


def _cannot_run(name: str, command: str) -> ConfigError:
    return ConfigError(
        f"user {name} cannot run {command}",
        found=f"Python at {os.path.realpath(sys.executable)}",
        expected="both in folders that every user may enter and read",
        remedy="install Python and Yoriai elsewhere, as in /usr/local/yoriai",
    )
