"""A site's folder: what lies where, and who may read it.

site.toml          settings and policy; its `schema` is the version of the whole folder
keys/              0700: identity.key, which signs for the site and never leaves it
node/              0700: node.key, with which Flower's SuperNode shows itself to the server. Apart from keys/, so
                   that it can belong to the user who runs the SuperNode, and keys/ need not. With it
                   server-ca.crt (the CA of the server's TLS), node.sock (who keeps the SuperNode), supernode.log
                   (what Flower says) and flower/ (Flower's own files)
run/               0750: daemon.sock, which the SuperNode's user may reach
systemd/           units of the daemon and of the SuperNode, and the users that they want
trust/             0700: authority.der (the pinned CA), roster, revocations.der, site.cert, roster.seen,
                   coordinator.seen
ledgers/           0700: the privacy budget of each data set
adapters/          0700: what the site has received and trained
channels/          0700: the versions that the site has pulled: a link a channel to the one in use, and the one before
jobs/              0700: the jobs that were offered, and what the operator decided about each
route/             0700: which answers are kept, and what has left for a large model
serve.key          0600: what clients of the endpoint show
cache/             0700: the base, fetched and unpacked, and what else can be had again
witness/           0700: the end of each ledger a second time, unless site.toml names another disk
NAME.request       what the site asks the consortium for
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from yoriai.config import SiteConfig, load_site, site_to_toml
from yoriai.errors import ConfigError, IdentityError
from yoriai.privacy.identity.signing_key import read_key
from yoriai.privacy.identity.trust_folder import TrustFolder
from yoriai.privacy.statements.instruction import SequenceMemory
from yoriai.system.files import PRIVATE, cannot_write, make_private_folder, write_new

if TYPE_CHECKING:
    from yoriai.client.site_identity import SiteIdentity

_PRIVATE_FOLDERS = ("keys", "node", "trust", "ledgers", "adapters", "jobs")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class SiteFolder:
    """The places in a site's folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """site.toml."""
        return self.path / "site.toml"

    @property
    def identity_key(self) -> Path:
        """The site's Ed25519 key."""
        return self.path / "keys" / "identity.key"

    @property
    def node_key(self) -> Path:
        """The SuperNode's P-384 key, in OpenSSH's format."""
        return self.path / "node" / "node.key"

    @property
    def trusted(self) -> TrustFolder:
        """What the site has of its consortium."""
        return TrustFolder(self.path / "trust", "site")

    @property
    def node(self) -> Path:
        """The folder of the SuperNode's user."""
        return self.path / "node"

    @property
    def server_ca(self) -> Path:
        """The CA of the server's TLS certificate, PEM. It vouches for no site and no coordinator."""
        return self.node / "server-ca.crt"

    @property
    def units(self) -> Path:
        """The folder of the systemd units."""
        return self.path / "systemd"

    @property
    def ledgers(self) -> Path:
        """The folder of the ledgers."""
        return self.path / "ledgers"

    @property
    def adapters(self) -> Path:
        """The folder of the adapters."""
        return self.path / "adapters"

    @property
    def channels(self) -> Path:
        """The folder of the versions that the site has pulled, by channel."""
        return self.path / "channels"

    @property
    def jobs(self) -> Path:
        """The folder of the job book."""
        return self.path / "jobs"

    @property
    def cache(self) -> Path:
        """What the daemon can fetch or compute again, packaged base models among it."""
        return self.path / "cache"

    def request(self, name: str) -> Path:
        """The request for the consortium."""
        return self.path / f"{name}.request"

    def place(self, setting: str) -> Path:
        """A path as site.toml has it: absolute, or taken from this folder."""
        return self.path / Path(setting).expanduser()

    def config(self) -> SiteConfig:
        """The settings.

        Raises:
            ConfigError: this is no site's folder, or its file has faults.
        """
        if not self.settings.is_file():
            raise ConfigError(f"{self.path} is not the folder of a site", remedy=f"yoriai site init {self.path}")
        return load_site(self.settings)

    def taken(self) -> SequenceMemory:
        """The highest sequence number that the site has taken from its coordinator."""
        return SequenceMemory(self.path / "trust" / "coordinator.seen")

    def identity(self, clock: Callable[[], datetime] = _now) -> "SiteIdentity":
        """Who the site is, for its rounds. A newer revocation list counts as soon as it is installed.

        Raises:
            IdentityError: the site is not enrolled, or its certificate no longer holds.
        """
        from yoriai.client.site_identity import SiteIdentity

        trusted = self.trusted
        enrolment = trusted.enrolment(clock())
        key = read_key(self.identity_key)
        if key.public_key.public_bytes_raw() != enrolment.identity:
            raise IdentityError(
                "the installed certificate is for another key", remedy=f"yoriai site enrol {self.path}, once more"
            )
        return SiteIdentity(key, enrolment.certificate, lambda: trusted.trust(clock()), trusted.memory(), self.taken())


def make_site(path: Path, config: SiteConfig) -> SiteFolder:
    """Make a site's folder. Its settings come last, so that one that was interrupted can be made again.

    Raises:
        ConfigError: there is a site already.
        StorageError: it cannot be written, or a folder in it is open to others.
    """
    folder = SiteFolder(path)
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    refuse_second(folder)
    for name in _PRIVATE_FOLDERS:
        make_private_folder(path / name)
    witness = folder.place(config.ledger.witness)
    try:
        witness.mkdir(mode=0o700, parents=True, exist_ok=True)  # Another disk's modes may not be the site's to set.
    except OSError as error:
        raise cannot_write(witness, error) from error
    with contextlib.suppress(FileExistsError):
        write_new(folder.settings, site_to_toml(config).encode(), mode=PRIVATE)
        return folder
    raise _second(folder)


def refuse_second(folder: SiteFolder) -> None:
    """Raise ConfigError if there is a site in this folder."""
    if folder.settings.exists():
        raise _second(folder)


def _second(folder: SiteFolder) -> ConfigError:
    return ConfigError(
        f"{folder.settings} exists", remedy="change it with an editor and add --renew, or name another folder"
    )


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders lie on one file system, and so are lost, or restored, together."""
    return one.stat().st_dev == other.stat().st_dev


def is_open(folder: Path) -> bool:
    """Whether users who neither own a folder nor belong to its group may see what is in it. False if there is none."""
    try:
        return folder.stat().st_mode & 0o005 != 0
    except OSError:
        return False
