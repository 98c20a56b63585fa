"""What a coordinator signs about a version: how the adapter of a job was made, and that it stands in a channel.

    version      in in-toto's shape (Statement v1): subject the adapter, predicate what it was made by and from
    promotion    federation, channel, number in it, version, when, and whether the gate was passed by force

Both are laid out as in `signed_file.py`, under the key of the coordinator's certificate (`coordinator_identity.py`).
A version names its parent, the version that its job went on from, by the adapter's digest: the statements of a chain
lead from any adapter to the first one.

Not covered: whether the adapter is what the rounds lead to, and whether the figures about privacy are those that the
sites charged. Both are the coordinator's word; each site's ledger has its own. The sites are counted, not named: a
statement may go where the roster does not.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from yoriai.base_digest import PATTERN
from yoriai.privacy.identity.certificates import check_name
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json

STAGING: Final = "staging"
PRODUCTION: Final = "production"
CHANNELS: Final = (STAGING, PRODUCTION)
VERSION_FILE: Final = "version.safetensors"
JOB_FILE: Final = "job.json"  # Beside a version that a site has pulled; its digest is in the statement.

_VERSION = SignedFormat(
    "the coordinator's statement about a version", "version", 1, remedy="have the coordinator export it again"
)
_PROMOTION = SignedFormat(
    "the coordinator's statement about a channel", "promotion", 1, remedy="have the coordinator export it again"
)
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "urn:yoriai:version:1"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BASE_DIGEST = re.compile(PATTERN)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00")
_LONGEST = 128


@dataclass(frozen=True)
class PrivacyFacts:
    """What one unit's participation cost at most, by the job; a job that ended early cost less.

    `epsilon` and `delta` are None without noise; `colluding` counts with distributed noise only.
    """

    noise: str
    unit: str
    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    colluding: int | None


@dataclass(frozen=True)
class SumFacts:
    """Whether updates were masked, of how many bits a value had, and how few sites were in a round's sum."""

    enabled: bool
    bits: int | None
    fewest_sites: int


@dataclass(frozen=True)
class VersionStatement:
    """A version as the coordinator vouches for it. Digests are SHA-256, in hexadecimal.

    Attributes:
        federation: whose coordinator says so.
        adapter_digest: of the complete adapter, as `AdapterState.digest`.
        file_digest: of the adapter's file, version.safetensors.
        parent: the adapter digest of the version that the job went on from; empty for a job that began anew.
        job: its name.
        job_digest: of the job and its base, as `yoriai.config.job_digest`.
        run_id: the run, 1 to 128 characters.
        rounds: finished ones, at least 1.
        trained_by: the aggregation rule, or `head`.
        base_digest: of the base model.
        conditioning: of the public texts behind what does not train, and of the factors that they led to; empty where
            nothing is conditioned.
        roster_digest: of the last round's signed roster; empty without secure aggregation.
        sites: how many are in any round's sum.
        software: releases by the name of the package, of the server that wrote this.
        ended: when the job did, ISO 8601, UTC, whole seconds.

    Raises:
        IdentityError: a value is not of this form.
    """

    federation: str
    adapter_digest: str
    file_digest: str
    parent: str
    job: str
    job_digest: str
    run_id: str
    rounds: int
    trained_by: str
    base_digest: str
    roster_digest: str
    sites: int
    privacy: PrivacyFacts
    secure_sum: SumFacts
    software: Mapping[str, str]
    ended: str
    conditioning: str = ""

    def __post_init__(self) -> None:
        check_name(self.federation)
        digests = (self.adapter_digest, self.file_digest, self.job_digest)
        optional = (digest for digest in (self.parent, self.roster_digest, self.conditioning) if digest != "")
        texts = (self.job, self.run_id, self.trained_by, self.privacy.noise, self.privacy.unit)
        good = (
            all(type(digest) is str and _DIGEST.fullmatch(digest) for digest in (*digests, *optional))
            and all(type(text) is str and 1 <= len(text) <= _LONGEST for text in texts)
            and type(self.base_digest) is str
            and _BASE_DIGEST.fullmatch(self.base_digest)
            and all(type(count) is int and count >= 1 for count in (self.rounds, self.sites))
            and type(self.ended) is str
            and _TIME.fullmatch(self.ended)
            and self.parent != self.adapter_digest
        )
        if not good:
            raise _VERSION.malformed()

    @property
    def document(self) -> dict[str, Any]:
        """The statement in in-toto's shape."""
        subject = {"yoriaiAdapter1": self.adapter_digest, "sha256": self.file_digest}
        fields = asdict(self)
        absent = () if self.conditioning else ("conditioning",)
        predicate = {key: fields[key] for key in fields if key not in ("adapter_digest", "file_digest", *absent)}
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": VERSION_FILE, "digest": subject}],
            "predicateType": _PREDICATE_TYPE,
            "predicate": predicate,
        }

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(self.document)


def _version_of(**document: Any) -> VersionStatement:
    """The statement of a document; what is not as `VersionStatement.document` writes it differs from that."""
    try:
        (subject,), predicate = document["subject"], dict(document["predicate"])
        predicate["privacy"] = PrivacyFacts(**predicate["privacy"])
        predicate["secure_sum"] = SumFacts(**predicate["secure_sum"])
        digest = subject["digest"]
        return VersionStatement(adapter_digest=digest["yoriaiAdapter1"], file_digest=digest["sha256"], **predicate)
    except KeyError:
        raise _VERSION.malformed() from None


@dataclass(frozen=True)
class PromotionStatement:
    """That a version stands in a channel, as the coordinator vouches for it.

    Attributes:
        federation: whose coordinator says so.
        channel: staging or production.
        number: higher than in any earlier statement about a channel of this server, from 1 on.
        run_id, adapter_digest: the version.
        forced: whether it did not pass its job's gate.
        at: when, ISO 8601, UTC, whole seconds.

    Raises:
        IdentityError: a value is not of this form.
    """

    federation: str
    channel: str
    number: int
    run_id: str
    adapter_digest: str
    forced: bool
    at: str

    def __post_init__(self) -> None:
        check_name(self.federation)
        good = (
            self.channel in CHANNELS
            and type(self.number) is int
            and 1 <= self.number < 2**53
            and type(self.run_id) is str
            and 1 <= len(self.run_id) <= _LONGEST
            and type(self.adapter_digest) is str
            and _DIGEST.fullmatch(self.adapter_digest)
            and type(self.forced) is bool
            and type(self.at) is str
            and _TIME.fullmatch(self.at)
        )
        if not good:
            raise _PROMOTION.malformed()

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        return canonical_json(asdict(self))


# Key and statement -> file; file and the public key of the coordinator's certificate -> statement.
sign_version, read_version = _VERSION.statements(_version_of)
sign_promotion, read_promotion = _PROMOTION.statements(PromotionStatement)


def unverified_version(data: bytes) -> VersionStatement:
    """The statement in a file whose signature is not looked at: for a list in the coordinator's own folder.

    Raises:
        IdentityError: it is no such file.
    """
    return _VERSION.unverified(data, _version_of)
