"""`yoriai job`: what changes a job at the server, and who may."""

import os
import sys
from pathlib import Path

import pytest

from tests.commands import server, yoriai
from yoriai.config import JobConfig
from yoriai.errors import EXIT_BAD_INPUT
from yoriai.prepared_job import PreparedJob
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, Phase, StoredJob

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


def job_file(tmp_path: Path, kind: str = "instruct", more: str = "") -> Path:
    path = tmp_path / "job.toml"
    path.write_text(f'schema = 1\nname = "pumps"\n[base]\nmodel = "/no/base"\n[task]\nkind = "{kind}"\n{more}\n')
    return path


def test_a_job_that_leaves_its_kind_open_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yoriai.client.session.prepare", None)  # Its import takes the seconds.
    done = yoriai("job", "prepare", job_file(tmp_path, "auto"))
    assert (done.code, "task.kind = auto looks at the records" in done.screen) == (EXIT_BAD_INPUT, True)


@pytest.mark.parametrize(("setting", "says"), [("every = 5", True), ("every = 0", False), ("", False)])
def test_a_setting_that_a_server_leaves_out_of_account_is_named_when_the_job_is_prepared(
    tmp_path: Path, setting: str, says: bool
) -> None:
    done = yoriai("job", "prepare", job_file(tmp_path, more=f"[evaluation]\n{setting}"))
    assert "/no/base" in done.screen
    assert ("evaluation.every = 5 counts in simulations alone" in " ".join(done.screen.split())) is says


def test_the_version_is_an_option_too() -> None:
    assert yoriai("--version").screen == yoriai("version").screen
