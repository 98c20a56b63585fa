"""What a coordinator signs about the end of a run and its last adapter, so that a site stores no other one as that.

    coordinator -> site    the statement: federation, run, job, base, roster, rounds and the adapter's digest

A run that ended early names fewer rounds than its job has. A site that has no part in the adapter is told the end
alone, by a statement without a digest; so is everybody where no round was finished.

Laid out as in `signed_file.py`, under the key of the coordinator's certificate (`coordinator_identity.py`). A site
keeps the statement beside the adapter: both together show later whose word the adapter is.

Not covered: whether the adapter is what the rounds lead to. That is the coordinator's word; secure aggregation hides
from a site what the others sent. Nor why a run ended early.
"""

import re
from dataclasses import asdict, dataclass

from yoriai.base_digest import PATTERN
from yoriai.privacy.identity.certificates import check_name
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json

_FORMAT = SignedFormat(
    "the coordinator's statement about the end", "delivery", 1, remedy="have the coordinator deliver it again"
)
_LONGEST_RUN_ID = 128
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BASE_DIGEST = re.compile(PATTERN)


@dataclass(frozen=True)
class DeliveryStatement:
    """The end of a run as the coordinator vouches for it. Digests are SHA-256, in hexadecimal.

    Attributes:
        federation: whose coordinator says so.
        run_id: the run, 1 to 128 characters.
        job_digest: of the job and its base, as `yoriai.config.job_digest`.
        base_digest: of the base model, as `yoriai.base_digest` has it.
        roster_digest: of the signed roster's payload; empty without secure aggregation.
        rounds: finished ones; at least 1 where there is an adapter.
        adapter_digest: of the complete adapter; empty for an end without one.

    Raises:
        IdentityError: a value is not of this form.
    """

    federation: str
    run_id: str
    job_digest: str
    base_digest: str
    roster_digest: str
    rounds: int
    adapter_digest: str

    def __post_init__(self) -> None:
        check_name(self.federation)
        may_lack = (self.adapter_digest, self.roster_digest)
        digests = (self.job_digest, *(digest for digest in may_lack if digest != ""))
        if not all(type(digest) is str and _DIGEST.fullmatch(digest) for digest in digests):
            raise _FORMAT.malformed()
        if type(self.base_digest) is not str or not _BASE_DIGEST.fullmatch(self.base_digest):
            raise _FORMAT.malformed()
        if type(self.run_id) is not str or not 1 <= len(self.run_id) <= _LONGEST_RUN_ID:
            raise _FORMAT.malformed()
        if type(self.rounds) is not int or self.rounds < (1 if self.adapter_digest else 0):
            raise _FORMAT.malformed()

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(asdict(self))


# Key and statement -> file; file and the public key of the coordinator's certificate -> statement.
sign_delivery, read_delivery = _FORMAT.statements(DeliveryStatement)


def unverified_delivery(data: bytes) -> DeliveryStatement:
    """The statement in a file whose signature is not looked at: for what a site has taken in already.

    Raises:
        IdentityError: it is no such file.
    """
    return _FORMAT.unverified(data, DeliveryStatement)
