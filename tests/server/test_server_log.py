"""The server's log: what is in it, who could have changed it, and that it holds up nothing."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.commands import found, server, site, yoriai
from tests.coordinators import asked
from tests.server.enrolling import NAMES, bring, enrolled, files
from tests.server.faulty import BASE_DIGEST, FaultyTransport, initial_adapter, small_job
from tests.server.keepers import Keeper
from tests.server.versions_made import KEY, coordinate, finished, queued
from yoriai import wire
from yoriai.errors import EXIT_BAD_INPUT, StorageError
from yoriai.prepared_job import PreparedJob
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.submitting import submit
from yoriai.server.versions import log
from yoriai.server.versions.database import opened, writing
from yoriai.server.versions.log import EVENTS, LogRow, append, append_once, rows, verified_head

OWN = [KEY.public_key.public_bytes_raw()]


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    """An enrolled server; its SuperLink is not started."""
    machine = ServerFolder(server(tmp_path / "server"))
    enrolled(machine, found(tmp_path / "consortium"), {name: site(tmp_path / name, name) for name in NAMES})
    return machine


@pytest.fixture
def written(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A log of five rows."""
    with opened(tmp_path / "v" / "versions.sqlite") as db:
        with writing(db):
            for number in range(5):
                append(db, KEY, "joined", run="r", site=f"site-{number}")
        yield db


def events(folder: ServerFolder, **like: str) -> list[dict[str, Any]]:
    done = yoriai("server", "log", folder.path, "--json")
    assert done.code == 0, done.screen
    every = [json.loads(line) for line in done.screen.splitlines()]
    return [row for row in every if all(row.get(key) == value for key, value in like.items())]


def altered(all_rows: list[LogRow], at: int, **changes: Any) -> list[LogRow]:
    from dataclasses import replace

    return [replace(row, **changes) if row.number == at else row for row in all_rows]


def test_a_whole_log_is_verified_up_to_its_head(written: sqlite3.Connection) -> None:
    number, head = verified_head(rows(written), OWN)
    assert (number, head) == (5, list(rows(written))[-1].hash)
    assert verified_head(iter(()), OWN)[0] == 0


@pytest.mark.parametrize("at", [1, 3, 5])
def test_the_first_broken_row_is_named(at: int, written: sqlite3.Connection) -> None:
    good = list(rows(written))
    body = good[at - 1].body.replace("joined", "refused")
    with pytest.raises(StorageError, match=f"row {at}: it was changed"):
        verified_head(iter(altered(good, at, body=body)), OWN)
    with pytest.raises(StorageError, match=f"row {at}: its signature"):
        verified_head(iter(altered(good, at, signature="00" * 64)), OWN)
    if at < len(good):
        with pytest.raises(StorageError, match=f"row {at}: it is missing"):
            verified_head(iter([row for row in good if row.number != at]), OWN)


def test_a_chain_written_anew_by_who_has_another_key_is_found_out(written: sqlite3.Connection, tmp_path: Path) -> None:
    with opened(tmp_path / "forged" / "versions.sqlite") as forged, writing(forged):
        append(forged, SigningKey.generate(), "joined", run="r", site="site-0")
        with pytest.raises(StorageError, match="row 1: it is signed by a key that is not the server's"):
            verified_head(rows(forged), OWN)


def test_a_row_that_names_the_servers_key_and_bears_anothers_signature_is_found_out(
    written: sqlite3.Connection,
) -> None:
    good = list(rows(written))
    forged = SigningKey.generate().sign(b"yoriai/log/1", bytes.fromhex(good[1].hash)).hex()
    with pytest.raises(StorageError, match="row 2: its signature"):
        verified_head(iter(altered(good, 2, signature=forged)), OWN)


def test_an_earlier_key_counts_only_where_it_is_named(written: sqlite3.Connection) -> None:
    later = SigningKey.generate()
    with writing(written):
        append(written, later, "joined", run="r", site="site-5")
    now = later.public_key.public_bytes_raw()
    with pytest.raises(StorageError, match="row 1"):
        verified_head(rows(written), [now])
    assert verified_head(rows(written), [now, *OWN])[0] == 6


def test_a_key_that_was_replaced_signs_no_more(written: sqlite3.Connection) -> None:
    later = SigningKey.generate()
    with writing(written):
        append(written, later, "joined", run="r", site="site-5")
        append(written, KEY, "joined", run="r", site="site-6")
    with pytest.raises(StorageError, match="row 7: it is signed by a key that is not the server's, or no longer"):
        verified_head(rows(written), [later.public_key.public_bytes_raw(), *OWN])


@pytest.mark.parametrize("body", ["nothing", "[]", "{}", "[" * 100_000])
def test_a_row_that_is_none_is_named_though_its_hash_is_right(written: sqlite3.Connection, body: str) -> None:
    good = list(rows(written))
    forged = sha256(f"{good[1].hash}\n3\n{body}".encode()).hexdigest()
    with pytest.raises(StorageError, match="row 3: it is no row of a log"):
        verified_head(iter(altered(good, 3, body=body, hash=forged)), OWN)


def test_every_event_that_the_log_explains_is_one_to_filter_by() -> None:
    assert log.__doc__ is not None
    table = log.__doc__.split("\n\n")[1].splitlines()
    assert [name.strip(",") for line in table for name in line[4:26].split()] == list(EVENTS)


def test_an_event_of_a_run_and_a_site_is_noted_once(written: sqlite3.Connection) -> None:
    with writing(written):
        for _ in range(2):
            append_once(written, KEY, "joined", run="r", site="site-1")
            append_once(written, KEY, "finished", run="r")
            append_once(written, KEY, "joined", run="other", site="site-1")
    assert verified_head(rows(written), OWN)[0] == 7


def test_a_jobs_way_is_in_the_log_from_its_submission_to_its_delivery(folder: ServerFolder) -> None:
    prepared = PreparedJob(small_job(federation__rounds=2), BASE_DIGEST, initial_adapter().to_bytes(), 1.0)
    job = submit(folder.path, prepared, lambda _prepared, _sites: 1.0)
    job.change(phase="starting")
    coordinate(folder, job, FaultyTransport({name: Keeper(name) for name in NAMES}, {}))
    assert [(row["event"], row.get("site")) for row in events(folder, run=job.run_id)] == [
        ("submitted", None),
        *(("approved", name) for name in NAMES),
        *(("joined", name) for name in NAMES),
        ("finished", None),
        *(("delivered", name) for name in NAMES),
    ]


class Naysayer(Keeper):
    """Declines every job."""

    def handle(self, data: bytes) -> bytes:
        """Say no."""
        message = asked(data)
        if isinstance(message, wire.JobOffer):
            return wire.encode(wire.Refusal(run_id=message.run_id, site=self.name, reason="not\nthis one"))
        return super().handle(data)


def test_who_said_no_is_in_the_log_with_the_reason_on_one_line(folder: ServerFolder) -> None:
    sites: Mapping[str, Keeper] = {"north": Keeper("north"), "south": Naysayer("south")}
    job = queued(folder, federation__min_sites=1)
    coordinate(folder, job, FaultyTransport(dict(sites), {}))
    (row,) = events(folder, run=job.run_id, event="refused")
    assert (row["site"], row["reason"]) == ("south", "not this one")
    assert events(folder, run=job.run_id, event="joined", site="south") == []


def test_members_that_come_and_go_are_in_the_log(folder: ServerFolder, tmp_path: Path) -> None:
    assert [row["site"] for row in events(folder, event="enrolled")] == list(NAMES)
    from tests.commands import Office

    office = Office(tmp_path / "consortium" / "ca", tmp_path / "consortium" / "passphrase")
    assert office.run("revoke", "south", "--yes").code == 0
    assert office.run("roster").code == 0
    done = bring(folder, files(office))
    assert done.code == 0, done.screen
    assert [row["site"] for row in events(folder, event="revoked")] == ["south"]
    assert len(events(folder, event="enrolled")) == len(NAMES)


def test_a_log_that_cannot_be_written_stops_no_job_and_is_made_up_for(folder: ServerFolder) -> None:
    folder.versions.unlink(missing_ok=True)
    folder.versions.parent.rmdir()
    folder.versions.parent.write_text("in the way")
    job = finished(folder, seed=1)
    assert job.state().phase == "finished"
    assert "not_recorded" in job.log_file.read_text()
    folder.versions.parent.unlink()
    listed = json.loads(yoriai("server", "versions", folder.path, "--json").screen)
    assert [row["run"] for row in listed["versions"]] == [job.run_id]
    assert {row["event"] for row in events(folder, run=job.run_id)} == {"submitted", "joined", "finished", "delivered"}


def test_the_command_verifies_and_says_which_row_is_broken(folder: ServerFolder) -> None:
    finished(folder, seed=1)
    done = yoriai("server", "log", folder.path, "--verify", "--json")
    assert (done.code, json.loads(done.screen)["rows"]) == (0, len(events(folder)))
    assert "joined" in yoriai("server", "log", folder.path).screen
    with opened(folder.versions) as db:
        db.execute("DROP TRIGGER log_stays")
        db.execute("UPDATE log SET body = replace(body, 'north', 'sorth') WHERE number = 3")
    broken = yoriai("server", "log", folder.path, "--verify")
    assert (broken.code, "broken at row 3" in broken.screen) == (EXIT_BAD_INPUT, True)


def test_an_earlier_key_is_named_by_its_digits(folder: ServerFolder) -> None:
    done = yoriai("server", "log", folder.path, "--verify", "--key", "zz")
    assert (done.code, "64 hexadecimal digits" in done.screen) == (EXIT_BAD_INPUT, True)
