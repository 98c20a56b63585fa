"""A job of a server from its queue to its end: whole, early by command, early by itself, and what is shown of it."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.commands import found, server, site, yoriai
from tests.coordinators import asked
from tests.server.enrolling import NAMES, enrolled
from tests.server.faulty import BASE_DIGEST, Fault, FaultyTransport, initial_adapter, small_job
from tests.server.keepers import Keeper
from yoriai import wire
from yoriai.errors import EXIT_BAD_INPUT, AwayError, ConfigError
from yoriai.prepared_job import PreparedJob
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, Phase, StoredJob
from yoriai.server.jobs.submitting import submit
from yoriai.server.round import attendance
from yoriai.server.round.manifest import RoundRecord
from yoriai.server.round.messenger import Transport
from yoriai.server.service.job_run import run_job
from yoriai.server.service.status import _seconds_left, _with_absences, server_view

ROUNDS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ServerFolder:
    """An enrolled server; its SuperLink is not started."""
    home = tmp_path_factory.mktemp("coordinating")
    machine = ServerFolder(server(home / "server"))
    enrolled(machine, found(home / "consortium"), {name: site(home / name, name) for name in NAMES})
    return machine


@pytest.fixture
def job(folder: ServerFolder) -> StoredJob:
    """A job that was given to Flower."""
    roster = folder.trusted.roster.read_bytes()
    prepared = PreparedJob(small_job(federation__rounds=ROUNDS), BASE_DIGEST, initial_adapter().to_bytes(), 1.0)
    stored = JobStore(folder.jobs).submit(prepared, roster)
    stored.change(phase="starting")
    return stored


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"federation__rule": "fedsvd", "federation__server_optimizer": "adam"}, "fedsvd"),
        ({"federation__min_sites": len(NAMES) + 1}, "too few sites for the job"),
    ],
)
def test_what_no_coordinator_could_run_is_not_submitted(
    folder: ServerFolder, settings: dict[str, object], match: str
) -> None:
    prepared = PreparedJob(small_job(**settings), BASE_DIGEST, initial_adapter().to_bytes(), 1.0)
    with pytest.raises(ConfigError, match=match):
        submit(folder.path, prepared, lambda _prepared, _sites: 1.0)
    assert JobStore(folder.jobs).jobs() == []


def test_a_jobs_folder_has_a_line_of_figures_a_round_that_names_no_site(folder: ServerFolder, job: StoredJob) -> None:
    coordinate(folder, job, FaultyTransport({name: Keeper(name) for name in NAMES}, {}))
    text = job.metrics_file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["round"], line["sites"], line["run"]) for line in lines] == [
        (number, len(NAMES), job.run_id) for number in range(1, ROUNDS + 1)
    ]
    assert not any(f'"{name}"' in text for name in NAMES)


class AtRound(FaultyTransport):
    """Does something while a round is at work: in its training."""

    def __init__(self, round_index: int, does: Callable[[], object], faults: dict[str, Fault] | None = None) -> None:
        super().__init__({name: Keeper(name) for name in NAMES}, faults or {})
        self._round, self._does = round_index, does

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """As the transport."""
        message = asked(next(iter(payloads.values()))) if payloads else None
        if isinstance(message, wire.TrainRequest) and message.round_index == self._round:
            self._does()
        return super().exchange(stage, payloads, timeout_s)


def coordinate(folder: ServerFolder, job: StoredJob, transport: FaultyTransport) -> None:
    def connect(stop: threading.Event, on_failure: Callable[[str, str, str], None]) -> Transport:
        return transport

    run_job(folder, job, connect)


def ordered(folder: ServerFolder, job: StoredJob, command: str) -> None:
    done = yoriai("job", command, "--server", folder.path, job.run_id)
    assert done.code == 0, done.screen


def shown(folder: ServerFolder, job: StoredJob) -> dict[str, object]:
    done = yoriai("job", "status", "--server", folder.path, job.run_id, "--json")
    return dict(json.loads(done.screen))


def events(job: StoredJob, name: str) -> list[dict[str, object]]:
    return [event for event in map(json.loads, job.log_file.read_text().splitlines()) if event["event"] == name]


def test_a_job_with_all_its_rounds_is_finished(folder: ServerFolder, job: StoredJob) -> None:
    coordinate(folder, job, AtRound(-1, lambda: None))
    view = shown(folder, job)
    assert (view["phase"], view["rounds_done"], view["ended_early"]) == ("finished", ROUNDS, "")
    assert (len(events(job, "finished")), events(job, "ended")) == (1, [])


def test_a_running_job_that_is_ended_stores_the_round_at_work_and_delivers_it(
    folder: ServerFolder, job: StoredJob
) -> None:
    transport = AtRound(1, lambda: ordered(folder, job, "end"))
    coordinate(folder, job, transport)
    view = shown(folder, job)
    assert (view["phase"], view["ending"], view["rounds_done"]) == ("ended", False, 2)
    assert view["ended_early"] == "the coordinator's operator ended it"
    assert (view["delivered"], view["told"]) == (list(NAMES), [])
    assert [(event["rounds"], event["reason"]) for event in events(job, "ended")] == [(2, view["ended_early"])]
    assert [stage for stage, _ in transport.stages] == ["offer", "train", "train", "deliver"]
    screen = yoriai("job", "status", "--server", folder.path, job.run_id).screen
    assert "ended early" in screen


@pytest.mark.parametrize("phase", ["queued", "failed", "cancelled"])
@pytest.mark.parametrize("rounds", [0, 1])
def test_a_job_at_rest_that_is_ended_only_delivers(
    folder: ServerFolder, job: StoredJob, phase: Phase, rounds: int
) -> None:
    if rounds:
        interrupted(folder, job, rounds)
    job.change(phase=phase, fruitless=5, not_before=1e12, error="too few")
    ordered(folder, job, "end")
    state = job.state()
    assert (state.phase, state.ending, state.fruitless, state.not_before) == ("queued", True, 0, 0.0)
    job.change(phase="starting")
    transport = AtRound(-1, lambda: None)
    coordinate(folder, job, transport)
    view = shown(folder, job)
    assert (view["phase"], view["rounds_done"]) == ("ended", rounds)
    assert [stage for stage, _ in transport.stages] == ["deliver"]


def interrupted(folder: ServerFolder, job: StoredJob, rounds: int) -> None:
    """Have a coordinator killed after so many rounds."""

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinate(folder, job, AtRound(rounds, die))


def test_a_job_whose_site_is_away_waits_and_uses_up_no_start(
    folder: ServerFolder, job: StoredJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "_waited", lambda *_: False)  # The deadline of the offer has passed.
    transport = AtRound(-1, lambda: None)
    transport.unreachable.add(NAMES[0])
    for _ in range(10):
        with pytest.raises(AwayError, match=f"{NAMES[0]}: not connected"):
            coordinate(folder, job, transport)
        assert (job.state().phase, job.state().fruitless) == ("queued", 0)
        job.change(phase="starting")
    transport.unreachable.clear()
    coordinate(folder, job, transport)
    assert job.state().phase == "finished"


def test_a_job_whose_rounds_are_used_up_ends_by_itself(folder: ServerFolder, job: StoredJob) -> None:
    def spent(request: wire.Message, reply: bytes) -> bytes:
        if isinstance(request, wire.TrainRequest) and request.round_index == 2:
            site = getattr(wire.decode(reply), "site", "")
            return wire.encode(wire.Refusal(run_id=request.run_id, site=site, reason="all used", used_up=True))
        return reply

    coordinate(folder, job, AtRound(-1, lambda: None, dict.fromkeys(NAMES, spent)))
    view = shown(folder, job)
    assert (view["phase"], view["rounds_done"], view["error"]) == ("ended", 2, "")
    assert str(view["ended_early"]).startswith("north, south have used every round, the spare ones too")


def test_an_ending_that_is_killed_is_not_forgotten_and_one_that_is_cancelled_is(
    folder: ServerFolder, job: StoredJob
) -> None:
    job.change(phase="running")
    ordered(folder, job, "end")
    job.begin_again("its coordinator ended without a word", only_from=("running",))
    assert (job.state().phase, job.state().ending) == ("queued", True)
    ordered(folder, job, "cancel")
    assert (job.state().phase, job.state().ending) == ("cancelled", False)
    ordered(folder, job, "resume")
    job.change(phase="starting")
    coordinate(folder, job, AtRound(-1, lambda: None))
    assert shown(folder, job)["phase"] == "finished"


def test_an_ended_job_that_is_resumed_delivers_what_is_missing_and_trains_nothing(
    folder: ServerFolder, job: StoredJob
) -> None:
    first = AtRound(1, lambda: ordered(folder, job, "end"))
    first.faults["south"] = lambda request, reply: (
        wire.encode(wire.Refusal(run_id=request.run_id, site="south", reason="disk full"))
        if isinstance(request, wire.Delivery)
        else reply
    )
    coordinate(folder, job, first)
    assert shown(folder, job)["delivered"] == ["north"]
    ordered(folder, job, "resume")
    job.change(phase="starting")
    again = AtRound(-1, lambda: None)
    coordinate(folder, job, again)
    view = shown(folder, job)
    assert (view["phase"], view["delivered"]) == ("ended", list(NAMES))
    assert again.stages == [("deliver", ("south",))]


@pytest.mark.parametrize("phase", ["cancelling", "finished", "ended"])
def test_a_job_that_is_over_or_stops_is_not_ended(folder: ServerFolder, job: StoredJob, phase: Phase) -> None:
    before = job.change(phase=phase)
    done = yoriai("job", "end", "--server", folder.path, job.run_id)
    assert (done.code, f"is {phase};" in done.screen) == (EXIT_BAD_INPUT, True), done.screen
    assert job.state() == before


def test_a_jobs_state_of_before_there_were_endings_is_read(job: StoredJob) -> None:
    path: Path = job.folder / "state.json"
    document = json.loads(path.read_text())
    del document["ending"]
    path.write_text(json.dumps(document))
    assert not job.state().ending


class Telling(FaultyTransport):
    """A transport that knows why a site's reply is missing."""

    def failures(self) -> Mapping[str, str]:
        return {NAMES[0]: "the site's daemon cannot be reached"}


def test_a_missing_reply_is_named_with_its_cause_which_goes_away_once_a_round_is_stored(
    folder: ServerFolder, job: StoredJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "_waited", lambda *_: False)
    transport = Telling({name: Keeper(name) for name in NAMES}, {NAMES[0]: lambda _request, _reply: None})
    with pytest.raises(AwayError, match=f"{NAMES[0]}: the site's daemon cannot be reached"):
        coordinate(folder, job, transport)
    assert "cannot be reached" in str(shown(folder, job)["error"])
    assert "no reply in time" not in job.log_file.read_text()
    job.change(phase="starting")
    seen: list[object] = []
    coordinate(folder, job, AtRound(1, lambda: seen.append(job.state().error)))
    assert seen == [""]


def test_the_server_shows_the_job_that_was_at_work_last(folder: ServerFolder, job: StoredJob) -> None:
    later = JobStore(folder.jobs).submit(job.prepared(), job.roster_file.read_bytes())
    later.change(phase="cancelled")
    coordinate(folder, job, AtRound(-1, lambda: None))
    for other in JobStore(folder.jobs).live():
        other.change(phase="cancelled")
        other.change(since=0.0)
    assert server_view(folder, is_kept=False)["job"]["run"] == job.run_id


def test_every_job_is_listed_with_its_phase_and_rounds(folder: ServerFolder, job: StoredJob) -> None:
    coordinate(folder, job, AtRound(-1, lambda: None))
    screen = yoriai("job", "list", "--server", folder.path).screen
    assert f"{job.run_id}  finished, {ROUNDS} of {ROUNDS} rounds" in screen
    listed = json.loads(yoriai("job", "list", "--server", folder.path, "--json").screen)
    assert [view["run"] for view in listed["jobs"]][-1] == job.run_id


def test_status_shows_who_took_part_in_which_round_what_is_left_and_when_it_will_be_done(
    folder: ServerFolder, job: StoredJob
) -> None:
    views: list[dict[str, object]] = []
    screens: list[str] = []

    def look() -> None:
        views.append(shown(folder, job))
        screens.append(yoriai("job", "status", "--server", folder.path, job.run_id).screen)

    coordinate(folder, job, AtRound(2, look))
    view = views[0]
    assert [(each["round"], each["sites"]) for each in view["took_part"]] == [  # type: ignore[attr-defined]
        (1, list(NAMES)),
        (2, list(NAMES)),
    ]
    assert (view["rounds_left"], view["seconds_left"] is not None) == (ROUNDS - 2, True)
    screen = " ".join(screens[0].split())
    assert f"left {ROUNDS - 2} rounds, then the delivery; at the pace of the last rounds until" in screen
    assert f"round 2 {', '.join(NAMES)} in" in screen
    assert (shown(folder, job)["rounds_left"], shown(folder, job)["seconds_left"]) == (0, None)


def test_the_estimate_is_of_the_last_rounds_pace_and_none_before_a_round() -> None:
    def record(seconds: float) -> RoundRecord:
        return RoundRecord(0, (), (), 0.0, seconds, {}, {}, "")

    records = tuple(map(record, (1000.0, 10.0, 20.0, 30.0)))
    assert _seconds_left(records, 2, 0.0) == pytest.approx(40.0)
    assert _seconds_left(records, 2, 15.0) == pytest.approx(25.0)
    assert _seconds_left((), 2, 0.0) is None


def test_a_connected_node_whose_site_takes_no_part_is_not_shown_as_just_online() -> None:
    reason = "the site's daemon cannot be reached, or has no time"
    assert _with_absences(
        {"north": "online", "south": "online", "east": "offline"}, {"north": reason, "east": "x"}
    ) == {
        "north": f"online, but takes no part: {reason}",
        "south": "online",
        "east": "offline",
    }


def test_cancelled_and_ended_jobs_leave_the_list(folder: ServerFolder, job: StoredJob) -> None:
    job.change(phase="cancelled")
    listed = yoriai("job", "list", "--server", folder.path)
    assert (job.run_id in listed.screen, "--all shows them" in listed.screen) == (False, True)
    assert job.run_id in yoriai("job", "list", "--server", folder.path, "--all").screen
