"""Pages about a version: its model card, and its privacy certificate, which the coordinator's key signs."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from yoriai.errors import StorageError
from yoriai.privacy.documents.adapter_facts import AdapterFacts, facts_of_version
from yoriai.privacy.documents.certificate import (
    PAGE_END,
    STATEMENT_END,
    Issuer,
    audit_of,
    certificate_page,
    named_tests,
)
from yoriai.privacy.documents.model_card import Measure, card_text
from yoriai.privacy.documents.signed_page import sealed
from yoriai.privacy.dp.wording import adjacency
from yoriai.privacy.statements.privacy_statement import AuditFacts, PrivacyStatement, sign_privacy
from yoriai.server.channels.changing import content_of
from yoriai.server.jobs.recording import Records
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Version
from yoriai.server.versions.database import writing
from yoriai.server.versions.facts import stamp
from yoriai.server.versions.log import append
from yoriai.server.versions.metrics import Metrics
from yoriai.system.files import write_atomically
from yoriai.system.users import operator_name


def write_card(records: Records, version: Version, path: Path) -> Path:
    """Write a version's model card, with what was measured of it last.

    Raises:
        CheckpointError, IdentityError: as `content_of`.
        StorageError: it cannot be written.
    """
    job, _ = content_of(records, version)
    measures = measures_of(catalogue.version(records.db, version.number))  # With what came since it was found.
    text = card_text(facts_of_version(version.statement, job), measures)
    return write_atomically(path, text.encode())


def card_faults(records: Records, version: Version) -> list[str]:
    """Write the card of a version that was promoted; why that failed, for the promotion has happened all the same."""
    try:
        write_card(records, version, records.folder.card(version.run))
    except StorageError as error:
        return [f"note: {error}; yoriai server export-version writes the card too"]
    return []


def measures_of(version: Version) -> list[Measure]:
    """What was brought of a version at its last promotion with metrics."""
    if version.metrics is None:
        return []
    known = Metrics.model_validate(version.metrics)
    if known.accuracy is None:
        return []
    return [Measure("accuracy", known.accuracy, known.interval, known.before, known.records)]


@dataclass(frozen=True)
class Issued:
    """A certificate's files, and what it says."""

    page: Path
    file: Path
    facts: AdapterFacts
    audit: AuditFacts | None


def issue_certificate(records: Records, version: Version, folder: Path, audit: bytes | None) -> Issued:
    """Write and sign the privacy certificate of a version, and note it in the log.

    Args:
        folder: where the two files are to lie.
        audit: the file of an audit of the version's job; None where there was none.

    Raises:
        ConfigError, PolicyError: as `audit_of`.
        CheckpointError, IdentityError: as `content_of`; or the coordinator's certificate does not hold now.
        StorageError: they cannot be written.
    """
    now = datetime.now(UTC)
    key, certificate = records.folder.signing(now)
    job, _ = content_of(records, version)
    said, facts = version.statement, facts_of_version(version.statement, job)
    found = None if audit is None else audit_of(audit, facts)
    fingerprint = hashlib.sha256(key.public_key.public_bytes_raw()).hexdigest()
    page = certificate_page(facts, found, Issuer(said.federation, stamp(now), fingerprint)).encode()
    name = f"{version.run}{PAGE_END}"
    statement = PrivacyStatement(
        federation=said.federation,
        page=name,
        page_digest=hashlib.sha256(page).hexdigest(),
        adapter_digest=version.digest,
        run_id=version.run,
        job_digest=said.job_digest,
        privacy=said.privacy,
        secure_sum=said.secure_sum,
        neighbours=adjacency(job.privacy.unit),
        accountant=facts.accountant,
        audit=found,
        tests=named_tests(facts),
        issued=stamp(now),
    )
    written = write_atomically(folder / name, page)
    file = write_atomically(folder / f"{version.run}{STATEMENT_END}", sealed(certificate, sign_privacy(key, statement)))
    with writing(records.db):
        told = statement.page_digest
        append(records.db, key, "certified", by=operator_name(), run=version.run, adapter=version.digest, page=told)
    return Issued(written, file, facts, found)
