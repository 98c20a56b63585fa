"""The jobs of a server: whole in the queue or not there, one coordinator each, and states that nobody loses."""

import multiprocessing
import os
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from yoriai.config import JobConfig
from yoriai.errors import CheckpointError, ConfigError, StorageError
from yoriai.prepared_job import PreparedJob
from yoriai.server.jobs.job_store import JobStore, StoredJob


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs")


def submit(store: JobStore, name: str = "press") -> StoredJob:
    return store.submit(PreparedJob(JobConfig(name=name), "0" * 64, b"adapter"), b"roster")


def test_a_submitted_job_is_what_was_submitted_and_waits(store: JobStore) -> None:
    job = submit(store)
    assert job.prepared() == PreparedJob(JobConfig(name="press"), "0" * 64, b"adapter")
    assert job.roster_file.read_bytes() == b"roster"
    assert job.state().phase == "queued"


def test_jobs_come_in_the_order_of_submission_and_a_half_submitted_one_is_none(store: JobStore, tmp_path: Path) -> None:
    jobs = [submit(store, name) for name in ("zebra", "ant", "mole")]
    (tmp_path / "jobs" / ".half.part").mkdir()
    assert [job.run_id for job in store.jobs()] == [job.run_id for job in jobs]


def test_a_job_is_found_by_its_beginning_and_the_last_one_without_a_name(store: JobStore) -> None:
    first, last = submit(store, "ant"), submit(store, "mole")
    assert (store.find("ant"), store.find(first.run_id), store.find("")) == (first, first, last)


def test_a_name_of_none_or_of_two_jobs_is_refused_with_those_there_are(store: JobStore) -> None:
    with pytest.raises(ConfigError, match=r"no job 'x'.*a job that was submitted"):
        store.find("x")
    found = [submit(store, "ant").run_id, submit(store, "ant").run_id]
    with pytest.raises(ConfigError, match="more than one job") as refused:
        store.find("ant")
    assert sorted(refused.value.expected.split(", ")) == sorted(found)


def test_a_change_for_other_phases_changes_nothing(store: JobStore) -> None:
    job = submit(store)
    assert job.change(phase="running", only_from=("starting",)).phase == "queued"
    assert job.change(phase="cancelling", only_from=("queued", "running")).phase == "cancelling"
    assert job.state().phase == "cancelling"


def test_changes_by_many_at_once_are_all_there(store: JobStore) -> None:
    job = submit(store)
    threads = [threading.Thread(target=lambda: [_start_more(job) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert job.state().starts == 0
    assert job.change(error="x").error == "x"


def _start_more(job: StoredJob) -> None:
    job.change(phase="starting", only_from=("queued",))
    job.change(phase="queued", only_from=("starting",))


def test_a_state_of_another_version_is_refused_by_its_file(store: JobStore) -> None:
    job = submit(store)
    path = job.folder / "state.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(CheckpointError, match=r"state\.json is damaged, missing or of another Yoriai version"):
        job.state()


def _coordinate(folder: Path, begun: Event, over: Event) -> None:
    with StoredJob(folder).coordinated(0):
        begun.set()
        over.wait(30)


def test_a_second_coordinator_waits_for_the_first_and_a_killed_one_holds_nothing(store: JobStore) -> None:
    job, made = submit(store), multiprocessing.get_context("spawn")
    begun, over = made.Event(), made.Event()
    process = made.Process(target=_coordinate, args=(job.folder, begun, over))
    assert job.coordinator() is None
    process.start()
    try:
        assert begun.wait(30)
        assert (holder := job.coordinator()) is not None
        assert holder.pid == process.pid
        with pytest.raises(StorageError, match="coordinated by another process"), job.coordinated(0):
            pass
        process.kill()
        with job.coordinated(10):
            assert (holder := job.coordinator()) is not None
            assert holder.pid == os.getpid()
    finally:
        process.kill()
        process.join()
    assert job.coordinator() is None


def test_a_job_that_keeps_failing_waits_longer_each_time_and_then_for_a_person(store: JobStore) -> None:
    job = submit(store)
    pauses = []
    for _ in range(8):
        job.change(phase="running", only_from=("queued",))
        state = job.begin_again("it ended", only_from=("running",))
        pauses.append(round(state.not_before - state.since))
    assert state.phase == "failed"
    assert pauses == [5, 10, 20, 40, 60, 60, 60, 60]
    assert job.begin_again("late", only_from=("running",)).error == "it ended"


def test_a_start_that_waited_for_sites_is_none_of_those_after_which_a_person_has_to_look(store: JobStore) -> None:
    job = submit(store)
    for _ in range(20):
        job.change(phase="running", only_from=("queued",))
        state = job.begin_again("north is away", only_from=("running",), is_fruitless=False)
    assert (state.phase, state.fruitless, state.error) == ("queued", 0, "north is away")


def test_a_job_with_a_damaged_state_keeps_no_other_from_running(store: JobStore) -> None:
    broken, sound = submit(store, "broken"), submit(store, "sound")
    (broken.folder / "state.json").write_text("{")
    assert [job.run_id for job in store.jobs()] == [sound.run_id]
    with pytest.raises(CheckpointError, match="restore the folder"):
        store.find("broken").state()
