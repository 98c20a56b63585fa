"""The way of a version by commands alone: a job's end, promotion, export, and a site that takes it into use."""

import json
from pathlib import Path

import pytest
import torch

from tests.commands import Office, found, server, site, yoriai
from tests.server.enrolling import NAMES, enrolled
from tests.server.faulty import FaultyTransport
from tests.server.keepers import Keeper
from tests.server.versions_made import coordinate
from tests.world import job_settings, save_tiny_base
from yoriai.client.base.base_model import load_base
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection, override
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED
from yoriai.prepared_job import PreparedJob
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.service.job_store import JobStore, StoredJob

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A consortium, a server and two sites, all enrolled."""
    home = tmp_path_factory.mktemp("way")
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


def _finished(world: Path, base: Path, name: str, **settings: object) -> StoredJob:
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


def test_a_version_goes_from_a_jobs_end_to_a_sites_use_and_back(world: Path, base: Path, tmp_path: Path) -> None:
    machine, north, files = world / "server", world / "north", []
    assert yoriai("server", "export-version", machine).code == EXIT_BAD_INPUT  # It holds none yet.
    jobs = [_finished(world, base, name) for name in ("first", "second")]
    for job in jobs:
        assert yoriai("server", "promote", machine, job.run_id, "--channel", "production").code == 0
        files.append(tmp_path / f"{job.run_id}.version")
        done = yoriai("server", "export-version", machine, "--out", files[-1], "--json")
        assert json.loads(done.screen)["run"] == job.run_id
        pulled = yoriai("site", "pull", north, files[-1], "--json")
        assert (pulled.code, pulled.screen and json.loads(pulled.screen)["run"]) == (0, job.run_id), pulled.screen
    link = north / "channels" / "production"
    assert json.loads((link / "task.json").read_text())["job"] == "second"
    assert yoriai("site", "pull", north, files[0]).code == EXIT_REFUSED
    assert yoriai("site", "rollback", north).code == 0
    assert json.loads((link / "task.json").read_text())["job"] == "first"
    # The server's own rollback is a newer word than both, and comes by the same way.
    assert yoriai("server", "rollback", machine).code == 0
    assert yoriai("server", "export-version", machine, "--out", files[0]).code == 0
    assert yoriai("site", "pull", north, files[0]).code == 0
    rows = map(json.loads, yoriai("server", "log", machine, "--json").screen.splitlines())
    told = [row["event"] for row in rows if row["event"] in ("promoted", "rolled_back", "exported")]
    assert told == ["promoted", "exported", "promoted", "exported", "rolled_back", "exported"]
    assert yoriai("server", "log", machine, "--verify").code == 0


def test_a_site_with_another_base_takes_nothing(world: Path, base: Path, tmp_path: Path) -> None:
    machine, south = world / "server", world / "south"
    job = _finished(world, base, "third")
    assert yoriai("server", "promote", machine, job.run_id).code == 0
    file = tmp_path / "third.version"
    assert yoriai("server", "export-version", machine, "--channel", "staging", "--out", file).code == 0
    other = save_tiny_base(tmp_path / "other", seed=1)
    (south / "site.toml").write_text((south / "site.toml").read_text().replace(str(base), str(other), 1))
    done = yoriai("site", "pull", south, file, "--channel", "staging")
    assert (done.code, "another base model" in done.screen) == (EXIT_REFUSED, True)
    assert not (south / "channels").exists()
