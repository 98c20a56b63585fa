"""What a coordinator signs about the privacy of a job: the page that an officer reads, and the facts that stand in it.

In in-toto's shape (Statement v1): subjects the page and the adapter, predicate the guarantee, laid out and signed as in
`signed_file.py` under the key of the coordinator's certificate. The page is vouched for by its hash, so that it reads
the same wherever it is shown.

Not covered: whether the sites charged what the statement says, which each site's ledger has; and whether the audit's
figures are those of this job, which whoever ran the audit stands for.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from yoriai.privacy.identity.certificates import check_name
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.privacy.statements.version_statement import STATEMENT_TYPE, VERSION_FILE, PrivacyFacts, SumFacts

_PRIVACY = SignedFormat(
    "the coordinator's statement about privacy", "privacy", 1, remedy="have the coordinator issue it again"
)
_PREDICATE_TYPE = "urn:yoriai:privacy:1"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00")
_LONGEST = 128


@dataclass(frozen=True)
class AuditFacts:
    """What attacks proved: a lower bound on epsilon at a confidence, and the hash of the audit's own file."""

    epsilon_lower: float
    confidence: float
    base: str
    file_digest: str


@dataclass(frozen=True)
class PrivacyStatement:
    """A job's guarantee as the coordinator vouches for it. Digests are SHA-256, in hexadecimal.

    Attributes:
        federation: whose coordinator says so.
        page, page_digest: name and hash of the page.
        adapter_digest: of the version, as `AdapterState.digest`.
        run_id, job_digest: as in the version's statement.
        privacy, secure_sum: likewise.
        neighbours: which data sets are neighbours.
        accountant: what added the losses up; None without noise.
        audit: None where the job was not audited.
        tests: names of the tests that hold what the page promises.
        issued: when, ISO 8601, UTC, whole seconds.

    Raises:
        IdentityError: a value is not of this form.
    """

    federation: str
    page: str
    page_digest: str
    adapter_digest: str
    run_id: str
    job_digest: str
    privacy: PrivacyFacts
    secure_sum: SumFacts
    neighbours: str
    accountant: str | None
    audit: AuditFacts | None
    tests: tuple[str, ...]
    issued: str

    def __post_init__(self) -> None:
        check_name(self.federation)
        texts = (self.page, self.run_id, self.neighbours, *self.tests)
        digests = (self.page_digest, self.adapter_digest, self.job_digest)
        good = (
            all(type(text) is str and 1 <= len(text) <= _LONGEST for text in texts)
            and all(type(digest) is str and _DIGEST.fullmatch(digest) for digest in digests)
            and (self.accountant is None) == (self.privacy.epsilon is None)
            and type(self.issued) is str
            and _TIME.fullmatch(self.issued)
        )
        if not good:
            raise _PRIVACY.malformed()

    @property
    def document(self) -> dict[str, Any]:
        """The statement in in-toto's shape."""
        fields = asdict(self)
        subjects = [
            {"name": fields.pop("page"), "digest": {"sha256": fields.pop("page_digest")}},
            {"name": VERSION_FILE, "digest": {"yoriaiAdapter1": fields.pop("adapter_digest")}},
        ]
        kind = {"_type": STATEMENT_TYPE, "predicateType": _PREDICATE_TYPE}
        return {**kind, "subject": subjects, "predicate": fields}

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(self.document)


def _privacy_of(**document: Any) -> PrivacyStatement:
    """The statement of a document; what is not as `PrivacyStatement.document` writes it differs from that."""
    try:
        (page, adapter), predicate = document["subject"], dict(document["predicate"])
        audit: Mapping[str, Any] | None = predicate.pop("audit")
        predicate["privacy"] = PrivacyFacts(**predicate["privacy"])
        predicate["secure_sum"] = SumFacts(**predicate["secure_sum"])
        predicate["tests"] = tuple(predicate["tests"])
        return PrivacyStatement(
            page=page["name"],
            page_digest=page["digest"]["sha256"],
            adapter_digest=adapter["digest"]["yoriaiAdapter1"],
            audit=None if audit is None else AuditFacts(**audit),
            **predicate,
        )
    except KeyError:
        raise _PRIVACY.malformed() from None


# Key and statement -> file; file and the public key of the coordinator's certificate -> statement.
sign_privacy, read_privacy = _PRIVACY.statements(_privacy_of)
