"""Which user of the machine owns what of a site, so that daemon and SuperNode can be two that do not trust each other.

    SITE/         0750   the daemon's user and its group, to which the SuperNode's user belongs: it may pass through
    site.toml     0640   the same: the SuperNode's keeper reads the server's address there
    node/         0700   the SuperNode's user
    run/          0750   the daemon's user, made by the daemon
    all else      0700   the daemon's user
    systemd/      root's, who installs what is in it

Root brings files to both users' folders and gives them to the folder's owner. In `node/`, where another user may have
put links meanwhile, it follows none.
"""

import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from yoriai.client.site_folder import SiteFolder
from yoriai.errors import ConfigError
from yoriai.files import cannot_write

_PASSED_THROUGH = 0o750
_GROUP_READS = 0o640


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
            "one user for daemon and SuperNode, which runs whatever code an app bundle brings",
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
        for path in (site.path, *site.path.iterdir()):
            if path != site.units:
                os.chown(path, user, group, follow_symlinks=False)
        os.chown(witness, user, group)
        os.chown(site.node, owners.node.pw_uid, owners.node.pw_gid)
        site.path.chmod(_PASSED_THROUGH)
        site.settings.chmod(_GROUP_READS)
    except OSError as error:
        raise cannot_write(site.path, error) from error


def settle(site: SiteFolder) -> None:
    """Where root has brought files into a site's folder, give each to the owner of the folder that it is in.

    Raises:
        StorageError: the system refuses.
    """
    if os.geteuid() != 0:
        return
    own, node = site.path.stat(), site.node.stat()
    try:
        for folder in (site.identity_key.parent, site.authority.parent):
            for path in folder.iterdir():
                _give_file(path, own.st_uid, own.st_gid)
        for path in site.path.glob("*.request"):
            _give_file(path, own.st_uid, own.st_gid)
        for path in (site.node_key, site.server_ca):
            _give_file(path, node.st_uid, node.st_gid)
    except OSError as error:
        raise cannot_write(site.path, error) from error


def _give_file(path: Path, user: int, group: int) -> None:
    """A plain file with one name, and nothing else: a link could stand for anybody's file."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                os.fchown(descriptor, user, group)
        finally:
            os.close(descriptor)
