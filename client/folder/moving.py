"""A site's folder that was moved, or came out of a backup: made whole, and each part given to its user again.

Whatever the copy has lost (owners, modes, empty folders) is as `site init` made it; no file is written but the units.
What lies elsewhere by the settings, which belong to the daemon's user, is left to root by name: witness and records.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shlex import quote

from yoriai.client.folder.owners import GROUP_READS, OF_SITE, PASSED_THROUGH, Names, Owners, names_of
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.config import SiteConfig
from yoriai.system.files import cannot_write, opened_folder
from yoriai.system.users import user_name

_PRIVATE = 0o700
_ROOTS = "systemd"


def names_in(site: SiteFolder, user: str | None, node_user: str | None) -> Names:
    """The two users: those that were named, or else the owners of the folder and of node/, or the usual ones.

    Raises:
        ConfigError: one user for both.
    """
    return names_of(user or _owner(site.path), node_user or _owner(site.node))


def _owner(folder: Path) -> str | None:
    """The name of a folder's owner, if that is a user of this machine other than root."""
    try:
        uid = folder.stat().st_uid
        return pwd.getpwuid(uid).pw_name if uid else None
    except (OSError, KeyError):
        return None


def settle_again(site: SiteFolder, owners: Owners) -> None:
    """Make the folders that are missing, and give all of the site's folder to its users, with the usual modes.

    Root follows no link and gives away no file that has a second name elsewhere (see owners.py).

    Raises:
        StorageError: the system refuses.
    """
    try:
        with opened_folder(site.path.resolve()) as folder:
            for name in (*OF_SITE, "node"):
                _make_private(name, folder)
            for place, _, files, within in os.fwalk(".", dir_fd=folder):
                part = Path(place).parts[:1]
                if part == (_ROOTS,):
                    continue
                user = owners.node if part == ("node",) else owners.site
                os.fchown(within, user.pw_uid, user.pw_gid)
                for name in files:
                    _give_plain(name, user, within)
            with suppress(FileNotFoundError), opened_folder("run", folder) as run:
                os.fchmod(run, PASSED_THROUGH)
            _set_mode(site.settings.name, GROUP_READS, folder)
            os.fchmod(folder, PASSED_THROUGH)
    except OSError as error:
        raise cannot_write(site.path, error) from error


def _make_private(name: str, within: int) -> None:
    try:
        os.mkdir(name, _PRIVATE, dir_fd=within)
    except FileExistsError:
        with opened_folder(name, within) as folder:
            os.fchmod(folder, _PRIVATE)


def _give_plain(name: str, user: pwd.struct_passwd, within: int) -> None:
    """Give a plain file with one name; sockets, links and the like are made again by those that need them."""
    if not stat.S_ISREG(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode):
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=within)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
    finally:
        os.close(descriptor)


def _set_mode(name: str, mode: int, within: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def left_to_root(site: SiteFolder, config: SiteConfig, names: Names) -> Iterator[str]:
    """Lines on what of a moved site lies outside its folder, and does not follow by itself."""
    here = site.path.resolve()
    witness, records = site.place(config.ledger.witness), site.place(config.records.folder)
    if not witness.is_dir():
        yield f"warning: there is no {witness}, the second place of the ledgers"
        yield f"  mount its disk, or correct ledger.witness in {site.settings}; never put an old copy there"
    if not records.is_dir():
        yield f"warning: there is no {records}, the records"
        yield f"  bring them there, or correct records.folder in {site.settings}"
    for place in (witness, records):
        if place.is_dir() and (owner := user_name(place.stat().st_uid)) != names.site:
            yield f"{place} belongs to user {owner}; as root:"
            yield f"  chown -R {names.site}: {quote(str(place))}"
    home = _home(names.site)
    if home is not None and home != here and not home.is_dir():
        yield f"the home of {names.site} was {home}; as root:"
        yield f"  usermod --home {quote(str(here))} {names.site}"


def _home(name: str) -> Path | None:
    try:
        return Path(pwd.getpwnam(name).pw_dir)
    except KeyError:
        return None
