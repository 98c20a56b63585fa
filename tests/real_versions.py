"""A consortium whose server has versions for the tiny base, and whose sites could use them."""

from pathlib import Path

import torch

from tests.commands import Office, found, server, site, yoriai
from tests.server.enrolling import NAMES, enrolled
from tests.server.faulty import FaultyTransport
from tests.server.keepers import Keeper
from tests.server.versions_made import coordinate
from tests.world import job_settings
from yoriai.client.base.base_model import load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection, override
from yoriai.prepared_job import PreparedJob
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob


def consortium(home: Path, base: Path) -> Path:
    """A consortium, a server and two sites in a folder, all enrolled."""
    office, machine = found(home / "consortium"), ServerFolder(server(home / "server"))
    enrolled(machine, office, {name: site(home / name, name) for name in NAMES})
    for name in NAMES:
        _enrol(office, home / name, name)
        settings = (home / name / "site.toml").read_text()
        (home / name / "site.toml").write_text(settings.replace("smollm2-135m-instruct", str(base), 1))
    return home


def _enrol(office: Office, folder: Path, name: str) -> None:
    ca = office.folder
    files = ("--authority", ca / "authority.der", "--roster", ca / "roster", "--revocations", ca / "revocations.der")
    done = yoriai("site", "enrol", folder, "--certificate", office.member(name), *files, "--yes")
    assert done.code == 0, done.screen


def finished_on(world: Path, base: Path, name: str, **settings: object) -> StoredJob:
    """A job on the tiny base over sites without models: its updates are drawn, its adapter fits."""
    folder = ServerFolder(world / "server")
    small = {"task.kind": "classify", "task.labels": ("cabin", "pump"), "task.head": "labels"}
    small |= {"secure_aggregation.enabled": False, "federation.rule": "fedavg", "federation.server_optimizer": "none"}
    job = override(JobConfig(name=name), job_settings(base, **small) | settings)
    session = ModelSession(load_base(str(base), device=torch.device("cpu")), SpeedSection())
    prepared = PreparedJob(job, session.base.digest, session.initial_adapter(job).to_bytes(), 1.0)
    stored = JobStore(folder.jobs).submit(prepared, folder.trusted.roster.read_bytes())
    stored.change(phase="starting")
    coordinate(folder, stored, FaultyTransport({site_: Keeper(site_) for site_ in NAMES}, {}))
    return stored
