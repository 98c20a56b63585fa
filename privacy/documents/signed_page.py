"""A signed page as it travels: the page itself, and a file with the coordinator's statement about it and certificate.

RUN.privacy.html    for people
RUN.privacy         {"schema": 1, "certificate": ..., "statement": ...}, for `yoriai federation verify`
"""

import hashlib
import json

from yoriai.errors import ConfigError, IdentityError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.statements.privacy_statement import PrivacyStatement, read_privacy

_SCHEMA = 1


def sealed(certificate: bytes, statement: bytes) -> bytes:
    """The file that goes with a page.

    Args:
        certificate: the coordinator's, its file.
        statement: what its key signed, as `sign_privacy` gives it.
    """
    document = {"schema": _SCHEMA, "certificate": certificate.decode(), "statement": statement.decode()}
    return json.dumps(document, indent=1).encode() + b"\n"


def verified(data: bytes, page: bytes, trust: Trust) -> PrivacyStatement:
    """What the coordinator states about a page.

    Args:
        data: the file that goes with it.
        trust: the federation's CA, revocations if they are at hand, and the time.

    Raises:
        ConfigError: it is no such file.
        IdentityError: certificate or signature do not hold, or the page is another one.
    """
    try:
        document = json.loads(data)
        if document["schema"] != _SCHEMA:
            raise ValueError
        certificate, signed = (str(document[name]).encode() for name in ("certificate", "statement"))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ConfigError(
            "this is no privacy certificate",
            expected="RUN.privacy of `yoriai server certificate`",
            remedy="name that file; its page lies next to it",
        ) from None
    coordinator = read_coordinator_certificate(certificate, trust, now=trust.now)
    statement = read_privacy(signed, coordinator.public_key)
    if not statement.federation == coordinator.federation == trust.federation:
        raise IdentityError("the certificate is another federation's", expected=trust.federation)
    if hashlib.sha256(page).hexdigest() != statement.page_digest:
        raise IdentityError(
            f"the page is not the one that was signed as {statement.page[:80]}", remedy="have it issued again"
        )
    return statement
