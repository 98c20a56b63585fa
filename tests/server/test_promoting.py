"""Channels: whom the gate lets in, what force leaves behind, two promoters at once, and a crash at every write."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pytest

from tests.commands import Outcome, found, server, site, yoriai
from tests.server.enrolling import NAMES, enrolled
from tests.server.versions_made import KEY, finished, written
from yoriai.config import GateSection
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, ConfigError, PolicyError
from yoriai.privacy.statements.version_statement import read_promotion
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.versions import catalogue, database
from yoriai.server.versions.catalogue import Version
from yoriai.server.versions.database import opened
from yoriai.server.versions.log import rows, verified_head
from yoriai.server.versions.metrics import Metrics
from yoriai.server.versions.promoting import Promoted, Signer, promote, roll_back

SIGNER = Signer(KEY, "miyagi", "operator", datetime(2026, 11, 29, 12, tzinfo=UTC))
OPEN = GateSection()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    with opened(tmp_path / "v" / "versions.sqlite") as made:
        yield made


def put(
    db: Connection,
    version: Version,
    accuracy: float | None = None,
    *,
    channel: str = "production",
    gate: GateSection = OPEN,
    force_why: str = "",
) -> Promoted:
    metrics = None if accuracy is None else Metrics(adapter_digest=version.digest, accuracy=accuracy)
    return promote(db, version.run, channel, gate=gate, metrics=metrics, signer=SIGNER, force_why=force_why)


def held(db: Connection, channel: str = "production") -> str | None:
    row = catalogue.standing(db, channel)
    return catalogue.version(db, row.version).run if row else None


def logged(db: Connection) -> list[dict[str, Any]]:
    return [row.document for row in rows(db)]


def test_a_promotion_is_signed_and_numbered_over_all_channels(db: Connection) -> None:
    first, second = written(db, "a"), written(db, "b")
    put(db, first, channel="staging")
    done = put(db, second)
    said = read_promotion(done.standing.signed, KEY.public_key)
    assert (said.channel, said.number, said.run_id, said.adapter_digest) == ("production", 2, "b", second.digest)
    assert (said.federation, said.forced, said.at) == ("miyagi", False, "2026-11-29T12:00:00+00:00")
    assert (held(db, "staging"), held(db)) == ("a", "b")


def test_a_version_that_fails_its_gate_is_refused_with_the_line_and_changes_nothing(db: Connection) -> None:
    put(db, written(db, "a"), 0.80)
    worse, gate = written(db, "b"), GateSection(accuracy_drop=0.01, epsilon=9.0)
    before = logged(db)
    with pytest.raises(PolicyError, match=r"gate\.accuracy_drop: found 0\.7000, expected at least 0\.7900") as refused:
        put(db, worse, 0.70, gate=gate)
    assert "gate.epsilon" not in str(refused.value)  # Only what failed.
    assert (held(db), logged(db), catalogue.find(db, "b").metrics) == ("a", before, None)
    assert put(db, worse, 0.795, gate=gate).lines[0].holds
    assert held(db) == "b"


def test_force_leaves_reason_and_failed_lines_in_the_log_and_in_the_signed_statement(db: Connection) -> None:
    done = put(db, written(db, "a"), gate=GateSection(epsilon=1.0), force_why="the pilot needs it")
    assert read_promotion(done.standing.signed, KEY.public_key).forced
    (row,) = logged(db)
    assert row["forced"] == {"why": "the pilot needs it", "failed": ["gate.epsilon: found 8, expected at most 1"]}
    assert row["by"] == "operator"


def test_force_where_the_gate_is_passed_is_not_called_force(db: Connection) -> None:
    done = put(db, written(db, "a"), gate=GateSection(epsilon=8.0), force_why="to be sure")
    assert not read_promotion(done.standing.signed, KEY.public_key).forced


def test_the_gate_of_staging_compares_with_production_too(db: Connection) -> None:
    put(db, written(db, "a"), 0.8)
    with pytest.raises(PolicyError, match="accuracy_drop"):
        put(db, written(db, "b"), 0.7, channel="staging", gate=GateSection(accuracy_drop=0.0))


def test_metrics_that_were_given_once_count_at_the_next_promotion(db: Connection) -> None:
    gate, version = GateSection(accuracy_drop=0.0), written(db, "a")
    put(db, version, 0.8, channel="staging", gate=gate)
    assert put(db, version, gate=gate).lines[0].found == "0.8000"


def test_metrics_of_another_adapter_are_refused(db: Connection) -> None:
    version, other = written(db, "a"), written(db, "b")
    metrics = Metrics(adapter_digest=other.digest, accuracy=1.0)
    with pytest.raises(ConfigError, match="another adapter's"):
        promote(db, version.run, "production", gate=OPEN, metrics=metrics, signer=SIGNER)


def test_what_stands_there_already_is_not_promoted_again(db: Connection) -> None:
    version = written(db, "a")
    put(db, version)
    with pytest.raises(ConfigError, match="stands in production already"):
        put(db, version)
    assert len(logged(db)) == 1


def test_rollbacks_go_back_one_by_one_and_end_at_the_first(db: Connection) -> None:
    for name in ("a", "b", "c"):
        put(db, written(db, name))
    assert roll_back(db, "production", why="worse on Mondays", signer=SIGNER).version.run == "b"
    put(db, written(db, "d"))
    seen = [roll_back(db, "production", why="", signer=SIGNER).version.run for _ in range(2)]
    assert seen == ["b", "a"]
    with pytest.raises(ConfigError, match="held no version before"):
        roll_back(db, "production", why="", signer=SIGNER)
    with pytest.raises(ConfigError, match="staging holds no version"):
        roll_back(db, "staging", why="", signer=SIGNER)
    events = [(row["event"], row.get("why")) for row in logged(db) if row["event"] == "rolled_back"]
    assert events == [("rolled_back", "worse on Mondays"), ("rolled_back", None), ("rolled_back", None)]


def test_a_rollback_is_signed_with_a_higher_number_than_what_it_takes_back(db: Connection) -> None:
    put(db, written(db, "a"))
    last = put(db, written(db, "b")).standing
    back = read_promotion(roll_back(db, "production", why="", signer=SIGNER).standing.signed, KEY.public_key)
    assert (back.run_id, back.number) == ("a", last.number + 1)


# Two at once.


def _promoter(path: Path, name: str, accuracy: float, ready: Any, told: Any) -> None:
    with opened(path) as db:
        ready.wait()
        try:
            put(db, catalogue.find(db, name), accuracy, gate=GateSection(accuracy_drop=0.0))
            told.put((name, "promoted"))
        except PolicyError:
            told.put((name, "refused"))


@pytest.mark.parametrize("turn", range(4))
def test_of_two_promoters_at_once_the_second_is_held_against_the_first(turn: int, tmp_path: Path) -> None:
    path = tmp_path / "v" / "versions.sqlite"
    with opened(path) as db:
        put(db, written(db, "base"), 0.5)
        for name in ("good", "better"):
            written(db, name)
    context = multiprocessing.get_context("fork")
    ready, told = context.Barrier(2), context.Queue()
    scores = {"good": 0.8, "better": 0.9}
    workers = [context.Process(target=_promoter, args=(path, *pair, ready, told)) for pair in scores.items()]
    for worker in workers:
        worker.start()
    outcomes = dict(told.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    with opened(path) as db:
        assert held(db) == "better"  # In whichever order they came: the worse one never follows the better one.
        order = [row["run"] for row in logged(db)]
        verified_head(rows(db), [KEY.public_key.public_bytes_raw()])
    assert outcomes["better"] == "promoted"
    assert order == (["base", "good", "better"] if outcomes["good"] == "promoted" else ["base", "better"])


# Crashes.


@contextmanager
def killed_at(number: int) -> Iterator[None]:
    """The process dies at this step of those that the database names."""
    left = [number]

    def counted(_: str) -> None:
        if left[0] == 0:
            os._exit(86)
        left[0] -= 1

    database.on_step = counted
    try:
        yield
    finally:
        database.on_step = lambda _: None


def _dies(number: int, path: Path, does: Any) -> bool:
    child = os.fork()
    if child == 0:
        try:
            with killed_at(number), opened(path) as db:
                does(db)
            os._exit(0)
        finally:
            os._exit(87)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 86)
    return code == 86


def test_a_crash_at_any_write_of_a_promotion_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    path, states = tmp_path / "v" / "versions.sqlite", set()
    with opened(path) as db:
        put(db, written(db, "a"), 0.5)
        for name in "bcdefghi":
            written(db, name)
    for number, name in enumerate("bcdefghi"):
        with opened(path) as db:
            before = held(db)
        died = _dies(number, path, lambda db, name=name: put(db, catalogue.find(db, name), 0.9))
        with opened(path) as db:
            done = held(db) == name
            assert held(db) in (before, name)
            assert (logged(db)[-1]["run"] == name) is done
            assert (catalogue.find(db, name).metrics is not None) is done
            verified_head(rows(db), [KEY.public_key.public_bytes_raw()])
        states.add((died, done))
        if not died:
            break
    assert states == {(True, False), (True, True), (False, True)}


def test_a_crash_while_the_database_is_made_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / str(number) / "versions.sqlite"
        died = _dies(number, path, lambda db: None)
        with opened(path) as db:
            assert catalogue.versions(db) == []
        if not died:
            assert number == 2
            return
    raise AssertionError("it never ended")


# The commands.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ServerFolder:
    """An enrolled server; its SuperLink is not started."""
    home = tmp_path_factory.mktemp("promoting")
    machine = ServerFolder(server(home / "server"))
    enrolled(machine, found(home / "consortium"), {name: site(home / name, name) for name in NAMES})
    return machine


def ordered(folder: ServerFolder, command: str, *arguments: object) -> Outcome:
    return yoriai("server", command, folder.path, *arguments)


@pytest.fixture
def gated(folder: ServerFolder) -> StoredJob:
    """A finished job whose gate asks for a measured accuracy."""
    return finished(folder, seed=11, gate__accuracy_drop=0.0)


def test_the_commands_promote_by_the_jobs_own_gate_and_roll_back(
    folder: ServerFolder, gated: StoredJob, tmp_path: Path
) -> None:
    other = finished(folder, seed=12)
    assert ordered(folder, "promote", other.run_id, "--channel", "production").code == 0
    refused = ordered(folder, "promote", gated.run_id, "--channel", "production")
    assert (refused.code, "gate.accuracy_drop: found not known" in refused.screen) == (EXIT_REFUSED, True)
    done = ordered(folder, "promote", gated.run_id, "--channel", "production", "--force", "--why", "a trial")
    assert (done.code, "FAILS  gate.accuracy_drop" in done.screen) == (0, True)
    back = ordered(folder, "rollback", "--why", "the trial is over", "--json")
    assert json.loads(back.screen)["run"] == other.run_id
    listed = json.loads(ordered(folder, "versions", "--json").screen)
    assert listed["channels"]["production"] == other.run_id


def test_metrics_come_from_a_file(folder: ServerFolder, tmp_path: Path) -> None:
    job = finished(folder, seed=13, gate__site_drop=0.0)
    digest = json.loads(ordered(folder, "show", job.run_id, "--json").screen)["statement"]["subject"][0]["digest"]
    document = {"schema": 1, "adapter_digest": digest["yoriaiAdapter1"], "accuracy": 0.7}
    document["sites"] = {"north": {"before": 0.5, "after": 0.7}}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(document))
    done = ordered(folder, "promote", job.run_id, "--metrics", path)
    assert (done.code, "staging holds" in done.screen) == (0, True)
    assert json.loads(ordered(folder, "show", job.run_id, "--json").screen)["metrics"]["accuracy"] == 0.7


@pytest.mark.parametrize("options", [("--force",), ("--why", "so"), ("--force", "--why", " ")])
def test_force_and_reason_go_together(folder: ServerFolder, options: tuple[str, ...]) -> None:
    done = ordered(folder, "promote", "x", *options)
    assert (done.code, "go together" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_version_whose_adapter_is_damaged_is_not_promoted(folder: ServerFolder) -> None:
    job = finished(folder, seed=14)
    for path in (job.folder / "adapters").iterdir():
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    done = ordered(folder, "promote", job.run_id)
    assert (done.code, "damaged" in done.screen or "altered" in done.screen) == (EXIT_BAD_INPUT, True)


def test_a_version_whose_job_holds_another_adapter_is_not_promoted(folder: ServerFolder) -> None:
    job, other = finished(folder, seed=15), finished(folder, seed=16)
    shutil.copytree(other.folder / "adapters", job.folder / "adapters", dirs_exist_ok=True)
    shutil.copytree(other.folder / "state", job.folder / "state", dirs_exist_ok=True)
    shutil.copy(other.folder / "checkpoint.json", job.folder / "checkpoint.json")
    done = ordered(folder, "promote", job.run_id)
    assert (done.code, "not the one of its version" in done.screen) == (EXIT_BAD_INPUT, True)


def test_an_audit_is_kept_with_the_version_and_counts_at_its_next_promotion(
    folder: ServerFolder, tmp_path: Path
) -> None:
    job, file = finished(folder, 31, gate__audit=True), tmp_path / "audit.json"
    settings = {"rule": "fedavg", "noise": "local", "delta": job.prepared().job.privacy.delta}
    bounds = {
        "epsilon_ledger": 7.9,
        "epsilon_lower_white_box": 0.4,
        "epsilon_lower_black_box": None,
        "confidence": 0.95,
    }
    file.write_text(json.dumps({**bounds, "refuted": False, "control_holds": True, "settings": settings}))
    without = yoriai("server", "promote", folder.path, job.run_id)
    assert (without.code, "gate.audit: found not known" in without.screen) == (EXIT_REFUSED, True)
    assert yoriai("server", "promote", folder.path, job.run_id, "--audit", file).code == 0
    assert yoriai("server", "promote", folder.path, job.run_id, "--channel", "production").code == 0
