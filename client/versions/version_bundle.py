"""A version as a file from the coordinator: whose word it is, what it goes back to, and that it fits this site's base.

Checked before anything is written: the coordinator's certificate by the pinned CA and the revocation list of today; its
signatures under channel, version and every version that it goes back to, each naming the next as its parent and the
last one none; the adapter and the job by their digests; the base by what is loaded here. A site need not have taken
part in the job.

Not covered: whether the version is any good here. `site evaluate` and the site's own records say that.
"""

import hashlib
import json
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from yoriai import wire
from yoriai.base_digest import difference
from yoriai.config import JobConfig, job_digests
from yoriai.errors import AdapterError, ConfigError, IdentityError, PolicyError, WireError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.statements.version_statement import (
    PromotionStatement,
    VersionStatement,
    read_promotion,
    read_version,
)
from yoriai.strategies.adapter import AdapterState


@dataclass(frozen=True)
class Bundle:
    """A version whose signatures hold: the file, what it says, the job and the adapter."""

    file: wire.VersionFile
    promotion: PromotionStatement
    version: VersionStatement
    lineage: tuple[VersionStatement, ...]
    job: JobConfig
    adapter: AdapterState

    def check_base(self, base_digest: str) -> None:
        """Raise PolicyError unless the version was trained on the base with this digest."""
        if unlike := difference(base_digest, self.version.base_digest):
            raise PolicyError(
                f"this site has another base model than {self.version.run_id[:80]} was trained on: its {unlike.what}",
                found=unlike.found[:16],
                expected=unlike.expected[:16],
                remedy="set base.model in site.toml to the version's, or have another version promoted",
            )


def read_bundle(data: bytes, trust: Trust, channel: str | None = None) -> Bundle:
    """Verify a version's file, all but its base.

    Args:
        data: the file.
        trust: the pinned CA and the revocation list, and the time.
        channel: that it must stand in; None: whichever its statement names.

    Raises:
        ConfigError: it is no such file, or of another version of Yoriai.
        IdentityError: a signature or the certificate is not the federation's coordinator's.
        PolicyError: it stands in another channel, or its parts are not of one version, or its lineage has a gap.
        AdapterError: the adapter is not the one that was signed.
    """
    file = _decoded(data)
    certificate = read_coordinator_certificate(file.certificate.encode(), trust, now=trust.now)
    key = certificate.public_key
    promotion, version = read_promotion(file.promotion.encode(), key), read_version(file.statement.encode(), key)
    if not promotion.federation == version.federation == certificate.federation == trust.federation:
        raise IdentityError("the version is another federation's", expected=trust.federation)
    if channel is not None and promotion.channel != channel:
        raise PolicyError("the version stands in another channel", found=promotion.channel, expected=channel)
    if (promotion.run_id, promotion.adapter_digest) != (version.run_id, version.adapter_digest):
        raise PolicyError("the statements about channel and version are of two versions", remedy="export it again")
    lineage = _lineage(file, version, key)
    adapter = AdapterState.from_bytes(file.payload)
    if (adapter.digest(), hashlib.sha256(file.payload).hexdigest()) != (version.adapter_digest, version.file_digest):
        raise AdapterError("the adapter is not the one of the coordinator's statement", remedy="export it again")
    return Bundle(file, promotion, version, lineage, _job(file, version), adapter)


def _decoded(data: bytes) -> wire.VersionFile:
    try:
        file = wire.decode(data)
    except WireError as error:
        raise ConfigError("this is no version's file", found=str(error), remedy="have it exported again") from None
    if not isinstance(file, wire.VersionFile):
        raise ConfigError("this is no version's file", found=f"a message of kind {file.kind}")
    return file


def _lineage(file: wire.VersionFile, version: VersionStatement, key: Ed25519PublicKey) -> tuple[VersionStatement, ...]:
    """The versions that this one goes back to, its parent first, up to one that began anew on the same base."""
    found, child = [], version
    for signed in file.lineage:
        parent = read_version(signed.encode(), key)
        if parent.adapter_digest != child.parent or difference(parent.base_digest, version.base_digest):
            break
        found.append(parent)
        child = parent
    if child.parent or len(found) != len(file.lineage):
        raise PolicyError(
            f"what {version.run_id[:80]} goes back to is not there, or not on the same base",
            found=f"{len(found)} of the versions before it",
            expected="each one up to the first",
            remedy="have it exported again",
        )
    return tuple(found)


def _job(file: wire.VersionFile, version: VersionStatement) -> JobConfig:
    try:
        job = JobConfig.model_validate_json(json.dumps(file.job))
    except ValidationError:
        raise ConfigError(
            "the version's job was made by another version of Yoriai", remedy="run the same Yoriai on both sides"
        ) from None
    if version.job_digest not in job_digests(job, version.base_digest):
        raise PolicyError("the job is not the one of the coordinator's statement", remedy="export it again")
    return job
