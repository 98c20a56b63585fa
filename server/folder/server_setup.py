"""How a server's folder is made, whole or not at all, and how its certificate and its files are made anew."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yoriai.config import ServerConfig, server_to_toml
from yoriai.errors import ConfigError
from yoriai.privacy.identity.signing_key import SigningKey, write_key
from yoriai.server.folder.server_files import rendered
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.folder.tls import KeyPair, check_brought, issue, make_authority
from yoriai.system.files import (
    PRIVATE,
    folder_made_whole,
    is_unused,
    make_private_folder,
    read_carried,
    write_atomically,
)
from yoriai.system.key_file import read_private

_FOLDERS = ("keys", "tls", "trust", "members", "flower", "bundle", "nginx", "systemd", "jobs", "versions", "run", "log")
_READABLE = 0o644  # The folder itself is nobody else's to enter; a copy of such a file keeps the mode.


@dataclass(frozen=True)
class PublicSide:
    """What the plant brings for the public side: a certificate with its key, and its CA's certificate, all PEM."""

    pair: KeyPair
    authority: bytes

    @classmethod
    def read(cls, certificate: Path, key: Path, authority: Path) -> "PublicSide":
        """The files at these paths.

        Raises:
            StorageError: one cannot be read.
            IdentityError: the key file is open to others.
        """
        pair = KeyPair(read_carried(certificate, "the certificate"), read_private(key))
        return cls(pair, read_carried(authority, "the CA's certificate"))


def make_server(path: Path, config: ServerConfig, public: PublicSide | None, *, now: datetime) -> ServerFolder:
    """Make a server's folder: all of it, or nothing.

    Args:
        path: must not be there, or be empty.
        config: the settings.
        public: what the plant brought for the public side; None where the server's own CA serves it.
        now: current time, with a time zone.

    Raises:
        ConfigError: there is a server already, or the path cannot stand in nginx's and systemd's files.
        IdentityError: sites would refuse the certificate that was brought.
        StorageError: the folder cannot be written.
    """
    refuse_second(ServerFolder(path))
    with folder_made_whole(path) as draft:
        for name in _FOLDERS:
            (draft / name).mkdir(mode=0o700)
        made = ServerFolder(draft)
        write_key(made.coordinator_key, SigningKey.generate())
        _write_tls(made, config, public, now)
        _write_files(made, _absolute(path), config)
        write_atomically(made.settings, server_to_toml(config).encode(), mode=PRIVATE)
    return ServerFolder(path)


def renew(folder: ServerFolder, public: PublicSide | None, *, now: datetime) -> KeyPair:
    """Make a new server certificate from the same CA, and the files that follow from server.toml, as that is now.

    Returns:
        The new pair.

    Raises:
        ConfigError: this is no server's folder, or its settings have faults.
        IdentityError: the CA has expired, or sites would refuse the certificate that was brought.
        StorageError: a file cannot be written.
    """
    config = folder.config()
    for name in _FOLDERS:  # An earlier version made fewer.
        make_private_folder(folder.path / name)
    issued = _write_tls(folder, config, public, now)
    _write_files(folder, _absolute(folder.path), config)
    return issued


def refuse_second(folder: ServerFolder) -> None:
    """Raise ConfigError unless a server can be made in this folder."""
    if folder.settings.exists():
        raise ConfigError(
            f"{folder.settings} exists",
            remedy="change it with an editor and add --renew, or name another folder",
        )
    if not is_unused(folder.path):
        raise ConfigError(f"{folder.path} is in use", expected="a new or an empty folder", remedy="name another folder")


def _write_tls(folder: ServerFolder, config: ServerConfig, public: PublicSide | None, now: datetime) -> KeyPair:
    """Write the server's pair, and first a CA where there is none; return the pair."""
    if public is not None:
        check_brought(public.pair, public.authority, config.hosts, now=now)
    if not folder.tls_ca_key.exists():
        authority = make_authority(config.name, now=now)
        write_atomically(folder.tls_ca, authority.certificate, mode=_READABLE)
        write_atomically(folder.tls_ca_key, authority.key, mode=PRIVATE)
    authority = KeyPair(read_carried(folder.tls_ca, "the TLS CA's certificate"), read_private(folder.tls_ca_key))
    issued = issue(authority, config.hosts, now=now)
    _write_pair(folder, "server", issued)
    if public is not None:
        _write_pair(folder, "public", public.pair)
        write_atomically(folder.path / "tls" / "public-ca.crt", public.authority, mode=_READABLE)
    return issued


def _write_pair(folder: ServerFolder, side: str, pair: KeyPair) -> None:
    write_atomically(folder.path / "tls" / f"{side}.key", pair.key, mode=PRIVATE)
    write_atomically(folder.path / "tls" / f"{side}.crt", pair.certificate, mode=_READABLE)


def _write_files(folder: ServerFolder, place: Path, config: ServerConfig) -> None:
    """Write what follows from the settings, as it must read at `place`."""
    brought = folder.public_ca != folder.tls_ca
    for path, text in rendered(place, config, brought=brought).items():
        write_atomically(folder.path / path, text.encode(), mode=_READABLE)


def _absolute(path: Path) -> Path:
    """Without `..`, which systemd refuses; links stay as they were named."""
    return Path(os.path.abspath(path))
