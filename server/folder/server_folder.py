"""The folder of the coordinator's machine: what lies where. All of it belongs to the user that the server runs as.

server.toml        settings; its `schema` is the version of the whole folder
keys/              coordinator.key, which signs what the coordinator states to sites
tls/               see tls.py; the only thing here that sites are given is its CA's certificate
trust/             authority.der (the pinned CA), roster, revocations.der, coordinator.cert, roster.seen
members/           NAME.cert of each member: which node key speaks for which name
flower/            Flower's home: config.toml for the flwr command, nodes.json, payloads that are on their way
bundle/            what Flower carries to the sites for a job: names, no code
nginx/, systemd/   files to link into the system's own folders
jobs/, run/, log/  what the running server keeps
versions/          what became of finished jobs: versions, channels and the signed log, in one database; cards/RUN.md
NAME.request       what the coordinator asks the consortium for
"""

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yoriai.config import ServerConfig, load_server
from yoriai.errors import ConfigError, IdentityError
from yoriai.privacy.identity.coordinator_identity import CoordinatorCertificate, read_coordinator_certificate
from yoriai.privacy.identity.enrolment import Enrolment, read_enrolment
from yoriai.privacy.identity.roster import Directory, read_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key
from yoriai.privacy.identity.trust_folder import TrustFolder, read_trust_file
from yoriai.server.round.rosters import SignedRoster
from yoriai.system.files import cannot_write
from yoriai.system.users import user_name


@dataclass(frozen=True)
class ServerFolder:
    """The places in a server's folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """server.toml."""
        return self.path / "server.toml"

    @property
    def coordinator_key(self) -> Path:
        """The coordinator's Ed25519 key."""
        return self.path / "keys" / "coordinator.key"

    @property
    def trusted(self) -> TrustFolder:
        """What the server has of its consortium."""
        return TrustFolder(self.path / "trust", "server")

    @property
    def members(self) -> Path:
        """The folder of the members' certificate files."""
        return self.path / "members"

    @property
    def tls_ca(self) -> Path:
        """Certificate of the server's own TLS CA, PEM: for whoever talks to the SuperLink on this machine."""
        return self.path / "tls" / "ca.crt"

    @property
    def tls_ca_key(self) -> Path:
        """Key of the server's own TLS CA."""
        return self.path / "tls" / "ca.key"

    @property
    def tls_certificate(self) -> Path:
        """The certificate of the SuperLink, and of nginx unless the plant brought one; PEM."""
        return self.path / "tls" / "server.crt"

    @property
    def tls_key(self) -> Path:
        """The key of that certificate."""
        return self.path / "tls" / "server.key"

    @property
    def public_ca(self) -> Path:
        """The CA certificate that sites are given, PEM: the plant's, if it brought one, or else the server's own."""
        brought = self.path / "tls" / "public-ca.crt"
        return brought if brought.is_file() else self.tls_ca

    @property
    def flower_home(self) -> Path:
        """Flower's home."""
        return self.path / "flower"

    @property
    def bundle(self) -> Path:
        """The folder of the app bundle."""
        return self.path / "bundle"

    @property
    def nginx_site(self) -> Path:
        """The file for nginx."""
        return self.path / "nginx" / "yoriai.conf"

    @property
    def unit(self) -> Path:
        """The service's unit for systemd."""
        return self.path / "systemd" / "yoriai-server.service"

    @property
    def sysusers(self) -> Path:
        """The file from which systemd makes the server's user."""
        return self.path / "systemd" / "yoriai-server.sysusers"

    @property
    def jobs(self) -> Path:
        """The folder of the jobs."""
        return self.path / "jobs"

    @property
    def versions(self) -> Path:
        """The database of versions, channels and log."""
        return self.path / "versions" / "versions.sqlite"

    def card(self, run: str) -> Path:
        """The model card of a version that was promoted, by its run."""
        return self.path / "versions" / "cards" / f"{run}.md"

    @property
    def run(self) -> Path:
        """The folder of what holds only while the server runs."""
        return self.path / "run"

    @property
    def log(self) -> Path:
        """The folder of the logs."""
        return self.path / "log"

    def member(self, name: str) -> Path:
        """A member's certificate file."""
        return self.members / f"{name}.cert"

    def request(self, name: str) -> Path:
        """The request for the consortium."""
        return self.path / f"{name}.request"

    def config(self) -> ServerConfig:
        """The settings.

        Raises:
            ConfigError: this is no server's folder, or its file has faults.
        """
        if not self.settings.is_file():
            raise ConfigError(f"{self.path} is not the folder of a server", remedy=f"yoriai server init {self.path}")
        return load_server(self.settings)

    def signed_roster(self, now: datetime) -> SignedRoster:
        """The installed roster, verified, with what checks its members' certificates.

        Raises:
            IdentityError: there is none, the pinned CA did not sign it, or it has expired.
        """
        trust = self.trusted.trust(now)
        file = read_trust_file("roster", self.trusted.roster)
        return SignedRoster(file, Directory(read_roster(file, trust), trust))

    def signing(self, now: datetime) -> tuple[SigningKey, bytes]:
        """The coordinator's key and its certificate file, with which sites verify what the key signs.

        Raises:
            IdentityError: the coordinator is not enrolled, or its certificate does not hold for this key now.
        """
        trust = self.trusted.trust(now)
        file = read_trust_file("coordinator", self.trusted.certificate)
        key = read_key(self.coordinator_key)
        check_own(self, key, read_coordinator_certificate(file, trust, now=now))
        return key, file

    def node_keys(self, now: datetime) -> dict[str, str]:
        """The node key of each member that may connect now, as OpenSSH's line, by name.

        A member without a certificate file here, or whose certificate is not the roster's or does not hold, is left
        out; the others connect without it.

        Raises:
            IdentityError: as `signed_roster`.
        """
        return {name: found.node_key for name, found in self.standing(now).items() if isinstance(found, Enrolment)}

    def identities(self, now: datetime) -> dict[str, bytes]:
        """The key with which each member signs for itself (Ed25519, 32 bytes), by name; as `node_keys`."""
        return {name: found.identity for name, found in self._members(now) if isinstance(found, Enrolment)}

    def barred(self, now: datetime) -> dict[str, str]:
        """The members that `node_keys` leaves out, and why.

        Raises:
            IdentityError: as `signed_roster`.
        """
        return {name: found for name, found in self.standing(now).items() if isinstance(found, str)}

    def standing(self, now: datetime) -> dict[str, Enrolment | str]:
        """Each member of the roster by name: its certificate file's content, or why there is none that holds.

        Raises:
            IdentityError: as `signed_roster`.
        """
        return dict(self._members(now))

    def _members(self, now: datetime) -> Iterator[tuple[str, Enrolment | str]]:
        directory, trust = self.signed_roster(now).directory, self.trusted.trust(now)
        for position, entry in enumerate(directory.roster.sites):
            if not self.member(entry.name).is_file():
                yield entry.name, "its certificate file is not installed here"
                continue
            try:
                enrolment = read_enrolment(read_trust_file("member", self.member(entry.name)), trust)
                directory.check(position, enrolment.certificate)
            except IdentityError as error:
                yield entry.name, str(error)
                continue
            yield entry.name, enrolment

    def check_user(self) -> None:
        """Raise ConfigError unless this process's user is the folder's own: what another leaves, the server cannot use.

        That goes for root as well.
        """
        owner = self.path.stat().st_uid
        if os.geteuid() != owner:
            raise ConfigError(
                f"{self.path} belongs to user {user_name(owner)}",
                remedy=f"run the command as that user: runuser -u {user_name(owner)} -- yoriai …",
            )

    def hand_over(self) -> bool:
        """Give all that root has made here to the user that the server runs as; False where only root could.

        Raises:
            StorageError: an owner cannot be changed.
        """
        try:
            user = pwd.getpwnam(self.config().user)
        except KeyError:
            return False
        if os.geteuid() != 0:
            return os.geteuid() == user.pw_uid
        try:
            # By descriptors, and never through a link: the user may be at work in the folder meanwhile.
            for _, _, files, descriptor in os.fwalk(self.path):
                for name in (".", *files):
                    os.chown(name, user.pw_uid, user.pw_gid, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return True


def check_own(folder: ServerFolder, key: SigningKey, certificate: CoordinatorCertificate) -> None:
    """Raise IdentityError unless the certificate is this coordinator's, by its name and for its key."""
    name = folder.config().name
    again = f"send {folder.request(name).name} to the consortium again, and take the certificate made from it"
    if certificate.name != name:
        raise IdentityError(
            "the certificate is another coordinator's",
            found=certificate.name,
            expected=f"{name}, as in {folder.settings.name}",
            remedy=again,
        )
    if certificate.identity != key.public_key.public_bytes_raw():
        raise IdentityError("the certificate is for another key than this coordinator's", remedy=again)
