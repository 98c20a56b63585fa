"""The folder of a consortium's CA, on a machine that needs no network.

    federation         the state, signed by the CA; roster, revocation list and members' files can be made from it
    authority.key      the CA's private key, under a passphrase, mode 0600
    authority.der      the CA's certificate, for every site and the server
    revocations.der    the newest revocation list, for every site and the server
    roster             the newest roster, for every site and the server
    members/NAME.cert  the certificate file of each member, for the site and the server
    coordinator.cert   the certificate file that was last made for a coordinator, for the server

A step is done once `federation` is replaced; the files to hand out follow. What a crash between the two leaves undone
is done when the folder is next unlocked. The folder appears whole or not at all.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Authority, Trust
from yoriai.privacy.identity.coordinator_identity import CoordinatorRequest, certify_coordinator
from yoriai.privacy.identity.enrolment import sign_enrolment
from yoriai.privacy.identity.federation import Federation, check_ends, read_federation, sign_federation
from yoriai.privacy.identity.signing_key import SigningKey, read_key, write_key
from yoriai.system.files import PRIVATE, folder_made_whole, is_unused, locked_folder, read_carried, write_atomically

STATE = "federation"
KEY = "authority.key"
AUTHORITY = "authority.der"
REVOCATIONS = "revocations.der"
ROSTER = "roster"
MEMBERS = "members"
COORDINATOR = "coordinator.cert"
LEAST_PASSPHRASE = 12


def certificate_file(folder: Path, name: str) -> Path:
    """Where a member's certificate file lies."""
    return folder / MEMBERS / f"{name}.cert"


def found_federation(folder: Path, name: str, passphrase: bytes, *, now: datetime, valid_for: timedelta) -> Authority:
    """Make a consortium's folder with a new CA: all of it, or nothing.

    Args:
        folder: must not be there, or be empty.
        passphrase: at least 12 bytes; who loses it loses the CA.

    Raises:
        IdentityError: the folder is in use, the name is not a plain one, or the passphrase is too short.
        StorageError: it cannot be written.
    """
    if not is_unused(folder):
        raise IdentityError(f"{folder} is in use", expected="a new or an empty folder", remedy="name another folder")
    if len(passphrase) < LEAST_PASSPHRASE:
        raise IdentityError("the passphrase is too short", expected=f"at least {LEAST_PASSPHRASE} bytes")
    authority = Authority.create(name, SigningKey.generate(), now=now, valid_for=valid_for)
    federation = Federation.found(authority, name, now=now)
    with folder_made_whole(folder) as draft:
        write_key(draft / KEY, authority.key, passphrase)
        _write(draft / AUTHORITY, authority.certificate.public_bytes(Encoding.DER))
        FederationFolder(draft, authority, federation).save(federation)
    return authority


def look_at(folder: Path, *, now: datetime) -> Federation:
    """The state of a folder, without the CA's key.

    Raises:
        IdentityError: it is no consortium's folder, its state was altered, or the CA has expired.
    """
    if not (folder / STATE).is_file():
        raise IdentityError(
            f"{folder} is not the folder of a federation", remedy="name it with --folder, or run: federation init"
        )
    trust = Trust(read_carried(folder / AUTHORITY, "the CA's certificate"), None, now=now)
    state = read_carried(folder / STATE, "the federation's state", at_most_mib=256)
    return read_federation(state, trust.authority_key)


@contextlib.contextmanager
def unlocked(folder: Path, passphrase: bytes, *, now: datetime) -> Iterator["FederationFolder"]:
    """A folder with its CA's key, for one step; nobody else takes one meanwhile.

    Raises:
        IdentityError: as `look_at`; the passphrase is wrong, or the key is not this CA's.
    """
    look_at(folder, now=now)  # Before anything is locked or unlocked in what may be any folder.
    with locked_folder(folder):
        federation = look_at(folder, now=now)
        certificate = x509.load_der_x509_certificate((folder / AUTHORITY).read_bytes())
        authority = Authority(read_key(folder / KEY, passphrase), certificate)
        if authority.key.public_key != certificate.public_key():
            raise IdentityError(f"{KEY} and {AUTHORITY} of {folder} do not belong together", remedy="restore a backup")
        opened = FederationFolder(folder, authority, federation)
        opened.hand_out(federation)  # What a crash between a step and its files has left undone.
        yield opened


@dataclass(frozen=True)
class FederationFolder:
    """A consortium's folder while its CA's key is at hand."""

    path: Path
    authority: Authority
    federation: Federation

    def save(self, federation: Federation) -> None:
        """Make a step durable, then write what is handed out after it.

        Raises:
            StorageError: the disk is full, or the folder cannot be written. If the state was written before that, the
                next step writes the rest.
        """
        if federation.number < self.federation.number:
            raise StorageError("a step of the federation would count backwards", remedy="report this")
        _write(self.path / STATE, sign_federation(self.authority, federation))
        self.hand_out(federation)

    def certify(self, request: CoordinatorRequest, *, now: datetime, valid_for: timedelta) -> Path:
        """Remember the key, and write coordinator.cert; somebody has compared the key's fingerprint.

        Raises:
            IdentityError: as `Federation.check_coordinator`; a certificate that outlives the CA.
            StorageError: the file cannot be written.
        """
        federation = self.federation.with_coordinator(request)
        check_ends(self.authority, request.name, now + valid_for)
        self.save(federation)  # First: a key that is certified can always be revoked.
        data = certify_coordinator(self.authority, self.federation.name, request, now=now, valid_for=valid_for)
        return write_atomically(self.path / COORDINATOR, data, mode=PRIVATE)

    def hand_out(self, federation: Federation) -> None:
        """Write the files that are carried to others, as the state has them."""
        _write(self.path / REVOCATIONS, federation.revocations)
        if federation.roster:
            _write(self.path / ROSTER, federation.roster)
        names = set()
        for member in federation.members:
            path = certificate_file(self.path, member.name)
            _write(path, sign_enrolment(self.authority, member.enrolment))
            names.add(path.name)
        for path in (self.path / MEMBERS).glob("*.cert"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Write a file unless it holds just that."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    write_atomically(path, data, mode=PRIVATE)
