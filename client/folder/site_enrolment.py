"""How a site becomes a member: its keys and its request, then the consortium's files, checked (`trust_folder.py`)."""

from collections.abc import Mapping
from datetime import datetime

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import IdentityError
from yoriai.privacy.identity.enrolment import (
    Enrolment,
    Request,
    key_fingerprint,
    make_request,
    read_enrolment,
    read_request,
)
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.roster import Directory, read_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key, write_key
from yoriai.privacy.identity.trust_folder import (
    Accepted,
)
from yoriai.system.files import PRIVATE, write_atomically


def write_request(folder: SiteFolder) -> Request:
    """Write the site's request, with keys that are there already, or else new ones.

    Raises:
        ConfigError: this is no site's folder.
        IdentityError: a key file is damaged, or open to others.
        StorageError: a file cannot be written.
    """
    name = folder.config().name
    if not folder.identity_key.exists():
        write_key(folder.identity_key, SigningKey.generate())
    if not folder.node_key.exists():
        NodeKey.generate().write(folder.node_key)
    data = make_request(name, read_key(folder.identity_key), NodeKey.read(folder.node_key))
    write_atomically(folder.request(name), data, mode=PRIVATE)
    return read_request(data)


def check_trust_files(folder: SiteFolder, brought: Mapping[str, bytes], *, now: datetime) -> Accepted:
    """Check the consortium's files against each other, this site's keys, and what is installed. Writes nothing.

    Args:
        folder: of the site.
        brought: by the option that brought each, as `read_trust_files`; of the others what is installed counts.
        now: current time, with a time zone.

    Raises:
        ConfigError: a file is missing, or this is no site's folder.
        IdentityError: they are of another CA than the pinned one, older than what the site has seen, expired or
            altered, or for another site, or another key than this one's.
    """
    name = folder.config().name
    files = folder.trusted.completed(brought)
    trust = folder.trusted.trust_in(files, now=now)
    enrolment = read_enrolment(files["certificate"], trust)
    _check_ours(folder, name, enrolment)
    roster = read_roster(files["roster"], trust)
    Directory(roster, trust).check(roster.position(name), enrolment.certificate)
    return Accepted(enrolment, roster, files, first=not folder.trusted.is_pinned)


def _check_ours(folder: SiteFolder, name: str, enrolment: Enrolment) -> None:
    """The certificate file is for this site's name and both of its keys."""
    if enrolment.name != name:
        raise IdentityError(
            "the certificate is another site's", found=enrolment.name, expected=f"{name}, as in {folder.settings.name}"
        )
    again = f"send {folder.request(name).name} to the consortium again, and take the certificate made from it"
    if not folder.identity_key.exists() or not folder.node_key.exists():
        raise IdentityError("this site has no keys yet", remedy=f"yoriai site enrol {folder.path}, without files")
    own = read_key(folder.identity_key).public_key.public_bytes_raw()
    if own != enrolment.identity:
        raise IdentityError(
            "the certificate is for another key than this site's",
            found=f"{key_fingerprint(enrolment.identity)[:19]} …",
            expected=f"{key_fingerprint(own)[:19]} …",
            remedy=again,
        )
    if NodeKey.read(folder.node_key).public_text != enrolment.node_key:
        raise IdentityError("the certificate file has another node key than this site's", remedy=again)
