"""What a coordinator's server would export or send of a job, with whatever a test changes."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from tests.client.last_adapters import last_adapter
from tests.coordinators import Known
from yoriai import wire
from yoriai.client.session.model_session import ModelSession
from yoriai.client.versions.version_bundle import Bundle, read_bundle
from yoriai.config import JobConfig, job_digest
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.statements.version_statement import (
    PrivacyFacts,
    PromotionStatement,
    SumFacts,
    VersionStatement,
    sign_promotion,
    sign_version,
)

KNOWN = Known()
NOW = datetime.now(UTC)
STAMP = "2026-11-29T12:00:00+00:00"


def trust(now: datetime = NOW) -> Trust:
    return Trust(KNOWN.authority.certificate.public_bytes(Encoding.DER), None, now=now)


class Export:
    """What a coordinator's server would export of a job, with whatever a test changes."""

    def __init__(self, session: ModelSession, job: JobConfig, *, seed: int = 0) -> None:
        self.job, self.base = job, session.base.digest
        self.adapter = last_adapter(session, job, seed)

    def version(self, **changes: Any) -> VersionStatement:
        made = VersionStatement(
            federation="miyagi",
            adapter_digest=self.adapter.digest(),
            file_digest=hashlib.sha256(self.adapter.to_bytes()).hexdigest(),
            parent="",
            job=self.job.name,
            job_digest=job_digest(self.job, self.base),
            run_id="run-1",
            rounds=3,
            trained_by=self.job.trained_by,
            base_digest=self.base,
            roster_digest="",
            sites=2,
            privacy=PrivacyFacts("local", "record", 8.0, 1e-5, 1.0, None),
            secure_sum=SumFacts(False, None, 2),
            software={"yoriai": "0"},
            ended=STAMP,
        )
        return replace(made, **changes)

    def promotion(self, **changes: Any) -> PromotionStatement:
        made = PromotionStatement("miyagi", "production", 1, "run-1", self.adapter.digest(), False, STAMP)
        return replace(made, **changes)

    def file(self, version: VersionStatement | None = None, **changes: Any) -> bytes:
        key = changes.pop("key", KNOWN.key)
        fields: dict[str, Any] = {
            "run_id": "run-1",
            "certificate": KNOWN.certificate().decode(),
            "promotion": sign_promotion(key, changes.pop("promotion", self.promotion())).decode(),
            "statement": sign_version(key, version or self.version()).decode(),
            "lineage": [sign_version(key, parent).decode() for parent in changes.pop("lineage", ())],
            "job": self.job.model_dump(mode="json", by_alias=True),
            "payload": self.adapter.to_bytes(),
        }
        return wire.encode(wire.VersionFile(**(fields | changes)))

    def bundle(self, number: int = 1) -> Bundle:
        return read_bundle(self.file(promotion=self.promotion(number=number)), trust(), "production")
