"""What channels hold comes to the sites by itself: who is sent what, when, and what the log says of it."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.commands import found, server, site, yoriai
from tests.coordinators import asked
from tests.server.enrolling import NAMES, enrolled
from tests.server.faulty import BASE_DIGEST, FaultyTransport
from tests.server.keepers import Keeper
from tests.server.versions_made import coordinate, finished, queued
from yoriai import wire
from yoriai.client.versions.channel_inbox import ChannelInbox
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.errors import YoriaiError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.signing_key import read_key
from yoriai.privacy.statements.counts_statement import CountsStatement, sign_counts
from yoriai.server.channels.schedule import begin, begin_if_due, in_production, note_drift
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.jobs.recording import records_of
from yoriai.server.round.messenger import Transport
from yoriai.server.service.errands import Errands, run_errand
from yoriai.server.versions import catalogue
from yoriai.server.versions.database import writing
from yoriai.server.versions.log import append


class Boxed(Keeper):
    """A site whose channels are real; its operator takes a version by `use`."""

    def __init__(self, name: str, folder: Path, authority: bytes) -> None:
        super().__init__(name)
        self.folder, self.asked_about = folder, []  # type: list[str]
        trust = Trust(authority, None, now=datetime.now(UTC))
        self.inbox = ChannelInbox(name, folder, base_digest=BASE_DIGEST, trust=lambda: trust)

    def handle(self, data: bytes) -> bytes:
        message = asked(data)
        if not isinstance(message, wire.VersionFile | wire.ChannelQuestion):
            return super().handle(data)
        self.asked_about.append(message.kind)
        answer = self.inbox.receive if isinstance(message, wire.VersionFile) else self.inbox.answer
        try:
            return wire.encode(answer(message))  # type: ignore[operator]
        except YoriaiError as error:
            return wire.encode(wire.Refusal(run_id=message.run_id, site=self.name, reason=str(error)))

    def use(self) -> None:
        """As the end of `site pull` does."""
        place = ChannelPlace(self.folder, "production")
        number = place.delivered()
        assert number is not None
        with place.draft(number):
            pass
        place.use(number)


@dataclass
class World:
    """An enrolled server, and what its sites are."""

    folder: ServerFolder
    sites: dict[str, Boxed]

    def __post_init__(self) -> None:
        self.transport = FaultyTransport(self.sites)

    def connect(self, *_: object) -> Transport:
        return self.transport

    def promote(self, job: StoredJob, channel: str = "production") -> None:
        done = yoriai("server", "promote", self.folder.path, job.run_id, "--channel", channel)
        assert done.code == 0, done.screen

    def errand(self) -> None:
        Errands(self.folder).begin()
        run_errand(self.folder, self.connect)

    def logged(self) -> list[tuple[str, str, int]]:
        done = yoriai("server", "log", self.folder.path, "--json")
        every = [json.loads(line) for line in done.screen.splitlines()]
        return [(row["event"], row["site"], row["number"]) for row in every if row["event"] in ("received", "pulled")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An enrolled server, its sites and its consortium; tests work on copies, for to make them takes much longer."""
    place = tmp_path_factory.mktemp("made")
    machine, office = ServerFolder(server(place / "server")), found(place / "consortium")
    enrolled(machine, office, {name: site(place / name, name) for name in NAMES})
    return place


@pytest.fixture
def world(tmp_path: Path, made: Path) -> World:
    for name in ("server", *NAMES):
        shutil.copytree(made / name, tmp_path / name)
    authority = (made / "consortium" / "ca" / "authority.der").read_bytes()
    sites = {name: Boxed(name, tmp_path / f"{name}.channels", authority) for name in NAMES}
    return World(ServerFolder(tmp_path / "server"), sites)


def test_a_promotion_comes_to_every_site_once_and_the_log_says_who_received_and_who_pulled_it(world: World) -> None:
    world.promote(finished(world.folder))
    world.errand()
    assert world.logged() == [("received", "north", 1), ("received", "south", 1)]
    world.sites["north"].use()
    world.errand()
    world.errand()
    assert world.logged()[2:] == [("pulled", "north", 1)]
    assert world.sites["north"].asked_about == ["version", "channel_question"]
    assert world.sites["south"].asked_about == ["version", "channel_question", "channel_question"]
    assert yoriai("server", "log", world.folder.path, "--verify").code == 0


def test_a_rollback_comes_to_the_sites_like_a_promotion(world: World) -> None:
    jobs = [finished(world.folder, seed) for seed in (1, 2)]
    for job in jobs:
        world.promote(job)
    assert yoriai("server", "rollback", world.folder.path).code == 0
    world.errand()
    kept = ChannelPlace(world.sites["north"].folder, "production").delivered_file(3).read_bytes()
    message = wire.decode(kept)
    assert isinstance(message, wire.VersionFile)
    assert message.run_id == jobs[0].run_id


def test_who_was_away_is_sent_it_by_the_next_errand(world: World) -> None:
    world.promote(finished(world.folder))
    world.transport.unreachable.add("south")
    world.errand()
    world.transport.unreachable.clear()
    world.errand()
    assert world.logged() == [("received", "north", 1), ("received", "south", 1)]


def test_a_site_that_refuses_is_no_receiver_and_the_reason_is_in_the_servers_own_log(world: World) -> None:
    world.sites["south"].inbox._base_digest = "0" * 64
    world.promote(finished(world.folder))
    world.errand()
    assert world.logged() == [("received", "north", 1)]
    assert "another base model" in (world.folder.log / "channels.jsonl").read_text()


@pytest.mark.parametrize("changes", [{"site": "north"}, {"channel": "staging"}, {"delivered": 7}, {"run_id": "other"}])
def test_an_answer_about_something_else_is_no_receipt(world: World, changes: dict[str, object]) -> None:
    def other(_: wire.Message, reply: bytes) -> bytes:
        return wire.encode(wire.decode(reply).model_copy(update=changes))

    world.promote(finished(world.folder))
    world.transport.faults["south"] = other
    world.errand()
    assert world.logged() == [("received", "north", 1)]


def test_while_a_job_runs_its_coordinator_brings_the_news_between_two_rounds(world: World) -> None:
    first, job = finished(world.folder, 1), queued(world.folder, 2, federation__rounds=3)
    at_round = []

    def promoting(message: wire.Message, reply: bytes) -> bytes:
        if isinstance(message, wire.TrainRequest) and message.round_index == 1:
            world.promote(first)
        if isinstance(message, wire.TrainRequest | wire.VersionFile):
            at_round.append(message.kind)
        return reply

    world.transport.faults["north"] = promoting
    coordinate(world.folder, job, world.transport)
    assert at_round == ["train_request", "train_request", "version", "train_request"]
    assert job.state().phase == "finished"
    assert world.logged() == [("received", "north", 1), ("received", "south", 1)]


# What sites say of a version.


@pytest.fixture
def candidate(world: World) -> StoredJob:
    """A version in staging that every site has received."""
    job = finished(world.folder)
    world.promote(job, "staging")
    world.errand()
    return job


def voting(world: World, job: StoredJob, home: Path, **changes: object) -> None:
    """North answers with counts that it signs; some of what they say may be changed."""
    with records_of(world.folder) as records:
        version = catalogue.find(records.db, job.run_id)
        federation = records.federation
    fields = {"federation": federation, "site": "north", "purpose": "vote", "run_id": job.run_id, "number": 1}
    fields |= {"adapter_digest": version.digest, "period": 0, "first": 4, "second": -1}
    statement = CountsStatement(**fields | {"deviation": 3.0, "epsilon": 0.5, "delta": 1e-5} | changes)  # type: ignore[arg-type]
    counts = sign_counts(read_key(home / "keys" / "identity.key"), statement).decode()

    def answer(_: wire.Message, reply: bytes) -> bytes:
        return wire.encode(wire.decode(reply).model_copy(update={"counts": counts}))

    world.transport.faults["north"] = answer


def told(world: World) -> list[tuple[str, str]]:
    done = yoriai("server", "log", world.folder.path, "--json")
    rows = map(json.loads, done.screen.splitlines())
    return [(row["event"], row["site"]) for row in rows if row["event"] in ("voted", "checked", "withheld")]


def test_a_vote_is_noted_once_with_the_sites_signature(world: World, candidate: StoredJob, tmp_path: Path) -> None:
    voting(world, candidate, tmp_path / "north")
    world.errand()
    world.errand()
    assert told(world) == [("voted", "north")]
    assert world.sites["north"].asked_about == ["version", "channel_question"]
    done = yoriai("server", "show", world.folder.path, candidate.run_id, "--json")
    assert json.loads(done.screen)["votes"] == {"north": [4, -1, 3.0]}


def test_the_votes_of_many_sites_take_one_look_at_their_certificates(
    world: World, candidate: StoredJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voting(world, candidate, tmp_path / "south", site="south")
    world.transport.faults["south"] = world.transport.faults.pop("north")
    voting(world, candidate, tmp_path / "north")
    looks: list[datetime] = []
    identities = ServerFolder.identities

    def counted(folder: ServerFolder, now: datetime) -> dict[str, bytes]:
        looks.append(now)
        return identities(folder, now)

    monkeypatch.setattr(ServerFolder, "identities", counted)
    world.errand()
    assert told(world) == [("voted", "north"), ("voted", "south")]
    assert len(looks) == 1


CHANGES: list[dict[str, object]] = [
    {"site": "south"},
    {"federation": "akita"},
    {"adapter_digest": "0" * 64},
    {"number": 2},
    {"purpose": "check", "period": 1},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_counts_about_anything_else_than_was_asked_are_not_noted(
    world: World, candidate: StoredJob, tmp_path: Path, changes: dict[str, object]
) -> None:
    voting(world, candidate, tmp_path / "north", **changes)
    world.errand()
    assert told(world) == []
    assert "counts_refused" in (world.folder.log / "channels.jsonl").read_text()


def test_counts_that_another_member_has_signed_are_not_noted(
    world: World, candidate: StoredJob, tmp_path: Path
) -> None:
    voting(world, candidate, tmp_path / "south")
    world.errand()
    assert told(world) == []


def test_a_check_is_asked_for_at_the_set_time_and_not_before(world: World) -> None:
    job = finished(world.folder)
    world.promote(job)
    now = datetime.now(UTC)
    with records_of(world.folder) as records:
        assert not begin_if_due(records, days=30, now=now + timedelta(days=29))
        assert begin_if_due(records, days=30, now=now + timedelta(days=31))
        assert not begin_if_due(records, days=30, now=now + timedelta(days=29))  # One was asked for just now.
        assert not begin_if_due(records, days=0, now=now + timedelta(days=999))
        assert begin_if_due(records, days=30, now=now + timedelta(days=62))
    done = yoriai("server", "schedule", world.folder.path, "--json")
    assert [check["period"] for check in json.loads(done.screen)["checks"]] == [1, 2]


def test_drift_is_noted_once_and_shown(world: World) -> None:
    job = finished(world.folder)
    world.promote(job)
    with records_of(world.folder) as records:
        held = in_production(records)
        assert held is not None
        for right in (90, 50):
            period = begin(records, *held)
            with writing(records.db):
                fields = {"number": 1, "period": period, "counts": [right, 100 - right], "deviation": 2.0}
                append(records.db, records.key, "checked", run=job.run_id, site="north", **fields)
        assert note_drift(records) == (job.run_id, 0.4)
        assert note_drift(records) is None
    done = yoriai("server", "schedule", world.folder.path)
    assert "DRIFT: its accuracy fell by 0.400" in done.screen


# When the keeper sends somebody.


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


def due(errands: Errands, clock: list[float], after_s: float, members: Callable[[], set[str]]) -> bool:
    clock[0] += after_s
    return errands.is_due(members)


def test_an_errand_is_due_at_once_and_then_after_twice_as_long_until_all_have_pulled(
    world: World, clock: list[float]
) -> None:
    errands = Errands(world.folder, clock=lambda: clock[0])
    everybody = lambda: set(NAMES)  # noqa: E731
    assert not due(errands, clock, 10, everybody)  # Nothing was promoted.
    job = finished(world.folder)
    world.promote(job)
    assert due(errands, clock, 10, everybody)
    for pause_s in (60, 120, 240):
        errands.begin()
        run_errand(world.folder, world.connect)
        assert not due(errands, clock, pause_s - 6, everybody)
        assert due(errands, clock, 6, everybody)
    for one in world.sites.values():
        one.use()
    errands.begin()
    run_errand(world.folder, world.connect)
    assert not due(errands, clock, 10_000, everybody)


def test_what_a_channel_holds_next_does_not_wait(world: World, clock: list[float]) -> None:
    errands = Errands(world.folder, clock=lambda: clock[0])
    jobs = [finished(world.folder, seed) for seed in (1, 2)]
    for job in jobs:
        world.promote(job)
        assert due(errands, clock, 10, lambda: set(NAMES))
        errands.begin()


def test_an_errand_that_comes_too_late_knows_so_while_no_job_can_begin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[bool] = []

    def is_fresh(folder: ServerFolder) -> bool:
        at_work.append(Errands(folder).runner() is not None)
        return False

    monkeypatch.setattr("yoriai.server.service.errands._is_fresh", is_fresh)
    run_errand(world.folder, world.connect)
    assert at_work == [True]


def test_no_job_begins_while_an_errand_is_at_work_and_one_that_never_began_is_given_up(world: World) -> None:
    errands = Errands(world.folder)
    assert not errands.is_at_work()
    errands.begin()
    assert errands.is_at_work()
    mark = world.folder.run / "errand"
    os.utime(mark, (time.time() - 100,) * 2)
    assert not errands.is_at_work()
    world.promote(finished(world.folder))
    run_errand(world.folder, world.connect)  # Flower started it late: a job may be running by now.
    assert world.logged() == []
    errands.begin()
    run_errand(world.folder, world.connect)
    assert not errands.is_at_work()
