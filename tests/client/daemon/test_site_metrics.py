"""A site's metrics, as Prometheus reads them from its processes."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.client.conftest import LABELS, JobMaker
from tests.client.daemons import MARKER, Daemon, open_seeded, open_stub, refused, stub_config
from tests.client.offices import noise_for
from tests.commands import found, site, yoriai
from tests.deploy.processes import free_port
from tests.tls import Issuer
from tests.waiting import wait_for
from tests.world import write_records
from yoriai import wire
from yoriai.client.daemon.daemon_config import DaemonConfig, config_in
from yoriai.client.daemon.expiries import Expiries
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.node.node import node_state
from yoriai.client.session.model_session import ModelSession
from yoriai.config import PolicySection, SiteConfig, parse_site
from yoriai.errors import ConfigError
from yoriai.privacy.identity.enrolment import read_enrolment
from yoriai.privacy.identity.roster import read_roster

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook", "ignore:.is_gradient_checkpointing", "ignore:Pydantic serializer"
)

# All that a daemon shows. A new name here is to be looked at: does it tell of records?
NAMES = {
    "yoriai_site_info",
    "yoriai_site_state",
    "yoriai_site_messages_total",
    "yoriai_site_waiting",
    "yoriai_site_refusals_total",
    "yoriai_site_round",
    "yoriai_site_jobs_waiting",
    "yoriai_site_epsilon_budget",
    "yoriai_site_epsilon_spent",
    "yoriai_site_epsilon_left",
    "yoriai_site_charged_rounds_total",
    "yoriai_site_expiry_timestamp_seconds",
}


def metrics_of(port: int) -> dict[str, float]:
    """Every value, by its name with its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.fixture
def config(tmp_path: Path) -> DaemonConfig:
    """A daemon with metrics."""
    policy = PolicySection(epsilon_budget=20.0, allow_plain_updates=True)
    site = SiteConfig(name="north", metrics_port=free_port(), policy=policy)
    return replace(stub_config(tmp_path, site), expiries=of_a_roster)


def of_a_roster() -> Mapping[str, float]:
    return {"roster": 1e9}


def offer(make_job: JobMaker, bench: ModelSession, **more: object) -> bytes:
    job = make_job(**more)
    return wire.encode(
        wire.JobOffer(
            run_id="run-1",
            job=job.model_dump(mode="json", by_alias=True),
            roster=wire.Roster(serial=1, weights={"north": 2, "south": 1}),
            base_digest=bench.base.digest,
            noise_multiplier=noise_for(job),
            payload=bench.initial_adapter(job).to_bytes(),
        )
    )


def test_budget_charges_refusals_and_round_are_the_ledgers_and_the_desks_and_nothing_tells_of_records(
    config: DaemonConfig, base_folder: Path, session: ModelSession, make_job: JobMaker, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"{MARKER} {n}", "response": LABELS[n % 3]} for n in range(8)]
    for part in ("train", "test"):
        write_records(config.data / f"{part}.jsonl", rows)
    config, port = replace(config, base=str(base_folder)), config.site.metrics_port
    start = session.initial_adapter(make_job())
    train = wire.TrainRequest(
        run_id="run-1", round_index=0, adapter_digest=start.digest(), payload=start.select(("R",)).to_bytes()
    )
    with Daemon(config, open_seeded, tmp_path / "log") as daemon:
        before = metrics_of(port)
        daemon.daemon.handle(offer(make_job, session, federation__min_sites=1))  # Fewer than the policy's.
        daemon.daemon.handle(offer(make_job, session))
        daemon.daemon.handle(wire.encode(train))
        budget = daemon.ready().daemon.health()["budget"]
        after = metrics_of(port)
    assert {name.partition("{")[0] for name in after} == NAMES
    assert not [name for name in after if MARKER in name]
    assert (before["yoriai_site_epsilon_left"], before["yoriai_site_charged_rounds_total"]) == (20.0, 0.0)
    assert not [name for name in before if name.startswith("yoriai_site_round")]
    assert after['yoriai_site_round{run="run-1"}'] == 1.0
    assert after["yoriai_site_messages_total"] == 3.0
    assert after["yoriai_site_refusals_total"] == 1.0
    assert after["yoriai_site_charged_rounds_total"] == 1.0
    assert after["yoriai_site_epsilon_spent"] == budget["spent"] > 0
    assert after["yoriai_site_epsilon_left"] == budget["left"] < 20.0
    assert after["yoriai_site_epsilon_budget"] == 20.0
    assert after['yoriai_site_state{state="ready"}'] == 1.0
    assert after['yoriai_site_state{state="working"}'] == 0.0
    assert after['yoriai_site_expiry_timestamp_seconds{paper="roster"}'] == 1e9


def test_metrics_end_with_the_daemon_and_a_taken_port_is_told_before_anything_is_loaded(
    config: DaemonConfig, tmp_path: Path
) -> None:
    port = config.site.metrics_port
    with Daemon(config, open_stub, tmp_path / "log") as daemon:
        assert metrics_of(port)["yoriai_site_waiting"] == 0.0
        assert daemon.end() == 0
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Connections of before may linger.
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert f"port {port} for metrics" in refused(config, open_stub, tmp_path / "second")
    assert "loaded" not in (tmp_path / "second").read_text()


def test_without_a_port_nothing_listens(config: DaemonConfig, tmp_path: Path) -> None:
    silent = replace(config, site=config.site.model_copy(update={"metrics_port": 0}))
    with Daemon(silent, open_stub, tmp_path / "log"), socket.socket() as found:
        assert found.connect_ex(("127.0.0.1", config.site.metrics_port)) != 0


@pytest.fixture
def member(tmp_path: Path) -> SiteFolder:
    """A site that is enrolled."""
    office, folder = found(tmp_path / "office"), site(tmp_path / "north", "north")
    assert office.run("sign", folder / "north.request", "--yes", "--valid-days", 40).code == 0
    assert office.run("roster", "--valid-days", 30).code == 0
    lists = ("--roster", office.folder / "roster", "--revocations", office.folder / "revocations.der")
    trust_files = ("--certificate", office.member("north"), "--authority", office.folder / "authority.der", *lists)
    assert yoriai("site", "enrol", folder, *trust_files, "--yes").code == 0
    return SiteFolder(folder)


def test_expiries_are_those_of_the_installed_papers_and_stay_known_when_they_have_passed(member: SiteFolder) -> None:
    now = datetime.now(UTC)
    trust = member.trusted.trust(now)
    expected = {
        "certificate": read_enrolment(member.trusted.certificate.read_bytes(), trust).expires.timestamp(),
        "roster": read_roster(member.trusted.roster.read_bytes(), trust).expires.timestamp(),
    }
    clock = [now]
    expiries = Expiries(member, clock=lambda: clock[0])
    first = expiries()
    assert {paper: first[paper] for paper in expected} == expected
    assert first["revocations"] == pytest.approx(expected["roster"], abs=2)
    clock[0] = now + timedelta(days=35)
    assert expiries() == first
    assert config_in(member.path).expiries() == first
    assert Expiries(member, clock=lambda: now + timedelta(days=50))() == {}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A site whose SuperNode is kept, with metrics, for a server at which nobody listens."""
    folder = site(tmp_path / "s", "north")
    settings = (folder / "site.toml").read_text().replace('address = ""', 'address = "localhost:1"')
    (folder / "site.toml").write_text(settings.replace("node_metrics_port = 0", f"node_metrics_port = {free_port()}"))
    (tmp_path / "ca.crt").write_bytes(Issuer.make().pem)
    assert yoriai("site", "enrol", folder, "--server-ca", tmp_path / "ca.crt", "--yes").code == 0
    command = [Path(sys.executable).with_name("yoriai"), "site", "start", folder, "--only", "node", "--same-user"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: node_state(folder).get("running"))
            yield folder
        finally:
            process.terminate()


def test_a_supernodes_restarts_are_counted(node: Path) -> None:
    port = SiteFolder(node).config().node_metrics_port
    before = metrics_of(port)
    assert {name.partition("{")[0] for name in before} == {
        "yoriai_node_info",
        "yoriai_node_running",
        "yoriai_node_restarts_total",
    }
    assert (before["yoriai_node_running"], before["yoriai_node_restarts_total"]) == (1.0, 0.0)
    os.kill(node_state(node)["pid"], signal.SIGKILL)
    wait_for(lambda: metrics_of(port)["yoriai_node_restarts_total"] == 1.0)


def test_the_two_ports_are_two() -> None:
    with pytest.raises(ConfigError, match="is metrics_port too"):
        parse_site('schema = 1\nname = "north"\nmetrics_port = 9\nnode_metrics_port = 9\n')
    assert parse_site('schema = 1\nname = "north"\n').metrics_port == 0
