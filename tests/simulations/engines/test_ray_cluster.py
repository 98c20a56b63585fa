"""Flower's engine on a Ray cluster that is there: two real nodes, one that dies at work, others that do not fit."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
import ray

from tests.simulations.miniature import SIZES, Miniature, StubSpec
from tests.simulations.ray_nodes import MARK, RayCluster, carrying, kill_node, ray_cluster
from tests.waiting import wait_for
from tests.world import Notebook, job_settings
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.job import Round
from yoriai.client.site.round_trainer import SiteHooks, train_charged
from yoriai.client.site.site import Site
from yoriai.client.training.shared_round import SharedSum
from yoriai.client.training.train import LocalUpdate
from yoriai.errors import ConfigError, RoundError, TrainingError
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.secagg.work import Work
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.simulations.engines import cluster as cluster_module
from yoriai.simulations.engines.cluster import check_cluster
from yoriai.simulations.engines.hosts import Hosts, Node
from yoriai.simulations.engines.node_host import NodeHost, fault_of_folder
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.simulations.run.api import resume, simulate
from yoriai.simulations.run.options import Options
from yoriai.simulations.run.simulated_federation import Federation
from yoriai.simulations.scenarios.consortium import Consortium


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as found:
        yield found


# Flower has its thread end with the coordinator's error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_whose_hosts_die_is_resumed_with_the_bits_and_charges_of_the_in_process_engine(
    world: Miniature, cluster: RayCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = job_settings(world.base, **{"federation.rounds": 2, "evaluation.every": 0})

    def options(**more: str) -> Options:
        return Options(alone=False, files=False, noise_seed=b"x", **more)  # type: ignore[arg-type]

    there = options(engine="flower", ray_address=cluster.address)
    simulate(data=world.data, settings=settings, out=tmp_path / "alone", options=options())
    notes = Notebook()
    with cluster.node() as second:
        killing = KillingHosts(1, (cluster.head, second))
        with pytest.raises(RoundError, match="no node of the Ray cluster is left to play sites; start its nodes anew"):
            simulate(data=world.data, settings=settings, out=tmp_path / "there", options=there, observer=killing)
    resume(tmp_path / "there", options=there, observer=notes)
    shares = [line.rpartition(": ")[2] for line in (*killing.said, *notes.said) if line.endswith(" sites")]
    assert shares == ["2 sites", "2 sites", "4 sites"]
    assert stored(tmp_path / "there").adapter == stored(tmp_path / "alone").adapter
    assert [record.answered for record in stored(tmp_path / "there").rounds] == [tuple(sorted(SIZES))] * 2
    assert charges(tmp_path / "there") == charges(tmp_path / "alone")
    wait_for(lambda: not hosts_of(cluster.head))
    assert not ray.is_initialized()
    assert not (tmp_path / "there" / ".shared").exists()
    assert "Ray" not in capfd.readouterr().err


def test_a_node_that_dies_at_work_has_its_sites_played_by_others_and_no_charge_covers_two_releases(
    world: Miniature, cluster: RayCluster, tmp_path: Path
) -> None:
    notes = Notebook()
    with cluster.node() as second:
        made = world.federation(tmp_path, engine="flower")
        given = {**_values(made), "ray_address": cluster.address, "observer": notes}
        outcome = world.run(DyingFederation(**given, dying=second))
    assert [record.answered for record in outcome.checkpoint.rounds] == [tuple(sorted(SIZES))] * 3
    assert len([line for line in notes.said if line.endswith("is gone; its 2 sites go on at the last node")]) == 1
    voided = [void for record in outcome.checkpoint.rounds for void in record.voided]
    assert len(voided) == 1
    lost = {site for site in SIZES if f"{site}: its node " in voided[0]}
    assert len(lost) == 2
    # Nothing of the lost sites had left, so their charge holds; what the others had masked is paid for.
    once, again = [(0, True), (1, True), (2, True)], [(0, True), (1, True), (1, True), (2, True)]
    assert charges(tmp_path) == {site: once if site in lost else again for site in SIZES}


def test_a_node_of_other_software_is_refused_by_its_name_before_a_site_is_asked(
    world: Miniature, cluster: RayCluster, tmp_path: Path
) -> None:
    (tmp_path / "numpy-0.0.1.dist-info").mkdir()
    (tmp_path / "numpy-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    made, notes = world.federation(tmp_path / "run", engine="flower"), Notebook()
    given = {**_values(made), "ray_address": cluster.address, "observer": notes}
    with cluster.node({"PYTHONPATH": str(tmp_path)}), pytest.raises(ConfigError) as error:
        raise AssertionError(world.run(Federation(**given)).checkpoint.rounds, notes.said)  # Only if it is not refused.
    assert error.value.what.startswith("node ")
    assert error.value.what.endswith("has not the software of this machine")
    assert error.value.found == "numpy 0.0.1"
    assert not (tmp_path / "run" / "ledgers").exists()


def test_a_node_that_is_not_known_yet_to_whoever_places_a_process_is_asked_again(
    world: Miniature, cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, unknown = cluster_module._start, [ray.NodeID.from_random().hex()]

    def start(base_digest: str, ray_id: str, processors: float) -> object:
        return real(base_digest, unknown.pop() if unknown else ray_id, processors)

    monkeypatch.setattr(cluster_module, "_start", start)
    made, notes = world.federation(tmp_path, engine="flower", federation__rounds=1), Notebook()
    outcome = world.run(Federation(**{**_values(made), "ray_address": cluster.address, "observer": notes}))
    assert not unknown
    assert [record.answered for record in outcome.checkpoint.rounds] == [tuple(sorted(SIZES))]
    assert [line for line in notes.said if "starts no process" in line] == []


class Unreadable(Exception):
    """Arrives as an error of Ray's own, for it cannot be made again of what is sent of it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Moody:
    """A host whose answer may be lost, or whose process ends; else it says whether it was told what the site is."""

    def handle(self, name: str, payload: bytes, spec: object) -> bytes:
        if payload == b"lost":
            raise Unreadable(name, "a record")
        if payload == b"end":
            os._exit(1)
        return b"built" if spec else b"goes on"


def test_an_answer_that_is_lost_is_one_sites_loss_and_its_node_lives(
    world: Miniature, cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # As a host has it; without it Ray warns.
    told, gone = list[str](), list[bool]()
    spec = StubSpec(world.federation(tmp_path).job, SiteRecords("north", (), ()), tmp_path)
    ray.init(address=cluster.address, logging_level=logging.CRITICAL, log_to_driver=False)
    try:
        start = ray.remote(Moody).options(num_cpus=0).remote
        hosts = Hosts([Node("here", "", 1.0, start, start())], {"north": spec}, told.append, lambda: gone.append(True))
        assert [hosts.handle("north", b"") for _ in range(2)] == [b"built", b"goes on"]
        with pytest.raises(TrainingError, match=r"^internal error: UnserializableException$"):
            hosts.handle("north", b"lost")
        assert [hosts.handle("north", b"") for _ in range(2)] == [b"built", b"goes on"]
        assert (told, gone) == ([], [])
        with pytest.raises(TrainingError, match=r"^its node here is gone$"):
            hosts.handle("north", b"end")
        assert (told, gone) == (["node here is gone; its 1 sites go on nowhere"], [True])
    finally:
        ray.shutdown()


def test_a_node_that_does_not_share_the_runs_folder_is_refused(
    world: Miniature, cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    federation = world.federation(Path("/proc/self/cwd/run"), engine="flower")  # Another folder in each process.
    with pytest.raises(ConfigError, match=r"does not share the run's folder .*; found no such folder"):
        world.run(Federation(**{**_values(federation), "ray_address": cluster.address}))


def test_a_folder_is_shared_only_with_its_content_and_its_locks(tmp_path: Path) -> None:
    assert "no such folder" in fault_of_folder(tmp_path / "none", "word")
    (tmp_path / "shown").write_text("word")
    assert fault_of_folder(tmp_path / "shown", "another") == "another folder of this name"
    assert "not the locks" in fault_of_folder(tmp_path / "shown", "word")  # Nobody holds one.


@dataclass(frozen=True)
class NotingSpec(StubSpec):
    """Notes how its ledger is opened."""

    notes: tuple[list[bool], ...] = ()

    def open_ledger(self, *, synced: bool = False) -> Ledger:
        self.notes[0].append(synced)
        return super().open_ledger(synced=synced)


def test_a_node_syncs_each_charge_and_says_of_an_unexpected_error_its_type_alone(
    world: Miniature, tmp_path: Path
) -> None:
    federation = world.federation(tmp_path)
    host, notes = NodeHost(world.session(federation).base.digest), list[bool]()
    working, raising = (
        NotingSpec(federation.job, SiteRecords(name, (), ()), tmp_path / name, notes=(notes,))
        for name in ("working", "raising")
    )
    assert host.handle("working", b"1", working) == host.handle("working", b"1", None) == b"1working"
    with pytest.raises(TrainingError) as error:
        host.handle("raising", b"1", raising)
    assert str(error.value) == "internal error: RuntimeError"
    assert notes == [True, True]


@pytest.mark.parametrize("address", ["localhost", "ray://localhost:10001", "localhost:gcs", ":6379"])
def test_what_is_no_address_of_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"found .*; expected HOST:PORT of its head"):
        check_cluster(address)


def test_an_address_where_ray_is_not_is_refused_at_once() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    closed = server.server_port
    server.server_close()
    with pytest.raises(ConfigError, match=f"no Ray cluster is at 127.0.0.1:{closed}; found no answer; start its head"):
        check_cluster(f"127.0.0.1:{closed}")
    another = grpc.server(ThreadPoolExecutor(1))
    port = another.add_insecure_port("127.0.0.1:0")
    another.start()
    with pytest.raises(ConfigError, match="found a service that is not Ray"):
        check_cluster(f"127.0.0.1:{port}")
    another.stop(None)


@dataclass(frozen=True)
class DyingSpec(SiteSpec):
    """A site whose node dies in its second round: it is charged and has trained, and nothing has left."""

    node: str = ""

    def build(
        self, session: ModelSession, ledger: Ledger, hooks: SiteHooks | None = None, work: Work | None = None
    ) -> Site:
        def train(this: Round, source: RandomSource, progress: object) -> LocalUpdate | SharedSum:
            trained = train_charged(this, source, None)
            if this.index == 1 and os.environ.get(MARK) == self.node:
                kill_node(self.node)
            return trained

        return super().build(session, ledger, SiteHooks(randomness=self.randomness, train=train), work)


@dataclass(frozen=True)
class DyingFederation(Federation):
    """A federation whose sites kill a node when they train on it for the second time."""

    dying: str = ""

    def spec(self, site: SiteRecords, consortium: Consortium | None = None) -> SiteSpec:
        return DyingSpec(**_values(super().spec(site, consortium)), node=self.dying)


def _values(of: Federation | SiteSpec) -> dict[str, object]:
    return {field.name: getattr(of, field.name) for field in fields(of)}


class KillingHosts(Notebook):
    """An observer that kills the hosts of these nodes after so many rounds, as a system without memory left would."""

    def __init__(self, rounds: int, marks: Sequence[str]) -> None:
        super().__init__()
        self._rounds, self._marks = rounds, marks

    def advance(self, what: str, done: int, total: int) -> None:
        """Kill them, if this is the time."""
        if (what, done) == ("rounds", self._rounds):
            for mark in self._marks:
                (host,) = hosts_of(mark)
                os.kill(host, signal.SIGKILL)


def hosts_of(mark: str) -> list[int]:
    """The processes of hosts that a node runs now."""
    return [int(process.split()[0]) for process in carrying(MARK, mark) if "NodeHost" in process]


def stored(folder: Path) -> Checkpoint:
    found = Registry(folder).load()
    assert found is not None
    return found


def charges(folder: Path) -> Mapping[str, list[tuple[int, bool]]]:
    """Round and whether something left for it, of each charge in the sites' ledgers."""
    found = {}
    for site in SIZES:
        with Ledger.existing(folder / "ledgers" / f"{site}.sqlite") as ledger:
            found[site] = [(charge.round_index, charge.released) for charge in ledger.charges()]
    return found
