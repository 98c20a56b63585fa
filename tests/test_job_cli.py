"""`yoriai job`: what changes a job at the server, and who may."""

import os
from pathlib import Path

import pytest

from tests.commands import server, yoriai
from yoriai.config import JobConfig
from yoriai.errors import EXIT_BAD_INPUT
from yoriai.prepared_job import PreparedJob
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.service.job_store import JobStore, Phase, StoredJob

ROOT = os.geteuid() == 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return server(tmp_path / "server")


@pytest.fixture
def job(place: Path) -> StoredJob:
    """A job in the queue."""
    return JobStore(ServerFolder(place).jobs).submit(PreparedJob(JobConfig(name="pumps"), "0" * 64, b""), b"")


@pytest.mark.parametrize("phase", ["failed", "cancelled", "finished", "ended"])
def test_a_job_that_has_ended_can_be_resumed_a_finished_one_to_deliver(
    place: Path, job: StoredJob, phase: Phase
) -> None:
    job.change(phase=phase, fruitless=5, error="too few")
    assert yoriai("job", "resume", "--server", place, "pumps").code == 0
    assert (job.state().phase, job.state().fruitless, job.state().error) == ("queued", 0, "")


@pytest.mark.parametrize("phase", ["queued", "running", "cancelling"])
def test_a_job_that_has_not_ended_is_not_resumed(place: Path, job: StoredJob, phase: Phase) -> None:
    job.change(phase=phase)
    done = yoriai("job", "resume", "--server", place)
    assert (done.code, f"is {phase};" in done.screen, job.state().phase) == (EXIT_BAD_INPUT, True, phase)


@pytest.mark.skipif(not ROOT, reason="only root can be another user than a folder's")
def test_root_changes_nothing_in_a_folder_of_the_servers_user_and_may_look(place: Path, job: StoredJob) -> None:
    before = job.state()
    os.chown(place, 4242, -1)
    for arguments in (("resume",), ("cancel",), ("end",), ("submit", place / "none.prepared")):
        done = yoriai("job", *arguments, "--server", place)
        assert (done.code, "belongs to user 4242" in done.screen) == (EXIT_BAD_INPUT, True), done.screen
    assert job.state() == before
    assert yoriai("job", "status", "--server", place).code == 0
