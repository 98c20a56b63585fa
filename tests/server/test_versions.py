"""Versions of a server: every finished job becomes one, by itself; the list, one version, the difference of two."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import found, server, site, yoriai
from tests.server.enrolling import NAMES, enrolled
from tests.server.faulty import BASE_DIGEST
from tests.server.versions_made import KEY, finished, queued, statement, written
from yoriai.config import JobConfig, override
from yoriai.errors import EXIT_BAD_INPUT, ConfigError, IdentityError, StorageError
from yoriai.privacy.identity.signing_key import SigningKey, read_key
from yoriai.privacy.statements.version_statement import read_version, sign_version
from yoriai.server.channels.version_views import versions_view
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.recording import records_of, take_in, take_in_all
from yoriai.server.round.registry import Registry
from yoriai.server.versions import catalogue
from yoriai.server.versions.database import opened, writing
from yoriai.server.versions.facts import conditioning_of
from yoriai.strategies.adapter import AdapterState


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ServerFolder:
    """An enrolled server; its SuperLink is not started."""
    home = tmp_path_factory.mktemp("versions")
    machine = ServerFolder(server(home / "server"))
    enrolled(machine, found(home / "consortium"), {name: site(home / name, name) for name in NAMES})
    return machine


def said(folder: ServerFolder, *command: object) -> Any:
    done = yoriai("server", command[0], folder.path, *command[1:], "--json")
    assert done.code == 0, done.screen
    return json.loads(done.screen)


def test_a_finished_job_becomes_a_version_by_itself_with_all_that_made_it(folder: ServerFolder) -> None:
    job = finished(folder, seed=1)
    shown = said(folder, "show", job.run_id)
    made = shown["statement"]["predicate"]
    adapter = Registry(job.folder).load().adapter  # type: ignore[union-attr]
    assert shown["statement"]["_type"] == "https://in-toto.io/Statement/v1"
    assert shown["statement"]["subject"][0]["digest"]["yoriaiAdapter1"] == adapter.digest()
    assert (made["run_id"], made["rounds"], made["trained_by"], made["sites"]) == (job.run_id, 2, "fedavg", 2)
    assert (made["base_digest"], made["federation"], made["parent"]) == (BASE_DIGEST, "miyagi", "")
    assert made["privacy"]["noise"] == "local"
    assert made["privacy"]["epsilon"] == job.prepared().job.privacy.epsilon
    assert made["secure_sum"] == {"enabled": False, "bits": None, "fewest_sites": 2}
    assert made["software"]["numpy"]
    assert shown["sites"] == list(NAMES)


def test_conditioning_is_named_by_its_texts_and_by_what_they_led_to_and_not_by_what_trains() -> None:
    def named(*, seed: int = 0, mean: float = 1.0, trained: float = 1.0, head: str = "trained") -> str:
        settings = {"task.kind": "classify", "task.labels": ("cabin", "pump"), "task.head": head, "public.seed": seed}
        fixed = {"last:M": np.full((1, 4), mean, "f4"), "last:D": np.ones((2, 4), "f4")}
        adapter = AdapterState({**fixed, "head:H": np.full((2, 2), trained, "f4")})
        return conditioning_of(override(JobConfig(name="a"), settings), adapter)

    assert named() == named(trained=5.0) != ""
    assert len({named(), named(seed=1), named(mean=2.0)}) == 3
    assert named(head="labels") == ""


def test_the_statement_counts_sites_and_names_none(folder: ServerFolder) -> None:
    job = finished(folder, seed=2)
    with records_of(folder) as records:
        signed = catalogue.find(records.db, job.run_id).signed
    assert not any(name.encode() in signed for name in NAMES)


def test_a_statement_is_the_coordinators_and_nobody_elses(folder: ServerFolder) -> None:
    job = finished(folder, seed=3)
    with records_of(folder) as records:
        signed = catalogue.find(records.db, job.run_id).signed
    key = read_key(folder.coordinator_key).public_key
    assert read_version(signed, key).run_id == job.run_id
    with pytest.raises(IdentityError, match="right signature"):
        read_version(signed, SigningKey.generate().public_key)
    with pytest.raises(IdentityError, match="right signature"):
        read_version(signed.replace(b'"rounds":2', b'"rounds":3'), key)


@pytest.mark.parametrize(
    "changes",
    [{"adapter_digest": "00"}, {"rounds": 0}, {"sites": 0}, {"ended": "yesterday"}, {"base_digest": "x"}, {"job": ""}],
)
def test_a_statement_that_says_nothing_sensible_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(IdentityError, match="malformed"):
        statement("a", **changes)


def test_a_signed_document_of_another_shape_is_no_statement() -> None:
    from yoriai.privacy.statements import version_statement

    for payload in (b"{}", b"[]", b'{"subject":[],"predicate":{}}', b'{"subject":[{}],"predicate":{"privacy":{}}}'):
        with pytest.raises(IdentityError, match="malformed"):
            read_version(version_statement._VERSION.seal(KEY, payload), KEY.public_key)
    good = statement("a").document | {"predicateType": "urn:else"}
    sealed = version_statement._VERSION.seal(KEY, json.dumps(good, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(IdentityError, match="malformed"):
        read_version(sealed, KEY.public_key)
    assert read_version(sign_version(KEY, statement("a")), KEY.public_key) == statement("a")


def test_jobs_of_before_there_were_versions_are_taken_in_by_the_first_list(tmp_path: Path) -> None:
    machine = ServerFolder(server(tmp_path / "server"))
    enrolled(machine, found(tmp_path / "consortium"), {name: site(tmp_path / name, name) for name in NAMES})
    jobs = [finished(machine, seed=seed) for seed in (1, 2)]
    waiting = queued(machine, seed=3)
    machine.versions.unlink()
    listed = said(machine, "versions")["versions"]
    assert [row["run"] for row in listed] == sorted(job.run_id for job in jobs)
    assert waiting.run_id not in yoriai("server", "versions", machine.path).screen


def test_a_job_is_a_version_once_however_often_it_is_looked_at(folder: ServerFolder) -> None:
    job = finished(folder, seed=4)
    with records_of(folder) as records:
        before = len(catalogue.versions(records.db))
        assert not take_in(records, job)
        assert take_in_all(records) == {}
        assert len(catalogue.versions(records.db)) == before


def test_a_job_whose_adapter_was_altered_becomes_no_version_and_the_others_do(tmp_path: Path) -> None:
    machine = ServerFolder(server(tmp_path / "server"))
    enrolled(machine, found(tmp_path / "consortium"), {name: site(tmp_path / name, name) for name in NAMES})
    bad, good = finished(machine, seed=1), finished(machine, seed=2)
    machine.versions.unlink()
    for path in (bad.folder / "adapters").iterdir():
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    listed = said(machine, "versions")
    assert [row["run"] for row in listed["versions"]] == [good.run_id]
    assert list(listed["faults"]) == [bad.run_id]


def test_a_version_is_found_by_the_beginning_of_its_digest_or_run_that_is_its_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "v" / "versions.sqlite") as db:
        first, second = written(db, "pumps-1"), written(db, "pumps-12")
        assert catalogue.find(db, "pumps-1") == first  # The whole name wins over a longer one.
        assert catalogue.find(db, second.digest[:8]) == second
        with pytest.raises(ConfigError, match="more than one version 'pumps'"):
            catalogue.find(db, "pumps")
        for name in ("", "valves", "%", "_"):
            with pytest.raises(ConfigError, match="no version"):
                catalogue.find(db, name)


def test_the_difference_of_two_versions_is_what_differs(folder: ServerFolder) -> None:
    first, second = finished(folder, seed=5), finished(folder, seed=6, federation__rounds=3)
    found_ = said(folder, "diff", first.run_id, second.run_id)["differences"]
    assert found_["rounds"] == [2, 3]
    assert "adapter" in found_
    assert "trained_by" not in found_
    assert said(folder, "diff", first.run_id, first.run_id)["differences"] == {}
    assert "rounds" in yoriai("server", "diff", folder.path, first.run_id, second.run_id).screen


def test_ten_thousand_versions_are_listed_with_as_many_statements_as_one(tmp_path: Path) -> None:
    asked: list[str] = []
    counts = []
    with opened(tmp_path / "v" / "versions.sqlite") as db:
        for total in (1, 10_000):
            have = len(catalogue.known_runs(db))
            with writing(db):
                signed = sign_version(KEY, statement("pumps"))
                rows = ((f"run-{n:05}", f"{n:064x}", signed, '["north"]') for n in range(have, total))
                db.executemany("INSERT INTO versions (run, digest, statement, sites) VALUES (?, ?, ?, ?)", rows)
            asked.clear()
            db.set_trace_callback(asked.append)
            assert len(versions_view(db)["versions"]) == total
            db.set_trace_callback(None)
            counts.append(len(asked))
    assert counts[0] == counts[1] <= 4


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM versions WHERE digest >= 'a' AND digest < 'ag'", "versions_by_digest"),
        ("SELECT * FROM versions WHERE run >= 'a' AND run < 'b'", "sqlite_autoindex_versions_1"),
        ("SELECT * FROM channels WHERE channel = 'staging' ORDER BY number DESC LIMIT 1", "channels_by_name"),
        (
            "SELECT 1 FROM log WHERE json_extract(body, '$.run') = 'r' AND json_extract(body, '$.event') = 'joined'"
            " AND json_extract(body, '$.site') IS 'north'",
            "log_by_event",
        ),
        (
            "SELECT body FROM log WHERE json_extract(body, '$.run') = 'r' AND json_extract(body, '$.event') = 'voted'"
            " ORDER BY number",
            "log_by_event",
        ),
    ],
)
def test_what_looks_for_one_row_goes_by_an_index(query: str, index: str, tmp_path: Path) -> None:
    with opened(tmp_path / "v" / "versions.sqlite") as db:
        plan = " ".join(str(row) for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))
    assert index in plan
    assert "SCAN" not in plan


def test_a_database_of_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "v" / "versions.sqlite"
    with opened(path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(StorageError, match="found format 9; expected format 1"), opened(path):
        pass
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="cannot be read or written"), opened(path):
        pass


def test_the_database_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "v" / "versions.sqlite"
    with opened(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_rows_of_channels_and_log_can_be_neither_changed_nor_removed(folder: ServerFolder) -> None:
    finished(folder, seed=7)
    with records_of(folder) as records:
        for change in ("UPDATE log SET body = ''", "DELETE FROM log"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                records.db.execute(change)


def test_past_rounds_are_removed_and_no_version_loses_its_adapter(folder: ServerFolder) -> None:
    job = finished(folder, seed=8, federation__rounds=3)
    files = set((job.folder / "adapters").iterdir())
    asked = yoriai("server", "gc", folder.path, answers="n\n")
    assert (asked.code != 0, set((job.folder / "adapters").iterdir())) == (True, files)
    assert said(folder, "gc", "--yes")["removed"] > 0
    assert set((job.folder / "adapters").iterdir()) < files
    said(folder, "show", job.run_id)
    assert said(folder, "gc", "--yes")["removed"] == 0


def test_a_version_whose_adapter_is_gone_is_not_shown_as_if_it_were_there(folder: ServerFolder) -> None:
    job = finished(folder, seed=9)
    for path in (job.folder / "adapters").iterdir():
        path.unlink()
    done = yoriai("server", "show", folder.path, job.run_id)
    assert (done.code, "damaged or missing" in done.screen) == (EXIT_BAD_INPUT, True)
