"""How the coordinator is enrolled: its request, then the consortium's files, checked (`trust_folder.py`).

The members' certificate files say which node key speaks for which name; they come one by one, as members do, and the
roster alone says whose count.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.coordinator_identity import (
    CoordinatorRequest,
    make_coordinator_request,
    read_coordinator_certificate,
    read_coordinator_request,
)
from yoriai.privacy.identity.enrolment import read_enrolment
from yoriai.privacy.identity.roster import Directory, Roster, read_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key, write_key
from yoriai.privacy.identity.trust_folder import (
    Accepted,
    read_trust_file,
)
from yoriai.server.folder.server_folder import ServerFolder, check_own
from yoriai.system.files import PRIVATE, write_atomically


def write_request(folder: ServerFolder) -> CoordinatorRequest:
    """Write the coordinator's request, with the key that is there already, or else a new one.

    Raises:
        ConfigError: this is no server's folder.
        IdentityError: the key file is damaged, or open to others.
        StorageError: a file cannot be written.
    """
    name = folder.config().name
    if not folder.coordinator_key.exists():
        write_key(folder.coordinator_key, SigningKey.generate())
    data = make_coordinator_request(name, read_key(folder.coordinator_key))
    write_atomically(folder.request(name), data, mode=PRIVATE)
    return read_coordinator_request(data)


def read_members(paths: Sequence[Path]) -> list[bytes]:
    """The members' certificate files at these paths, or in these folders.

    Raises:
        StorageError: one cannot be read, or a folder holds none.
    """
    return [read_trust_file("member", file) for path in paths for file in _certificate_files(path)]


def _certificate_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.cert"))
    if not found:
        raise StorageError(f"{path} holds no certificate file", expected="NAME.cert of each member")
    return found


def check_trust_files(
    folder: ServerFolder, brought: Mapping[str, bytes], members: Sequence[bytes], *, now: datetime
) -> Accepted:
    """Check the consortium's files against each other, the coordinator's key, and what is installed. Writes nothing.

    Args:
        folder: of the server.
        brought: by the option that brought each, as `read_trust_files`; of the others what is installed counts.
        members: certificate files of members, in any order.
        now: current time, with a time zone.

    Raises:
        ConfigError: a file is missing, or this is no server's folder.
        IdentityError: they are of another CA than the pinned one, older than what was seen, expired or altered, for
            another coordinator or key than this one's, or of a member that the roster does not name with it.
    """
    files = folder.trusted.completed(brought)
    trust = folder.trusted.trust_in(files, now=now)
    certificate = read_coordinator_certificate(files["coordinator"], trust, now=now)
    if not folder.coordinator_key.exists():
        raise IdentityError(
            "this coordinator has no key yet", remedy=f"yoriai server enrol {folder.path}, without files"
        )
    check_own(folder, read_key(folder.coordinator_key), certificate)
    roster = read_roster(files["roster"], trust)
    if certificate.federation != roster.federation:
        raise IdentityError(
            "the coordinator's certificate is of another federation than the roster",
            found=certificate.federation,
            expected=roster.federation,
            remedy="take both from the same consortium",
        )
    checked = {folder.member(name): data for name, data in _checked_members(members, roster, trust).items()}
    return Accepted(certificate, roster, files, first=not folder.trusted.is_pinned, members=checked)


def _checked_members(files: Sequence[bytes], roster: Roster, trust: Trust) -> dict[str, bytes]:
    directory = Directory(roster, trust)
    members: dict[str, bytes] = {}
    for data in files:
        enrolment = read_enrolment(data, trust)
        directory.check(roster.position(enrolment.name), enrolment.certificate)
        members[enrolment.name] = data
    return members


def missing_members(folder: ServerFolder, *, now: datetime) -> list[str]:
    """Members of the installed roster that cannot connect, for want of a certificate file that holds."""
    known = folder.node_keys(now)
    return [entry.name for entry in folder.signed_roster(now).directory.roster.sites if entry.name not in known]
