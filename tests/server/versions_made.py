"""Servers with finished jobs: real ones over sites without models, and versions that were only written down."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from sqlite3 import Connection

import numpy as np

from tests.server.enrolling import NAMES
from tests.server.faulty import BASE_DIGEST, FaultyTransport, initial_adapter, small_job
from tests.server.keepers import Keeper
from yoriai.prepared_job import PreparedJob
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.statements.version_statement import PrivacyFacts, SumFacts, VersionStatement, sign_version
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob
from yoriai.server.round.messenger import Transport
from yoriai.server.service.job_run import run_job
from yoriai.server.versions import catalogue
from yoriai.server.versions.catalogue import Version
from yoriai.strategies.adapter import AdapterState

KEY = SigningKey.generate()


def other_adapter(seed: int) -> AdapterState:
    """A first adapter that leads to another last one than other seeds do."""
    drawn, start = np.random.default_rng(seed), initial_adapter()
    return AdapterState({name: drawn.normal(size=t.shape).astype("f4") for name, t in start.tensors.items()})


def queued(folder: ServerFolder, seed: int = 0, **settings: object) -> StoredJob:
    """A job that was given to Flower; settings as in `small_job`."""
    job = small_job(**{"federation__rounds": 2, **settings})
    prepared = PreparedJob(job, BASE_DIGEST, other_adapter(seed).to_bytes(), 1.0)
    stored = JobStore(folder.jobs).submit(prepared, folder.trusted.roster.read_bytes())
    stored.change(phase="starting")
    return stored


def finished(folder: ServerFolder, seed: int = 0, **settings: object) -> StoredJob:
    """A job with all its rounds, whose sites have confirmed the last adapter."""
    stored = queued(folder, seed, **settings)
    coordinate(folder, stored, FaultyTransport({name: Keeper(name) for name in NAMES}, {}))
    return stored


def coordinate(folder: ServerFolder, job: StoredJob, transport: FaultyTransport) -> None:
    """Run a job over a transport."""

    def connect(stop: threading.Event, on_failure: Callable[[str, str, str], None]) -> Transport:
        return transport

    run_job(folder, job, connect)


def statement(name: str, **changes: object) -> VersionStatement:
    """The statement of a version whose adapter, file and job digests follow from its name."""
    digest = sha256(name.encode()).hexdigest()
    made = VersionStatement(
        federation="miyagi",
        adapter_digest=digest,
        file_digest=digest,
        parent="",
        job="pumps",
        job_digest=digest,
        run_id=name,
        rounds=3,
        trained_by="core",
        base_digest=BASE_DIGEST,
        roster_digest="",
        sites=2,
        privacy=PrivacyFacts("local", "record", 8.0, 1e-5, 1.0, None),
        secure_sum=SumFacts(True, 16, 2),
        software={"yoriai": "0"},
        ended=datetime(2026, 11, 29, tzinfo=UTC).isoformat(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def written(db: Connection, name: str, **changes: object) -> Version:
    """A version that is only a row."""
    said = statement(name, **changes)
    assert catalogue.add(db, name, said.adapter_digest, sign_version(KEY, said), NAMES)
    return catalogue.find(db, name)
