"""Which user of the machine owns what of a site, so that daemon and SuperNode can be two that do not trust each other.

    SITE/         0750   the daemon's user and its group, to which the SuperNode's user belongs: it may pass through
    site.toml     0640   the same: the SuperNode's keeper reads the server's address there
    node/         0700   the SuperNode's user
    run/          0750   the daemon's user, made by the daemon
    all else      0700   the daemon's user
    systemd/      root's, who installs what is in it

Root brings files to both users' folders and gives them to the folder's owner. Any of these folders may hold links by
then, or be one, that its user has put there. So root goes from the site's folder by descriptors, follows no link, and
gives away what is root's and was written by Yoriai, by name.
"""

import os
import pwd
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import ConfigError
from yoriai.system.files import cannot_write, opened_folder
from yoriai.system.users import user_name

PASSED_THROUGH = 0o750
GROUP_READS = 0o640
OF_SITE = ("keys", "trust", "ledgers", "adapters", "jobs")
# What `site enrol` writes, by its folder.
_BROUGHT: Mapping[str, Sequence[str]] = {
    "keys": ("identity.key",),
    "trust": ("authority.der", "roster", "roster.seen", "revocations.der", "site.cert"),
    "node": ("node.key", "server-ca.crt"),
}


@dataclass(frozen=True)
class Names:
    """The two users by name, and the group of the first."""

    site: str = "yoriai-site"
    node: str = "yoriai-node"

    @property
    def group(self) -> str:
        """The primary group of the daemon's user; one of the same name where the user is still to be made."""
        import grp

        with suppress(KeyError):
            return grp.getgrgid(pwd.getpwnam(self.site).pw_gid).gr_name
        return self.site


@dataclass(frozen=True)
class Owners:
    """The two users, as the machine knows them."""

    site: pwd.struct_passwd
    node: pwd.struct_passwd

    @property
    def can_pass(self) -> bool:
        """Whether the SuperNode's user is in the daemon's group."""
        return self.site.pw_gid in os.getgrouplist(self.node.pw_name, self.node.pw_gid)


def names_of(user: str | None, node_user: str | None) -> Names:
    """The users that were named, or else the usual ones.

    Raises:
        ConfigError: one user for both.
    """
    names = Names(user or Names.site, node_user or Names.node)
    if names.site == names.node:
        raise ConfigError(
            "one user for daemon and SuperNode, which is foreign code that talks to the server",
            found=names.site,
            remedy="name two",
        )
    return names


def owners_of(names: Names, *, asked_for: bool) -> Owners | None:
    """These users of the machine, if this process may give files to them; None where nobody asked for it.

    Args:
        asked_for: whether the users were named on the command line.

    Raises:
        ConfigError: they were, and a user is not there or this is not root.
    """
    if os.geteuid() != 0:
        if asked_for:
            raise ConfigError("only root can give a folder to other users", remedy="use sudo, or leave the users out")
        return None
    try:
        return Owners(pwd.getpwnam(names.site), pwd.getpwnam(names.node))
    except KeyError as error:
        if asked_for:
            raise ConfigError(
                "this machine has no such user", found=str(error.args[0]), remedy="make both users first"
            ) from None
        return None


def give(site: SiteFolder, witness: Path, owners: Owners) -> None:
    """Give a folder that was just made to its users.

    Raises:
        StorageError: the system refuses.
    """
    user, group = owners.site.pw_uid, owners.site.pw_gid
    try:
        with opened_folder(site.path.resolve()) as folder:
            for name in (*OF_SITE, str(witness.resolve())):
                _give(name, user, group, within=folder)
            _give("node", owners.node.pw_uid, owners.node.pw_gid, within=folder)
            _give("site.toml", user, group, within=folder, mode=GROUP_READS)
            os.fchown(folder, user, group)  # Last: from now on its owner may put anything there.
            os.fchmod(folder, PASSED_THROUGH)
    except OSError as error:
        raise cannot_write(site.path, error) from error


def make_run(site: SiteFolder, user: int) -> None:
    """Make run/, if it is not there, for the daemon's user; root may come before the daemon does.

    Args:
        user: the daemon's number.

    Raises:
        OSError: the system refuses.
    """
    with opened_folder(site.path.resolve()) as folder, suppress(FileExistsError):
        os.mkdir("run", 0o700, dir_fd=folder)
        group = os.getegid() if user == os.geteuid() else pwd.getpwuid(user).pw_gid
        _give("run", user, group, within=folder, mode=PASSED_THROUGH)


def settle(site: SiteFolder) -> None:
    """Where root has brought files into a site's folder, give each to the owner of the folder that it is in.

    Raises:
        ConfigError: a folder of the daemon's is another user's.
        StorageError: the system refuses, or something else stands where a folder should be.
    """
    if os.geteuid() != 0:
        return
    request = site.request(site.config().name).name
    try:
        with opened_folder(site.path.resolve()) as folder:
            own = os.fstat(folder)
            _give(request, own.st_uid, own.st_gid, within=folder)
            for name, files in _BROUGHT.items():
                with opened_folder(name, folder) as inner:
                    found = os.fstat(inner)
                    _check_owner(site, name, found.st_uid, own.st_uid)
                    for file in files:
                        _give(file, found.st_uid, found.st_gid, within=inner)
    except OSError as error:
        raise cannot_write(site.path, error) from error


def _check_owner(site: SiteFolder, name: str, found: int, own: int) -> None:
    if name != "node" and found != own:
        raise ConfigError(
            f"{site.path / name} is not the site's own",
            found=f"user {user_name(found)}",
            expected=f"user {user_name(own)}",
            remedy=f"as root: chown -R {user_name(own)} {site.path / name}",
        )


def _give(name: str, user: int, group: int, *, within: int, mode: int | None = None) -> None:
    """Give a folder, or a plain file with one name, that is this user's; nothing else, and nobody else's.

    Args:
        within: descriptor of the folder that it is in.
        mode: its permission bits from then on; None leaves them.
    """
    with suppress(FileNotFoundError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=within)
        try:
            found = os.fstat(descriptor)
            single = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if single and found.st_uid == os.geteuid():
                os.fchown(descriptor, user, group)
                if mode is not None:
                    os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
