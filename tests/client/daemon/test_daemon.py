"""A site's daemon as a process: what it answers, whom it turns away, and what is left when it is stopped or killed."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.client.conftest import LABELS, JobMaker
from tests.client.daemons import (
    FOR_EVER_S,
    MARKER,
    WAIT_S,
    Daemon,
    asked_as,
    command,
    context,
    identity_of,
    open_for_ever,
    open_seeded,
    open_stub,
    refused,
    run_command,
    seeded_hooks,
    stub_config,
)
from tests.client.offices import noise_for
from tests.coordinators import Known, save_identity, saved_identity
from tests.waiting import wait_for
from tests.world import write_records
from yoriai import wire
from yoriai.client.base.base_model import load_base
from yoriai.client.daemon.daemon_config import DaemonConfig, config_in
from yoriai.client.daemon.socket_protocol import LARGEST_MESSAGE_BYTES, FrameKind, Line
from yoriai.client.folder.site_folder import make_site
from yoriai.client.offer.job_book import JobBook
from yoriai.client.records.records import read_site
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.site import Site
from yoriai.client.versions.adapter_place import folder_of, read_evaluation
from yoriai.config import JobConfig, PolicySection, SiteConfig, SpeedSection, job_digest
from yoriai.errors import EXIT_PARTIAL, ConfigError, DaemonError
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import committed
from yoriai.privacy.statements.delivery import DeliveryStatement, sign_delivery
from yoriai.server.round.sealing import Sealer
from yoriai.simulations.scenarios.consortium import Consortium

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

Answer = Callable[[bytes], bytes]
ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture
def config() -> Iterator[DaemonConfig]:
    """A stub's configuration. Not in pytest's own folder, which no other user may enter."""
    with tempfile.TemporaryDirectory(prefix="yoriai-") as name:
        home = Path(name)
        home.chmod(0o755)
        policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True)
        yield stub_config(home, SiteConfig(name="north", policy=policy))


@pytest.fixture
def stub(config: DaemonConfig, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(config, open_stub, tmp_path / "log") as daemon:
        yield daemon


@pytest.fixture
def real(config: DaemonConfig, base_folder: Path) -> DaemonConfig:
    """The configuration of a real site, whose records hold a word that must never show."""
    rows: list[dict[str, object]] = [{"prompt": f"{MARKER} {n}", "response": LABELS[n % 3]} for n in range(8)]
    for part in ("train", "test"):
        write_records(config.data / f"{part}.jsonl", rows)
    return replace(config, base=str(base_folder))


@pytest.fixture
def bench(base_folder: Path) -> Iterator[ModelSession]:
    """The same base in this process."""
    base = load_base(str(base_folder), device=torch.device("cpu"))
    made = ModelSession(base, SpeedSection(threads=1, physical_batch_size=8))
    yield made
    made.close()


def offered(answer: Answer, job: JobConfig, bench: ModelSession, **more: Any) -> wire.Message:
    """A site's answer to the offer of a job."""
    values = {
        "run_id": "run-1",
        "job": job.model_dump(mode="json", by_alias=True),
        "roster": wire.Roster(serial=1, weights={"north": 2, "south": 1}),
        "base_digest": bench.base.digest,
        "noise_multiplier": noise_for(job),
        "payload": bench.initial_adapter(job).to_bytes(),
    }
    return wire.decode(answer(wire.encode(wire.JobOffer(**(values | more)))))


def request(job: JobConfig, bench: ModelSession, round_index: int) -> bytes:
    """A coordinator's message that begins a round, from the first adapter."""
    start = bench.initial_adapter(job)
    return wire.encode(
        wire.TrainRequest(
            run_id="run-1",
            round_index=round_index,
            adapter_digest=start.digest(),
            payload=start.select(("R",)).to_bytes(),
        )
    )


def charges(config: DaemonConfig) -> list[tuple[int, bool]]:
    path = config.ledgers / "north.sqlite"
    with Ledger.existing(path, witness=config.ledgers.parent / "elsewhere" / "north.sqlite.head") as ledger:
        return [(charge.round_index, charge.released) for charge in ledger.charges()]


def events(daemon: Daemon) -> list[str]:
    return [json.loads(line)["event"] for line in daemon.log().splitlines()]


def release(config: DaemonConfig) -> None:
    """Let a stub's message that waits come to its end."""
    (config.ledgers / "released").touch()


def connected(config: DaemonConfig) -> Line:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(config.socket))
    return Line(connection).within(10)


def test_a_job_through_the_socket_is_bit_for_bit_the_job_of_the_site_itself(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job()
    with Ledger.open(tmp_path / "own.sqlite", dataset="north", epsilon_budget=20.0, delta=1e-5) as ledger:
        records = read_site("north", real.data)
        site = Site(real.site, records, session=bench, ledger=ledger, hooks=seeded_hooks())
        assert isinstance(offered(site.handle, job, bench), wire.Acceptance)
        expected = [site.handle(request(job, bench, index)) for index in range(2)]
    with Daemon(real, open_seeded, tmp_path / "log") as daemon:
        assert isinstance(offered(daemon.daemon.handle, job, bench), wire.Acceptance)
        assert [daemon.daemon.handle(request(job, bench, index)) for index in range(2)] == expected
        health = daemon.ready().daemon.health()
        assert daemon.end() == 0
    assert isinstance(wire.decode(expected[0]), wire.PlainUpdate)
    assert expected[0] != expected[1]
    assert charges(real) == [(0, True), (1, True)]
    assert (health["job"], health["round"], health["messages"]) == ("run-1", 2, 3)
    assert 0 < health["budget"]["spent"] < health["budget"]["epsilon_budget"] - health["budget"]["left"]
    logged = [event for event in events(daemon) if event not in ("library", "at_work")]
    rounds = ["round_begun", "released"] * 2
    assert logged == ["started", "loaded", "offered", "accepted", *rounds, "stopping", "stopped"]


def test_while_an_offer_is_added_up_its_operator_is_answered_and_the_ledger_is_free(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job()
    with Daemon(real, open_seeded, tmp_path / "log") as daemon, ThreadPoolExecutor() as pool:
        assert isinstance(offered(daemon.daemon.handle, job, bench), wire.Acceptance)
        (counting,) = children_of(daemon)
        os.kill(counting, signal.SIGSTOP)  # As if it took for ever.
        answer = pool.submit(offered, daemon.daemon.handle, job, bench, run_id="run-2", noise_multiplier=40.0)
        wait_for(lambda: daemon.daemon.health()["state"] == "working")
        assert daemon.daemon.health()["job"] == "run-1"
        assert charges(real) == []
        assert not answer.done()
        os.kill(counting, signal.SIGKILL)
        reply = answer.result(WAIT_S)
        assert isinstance(reply, wire.Refusal)
        assert "cannot be added up within this site's limits" in reply.reason
        again = offered(daemon.daemon.handle, job, bench, run_id="run-2", noise_multiplier=40.0)
        assert isinstance(again, wire.Acceptance)
        assert daemon.end() == 0


def children_of(daemon: Daemon) -> list[int]:
    """The processes that a daemon has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(place.read_text().rpartition(")")[2].split()[1]) == daemon.pid:
                found.append(int(place.parent.name))
    return found


def test_killed_in_a_round_it_starts_again_on_its_ledger_and_trains_the_round_on_the_same_charge(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    job, slow = make_job(training__local_steps=20), real.ledgers.parent / "slow"
    with Daemon(real, open_seeded, tmp_path / "log") as daemon:
        assert isinstance(offered(daemon.daemon.handle, job, bench), wire.Acceptance)
        daemon.daemon.handle(request(job, bench, 0))
        slow.touch()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(daemon.daemon.handle, request(job, bench, 1))
            wait_for((real.ledgers.parent / "begun").exists)
            daemon.end(signal.SIGKILL)
            with pytest.raises(DaemonError, match="broke off"):
                answer.result(WAIT_S)
    assert real.socket.exists()
    assert charges(real) == [(0, True), (1, False)]
    slow.unlink()
    with Daemon(real, open_seeded, tmp_path / "log") as daemon:
        unknown = wire.decode(daemon.daemon.handle(request(job, bench, 1)))
        assert isinstance(unknown, wire.Refusal)
        assert unknown.unknown_job
        assert isinstance(offered(daemon.daemon.handle, job, bench), wire.Acceptance)
        again = wire.decode(daemon.daemon.handle(request(job, bench, 1)))
        assert isinstance(again, wire.PlainUpdate)
    assert charges(real) == [(0, True), (1, True)]


def test_stopped_in_a_round_it_gives_the_round_up_and_its_charge_stays_open(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job(training__local_steps=100)
    with Daemon(replace(real, grace_s=0.2), open_seeded, tmp_path / "log") as daemon:
        assert isinstance(offered(daemon.daemon.handle, job, bench), wire.Acceptance)
        (real.ledgers.parent / "slow").touch()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(daemon.daemon.handle, request(job, bench, 0))
            wait_for((real.ledgers.parent / "begun").exists)
            assert daemon.end() == 0
            refusal = wire.decode(answer.result(WAIT_S))
    assert isinstance(refusal, wire.Refusal)
    assert "stopping" in refusal.reason
    assert charges(real) == [(0, False)]
    assert events(daemon)[-3:] == ["stopping", "abandoned", "stopped"]


def asking(daemon: Daemon, consortium: Consortium) -> Callable[[bytes], bytes]:
    """Asks the daemon of site north, each message under the coordinator's signature."""
    sealer = Sealer(consortium.signing(), "run-1")
    return lambda data: daemon.daemon.handle(sealer.sealed("north", data))


def test_keys_are_read_and_neither_they_nor_records_show_in_the_log(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    consortium = Consortium.found(tmp_path / "consortium", {"north": 2, "south": 1}, federation="test")
    identity = partial(identity_of, consortium.folder, "north")
    write_records(real.data / "train.jsonl", [{"prompt": MARKER, "response": MARKER}])
    with Daemon(replace(real, identity=identity), open_seeded, tmp_path / "log") as daemon:
        ask = asking(daemon, consortium)
        secure = make_job(secure_aggregation__enabled=True, federation__min_sites=2)
        roster = consortium.roster_file().decode()
        # A label that the job does not have: told to the log by file and line, to the coordinator not at all.
        reply = offered(ask, secure, bench, signed_roster=roster)
        plain = make_job(task__kind="instruct", task__labels=(), federation__rule="fedavg")
        assert isinstance(reply, wire.Acceptance)
        offered(ask, plain, bench)
        daemon.daemon.handle(os.urandom(1000))
        daemon.end()
    log = daemon.log()
    assert "line 1" in log
    assert "some.package" in log
    assert MARKER not in log
    secrets = [
        line
        for line in (consortium.folder / "sites" / "north.key").read_text().splitlines()
        if not line.startswith("-")
    ]
    assert secrets
    assert not [line for line in secrets if line in log]


def test_more_records_than_the_policy_says_in_public_show_in_the_log_and_in_no_answer(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    policy = real.site.policy.model_copy(update={"max_records": 2})
    site = real.site.model_copy(update={"policy": policy})
    with Daemon(replace(real, site=site), open_seeded, tmp_path / "log") as daemon:
        reply = offered(daemon.daemon.handle, make_job(), bench)
        daemon.end()
    assert isinstance(reply, wire.Acceptance)
    assert "policy.max_records is less than there are" in daemon.log()


def test_an_enrolled_site_signs_for_its_ledger(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    consortium = Consortium.found(tmp_path / "consortium", {"north": 2, "south": 1}, federation="test")
    identity = partial(identity_of, consortium.folder, "north")
    with Daemon(replace(real, identity=identity), open_seeded, tmp_path / "log") as daemon:
        job = make_job(secure_aggregation__enabled=True, federation__min_sites=2)
        reply = offered(
            asking(daemon, consortium),
            job,
            bench,
            signed_roster=consortium.roster_file().decode(),
        )
    assert isinstance(reply, wire.Acceptance), reply
    committed(reply.ledger_head, "north", consortium.key("north").public_key)


def test_a_job_waits_for_its_operator_and_its_last_adapter_is_stored_and_then_measured(
    real: DaemonConfig, bench: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    known, job = Known(), make_job()
    save_identity(known.identity("north", tmp_path), known, tmp_path)
    jobs, adapters = tmp_path / "jobs", tmp_path / "adapters"
    identity = partial(saved_identity, tmp_path)
    config = replace(real, identity=identity, jobs=jobs, adapters=adapters)
    adapter = bench.initial_adapter(job)
    statement = DeliveryStatement(
        "miyagi", "run-1", job_digest(job, bench.base.digest), bench.base.digest, "", 3, adapter.digest()
    )
    delivery = wire.Delivery(
        run_id="run-1",
        certificate=known.certificate().decode(),
        statement=sign_delivery(known.key, statement).decode(),
        payload=adapter.to_bytes(),
    )
    with Daemon(config, open_seeded, tmp_path / "log") as daemon:

        def ask(data: bytes) -> bytes:
            return daemon.daemon.handle(known.sealed("north", wire.decode(data)))

        reply = offered(ask, job, bench)
        assert isinstance(reply, wire.Refusal)
        assert reply.waiting
        book = JobBook(jobs)
        book.decide(book.find("run-1"), "approved", by="hana")
        assert isinstance(offered(ask, job, bench), wire.Acceptance)
        assert isinstance(wire.decode(ask(request(job, bench, 0))), wire.PlainUpdate)
        receipt = wire.decode(ask(wire.encode(delivery)))
        assert isinstance(receipt, wire.Receipt), receipt
        place = folder_of(adapters, "run-1", adapter.digest())
        wait_for(lambda: read_evaluation(place) is not None)
        assert [name for name in events(daemon) if name in ("waits_for_operator", "accepted", "stored")] == [
            "waits_for_operator",
            "accepted",
            "stored",
        ]
        assert MARKER not in daemon.log()


def test_a_site_that_cannot_be_opened_ends_the_daemon_with_the_reason(config: DaemonConfig, tmp_path: Path) -> None:
    assert "train records are missing" in refused(config, open_seeded, tmp_path / "log")
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not config.socket.exists()


def test_socket_and_folder_are_closed_to_others_and_the_process_is_hardened(stub: Daemon, config: DaemonConfig) -> None:
    assert stat.S_IMODE(config.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(config.socket.parent.stat().st_mode) == 0o750
    assert stub.daemon.handle(b"process").decode() == "0 (0, 0) 77 1"


@pytest.mark.parametrize("mode", [0o770, 0o751, 0o755])
def test_a_folder_that_is_open_to_others_is_refused(config: DaemonConfig, tmp_path: Path, mode: int) -> None:
    config.socket.parent.mkdir()
    config.socket.parent.chmod(mode)
    assert "is open to others" in refused(config, open_stub, tmp_path / "log")


def test_a_second_daemon_is_refused_and_the_first_goes_on(stub: Daemon, config: DaemonConfig, tmp_path: Path) -> None:
    assert "is listening at" in refused(config, open_stub, tmp_path / "second")
    assert stub.daemon.handle(b"echo") == b"echo"


def test_the_socket_of_a_killed_daemon_is_replaced(stub: Daemon, config: DaemonConfig, tmp_path: Path) -> None:
    stub.end(signal.SIGKILL)
    assert config.socket.exists()
    with Daemon(config, open_stub, tmp_path / "log") as second:
        assert second.daemon.handle(b"echo") == b"echo"


def test_a_place_where_nobody_can_listen_is_told_by_name(config: DaemonConfig, tmp_path: Path) -> None:
    config.socket.parent.write_text("not a folder")
    assert "cannot listen at" in refused(config, open_stub, tmp_path / "log")
    long = replace(config, socket=config.socket.parent.with_name("x" * 100) / "daemon.sock")
    assert "too long for this system" in refused(long, open_stub, tmp_path / "log")


def test_a_hangup_that_was_to_be_ignored_is_ignored(config: DaemonConfig, tmp_path: Path) -> None:
    with Daemon(config, open_stub, tmp_path / "log", ignored=[signal.SIGHUP]) as daemon:
        daemon.send(signal.SIGHUP)
        time.sleep(0.2)
        assert daemon.daemon.handle(b"echo") == b"echo"


def test_a_file_in_the_sockets_place_is_kept(config: DaemonConfig, tmp_path: Path) -> None:
    config.socket.parent.mkdir(mode=0o750)
    config.socket.write_text("precious")
    assert "is no socket" in refused(config, open_stub, tmp_path / "log")
    assert config.socket.read_text() == "precious"


@pytest.mark.skipif(not ROOT, reason="only root can be another user")
def test_the_kernel_is_asked_who_connects_whatever_the_permissions_say(config: DaemonConfig, tmp_path: Path) -> None:
    own_group = os.getegid()
    with Daemon(config, open_stub, tmp_path / "log") as daemon:
        assert "may not talk to" in asked_as(NOBODY, own_group, config.socket)
        assert "may not reach" in asked_as(NOBODY, NOBODY, config.socket)
    assert "turned_away" in daemon.log()
    with Daemon(replace(config, allowed_uids=frozenset({NOBODY})), open_stub, tmp_path / "log"):
        assert asked_as(NOBODY, own_group, config.socket) == "{'state': 'ready'}"
    with Daemon(replace(config, allowed_gids=frozenset({own_group})), open_stub, tmp_path / "log"):
        assert asked_as(NOBODY, own_group, config.socket) == "{'state': 'ready'}"


def test_half_a_message_holds_up_nobody(stub: Daemon, config: DaemonConfig) -> None:
    line = connected(config)
    line.announce(FrameKind.HANDLE, 1000)
    assert line.preamble().kind == FrameKind.PROCEED
    line.send_bytes(b"half")
    line.connection.close()
    assert stub.daemon.handle(b"echo") == b"echo"
    assert events(stub)[-3:] == ["lost", "asked", "answered"]


def test_who_goes_away_before_the_answer_stops_nothing(stub: Daemon, config: DaemonConfig) -> None:
    line = connected(config)
    line.announce(FrameKind.HANDLE, 4)
    assert line.preamble().kind == FrameKind.PROCEED
    line.send_bytes(b"wait")
    line.connection.close()
    release(config)
    assert stub.daemon.handle(b"echo") == b"echo"
    assert "unheard" in events(stub)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not Yoriai's"),
        (b"YDMN\x00\x01\x00\x63" + bytes(8), "does not know this question"),
        (b"YDMN\x00\x02\x00\x01" + bytes(8), "another version"),
        (b"YDMN\x00\x01\x00\x03" + (LARGEST_MESSAGE_BYTES + 1).to_bytes(8, "big"), "too long"),
    ],
)
def test_what_is_no_question_is_refused_by_name(stub: Daemon, config: DaemonConfig, sent: bytes, reason: str) -> None:
    line = connected(config)
    line.send_bytes(sent)
    answer = line.preamble()
    assert answer.kind == FrameKind.REFUSED
    assert reason in str(line.note(answer.size_bytes))
    assert line.connection.recv(1) == b""
    line.connection.close()
    assert stub.daemon.handle(b"echo") == b"echo"


def test_ten_clients_at_once_each_get_their_own_answer_one_at_a_time(config: DaemonConfig, tmp_path: Path) -> None:
    with Daemon(replace(config, waiting=10), open_stub, tmp_path / "log") as daemon, ThreadPoolExecutor(10) as pool:
        sent = [b"%d" % number * 300_000 for number in range(10)]
        assert list(pool.map(daemon.daemon.handle, sent)) == sent
        alone = {daemon.daemon.handle(b"process").split()[-1] for _ in range(3)}
    assert alone == {b"1"}


def test_beyond_the_queue_a_message_is_refused_at_once(config: DaemonConfig, tmp_path: Path) -> None:
    waiting = 2
    with Daemon(replace(config, waiting=waiting), open_stub, tmp_path / "log") as daemon, ThreadPoolExecutor(8) as pool:
        first = pool.submit(daemon.daemon.handle, b"wait")
        wait_for(lambda: daemon.daemon.health()["state"] == "working")
        others = [pool.submit(daemon.daemon.handle, b"echo") for _ in range(waiting)]
        wait_for(lambda: daemon.daemon.health()["waiting"] == waiting)
        refusal = wire.decode(daemon.daemon.handle(b"one too many"))
        assert not first.done()
        release(config)
        assert [other.result() for other in others] == [b"echo"] * waiting
    assert isinstance(refusal, wire.Refusal)
    assert (refusal.site, "busy" in refusal.reason) == ("north", True)


def test_asked_to_stop_it_finishes_the_message_refuses_the_next_and_cleans_up(
    stub: Daemon, config: DaemonConfig
) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(stub.daemon.handle, b"wait")
        wait_for(lambda: stub.daemon.health()["state"] == "working")
        second = pool.submit(stub.daemon.handle, b"echo")
        wait_for(lambda: stub.daemon.health()["waiting"] == 1)
        stub.send(signal.SIGTERM)
        refusal = wire.decode(second.result(WAIT_S))
        assert not first.done()
        release(config)
        assert first.result(WAIT_S) == b"wait"
        assert stub.end(None) == 0
    assert isinstance(refusal, wire.Refusal)
    assert "stopping" in refusal.reason
    assert (config.ledgers / "closed").exists()
    assert not config.socket.exists()


def test_a_signal_that_another_thread_than_the_main_one_gets_ends_the_daemon(stub: Daemon) -> None:
    """As a signal that comes just before the main thread waits: no wait is interrupted, and no one connects again."""
    assert stub.pid is not None
    others = {int(task.name) for task in Path(f"/proc/{stub.pid}/task").iterdir()} - {stub.pid}
    assert ctypes.CDLL(None, use_errno=True).tgkill(stub.pid, min(others), signal.SIGTERM) == 0
    assert stub.end(None) == 0


def test_what_comes_after_the_answer_holds_up_the_next_message_and_ends_with_the_daemon(
    config: DaemonConfig, tmp_path: Path
) -> None:
    with Daemon(config, open_stub, tmp_path / "log") as daemon:
        began = time.monotonic()
        assert daemon.daemon.handle(b"later 1") == b"later 1"
        assert daemon.daemon.handle(b"echo") == b"echo"
        assert time.monotonic() - began > 1.0
    later = f"later {FOR_EVER_S}".encode()
    with Daemon(replace(config, grace_s=0.2), open_stub, tmp_path / "second") as daemon:
        assert daemon.daemon.handle(later) == later
        assert daemon.daemon.health()["state"] == "working"
        assert daemon.end() == 0
        assert "abandoned" in events(daemon)


def test_a_message_that_hangs_does_not_hold_up_the_end(config: DaemonConfig, tmp_path: Path) -> None:
    with Daemon(replace(config, grace_s=0.1), open_stub, tmp_path / "log") as daemon, ThreadPoolExecutor() as pool:
        answer = pool.submit(daemon.daemon.handle, b"hang")
        wait_for(lambda: daemon.daemon.health()["state"] == "working")
        assert daemon.end() == EXIT_PARTIAL
        with pytest.raises(DaemonError):
            answer.result(WAIT_S)
    assert not config.socket.exists()


def test_stopped_while_loading_it_ends_at_once(config: DaemonConfig, tmp_path: Path) -> None:
    daemon = Daemon(replace(config, grace_s=FOR_EVER_S), open_for_ever, tmp_path / "log")
    wait_for(config.socket.exists)
    assert daemon.daemon.health()["state"] == "loading"
    assert daemon.end() == EXIT_PARTIAL
    assert not config.socket.exists()


def test_a_queue_without_a_place_is_refused(config: DaemonConfig) -> None:
    with pytest.raises(ConfigError, match="no place; found 0"):
        replace(config, waiting=0)


def test_a_fault_of_the_code_is_told_by_its_type_alone(stub: Daemon) -> None:
    with pytest.raises(DaemonError, match="failed"):
        stub.daemon.handle(b"fail")
    assert stub.daemon.health()["last_error"] == "RuntimeError"
    assert MARKER not in stub.log()
    assert stub.daemon.handle(b"echo") == b"echo"
    assert stub.daemon.health()["last_error"] == ""  # Its cause is gone.


def test_the_daemon_of_a_folder_is_started_shown_and_stopped_by_commands(
    real: DaemonConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(real.data.parent)
    places = {"records": {"folder": str(real.data)}, "base": {"model": real.base}}
    site = SiteConfig.model_validate({"name": "north", **places})
    make_site(Path(folder, "site"), site)
    folder = str(Path(folder, "site"))
    log, capture = tmp_path / "log", capsys.readouterr
    process = context().Process(target=command, args=(["site", "start", folder, "--log-json"], log), daemon=True)
    process.start()
    wait_for(lambda: log.exists() and '"loaded"' in log.read_text())
    assert run_command("site", "status", folder, "--json") == 0
    shown = json.loads(capture().out)
    assert (shown["reachable"], shown["site"], shown["state"]) == (True, "north", "ready")
    assert run_command("site", "status", folder) == 0
    assert "epsilon 16.00 of 16 is left" in capture().out
    assert run_command("site", "stop", folder) == 0
    process.join(WAIT_S)
    assert process.exitcode == 0
    capture()
    assert run_command("site", "status", folder, "--json") == EXIT_PARTIAL
    assert json.loads(capture().out)["reachable"] is False


def test_a_sites_own_device_and_batch_are_the_daemons(tmp_path: Path) -> None:
    speed = SpeedSection(device="cuda:1", physical_batch_size=8)
    folder = make_site(tmp_path / "site", SiteConfig(name="north", speed=speed))
    assert config_in(folder.path).speed == speed
