"""A whole deployment on one machine: consortium, server behind nginx, sites; each with processes and a folder.

Everything is set up by the commands that an operator gives. Only what a test breaks on purpose is started otherwise.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.commands import Office, found, yoriai
from tests.deploy.processes import ROOT, Program, children_of, free_port, wait_until
from tests.deploy.site import Site
from tests.system import needed
from tests.world import job_settings, save_tiny_base, write_sites
from yoriai.config import JobConfig, job_to_toml, override
from yoriai.server.flower.flower_control import FlowerControl
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import StoredJob
from yoriai.strategies.adapter import AdapterState

SIZES = {"north": 20, "east": 12, "south": 16, "west": 9}
LABELS = ("cabin", "engine", "pump")
# Three rounds that take as little as Flower allows, and deadlines that a loaded machine keeps.
SETTINGS: Mapping[str, object] = {
    "task.kind": "classify",
    "task.labels": list(LABELS),
    "evaluation.every": 0,
    "training.local_steps": 2,
    "training.records_per_weight": 4,
    "federation.min_sites": 3,
    "privacy.spare_rounds": 4,
    "deadlines.offer_s": 240.0,
    "deadlines.keys_s": 300.0,
    "deadlines.train_s": 300.0,
    "deadlines.gather_s": 0.0,
}
_START_S = 240.0


class Deployment:
    """Consortium, server and sites in a folder."""

    def __init__(
        self,
        folder: Path,
        names: Mapping[str, int] = SIZES,
        *,
        hosts: Sequence[str] = (),
        servers: Mapping[str, str] | None = None,
        addresses: Mapping[str, int] | None = None,
        **policy: object,
    ) -> None:
        self.folder, self.addresses, self.servers = folder, addresses or {}, servers or {}
        folder.mkdir(parents=True, exist_ok=True)
        self.base = save_tiny_base(folder / "base")
        self.records = write_sites(folder / "records", dict(names), test_size=4)
        self.port, self.control_port = free_port(), free_port()
        self.office: Office = found(folder / "consortium")
        self.server = ServerFolder(folder / "server")
        self._server_program: Program | None = None
        self._nginx: Program | None = None
        named = [part for host in ("localhost", "127.0.0.1", *hosts) for part in ("--host", host)]
        _done("server", "init", self.server.path, "--name", "office", *named,
              "--port", self.port, "--control-port", self.control_port, "--yes")  # fmt: skip
        _done("server", "enrol", self.server.path)
        assert self.office.run("sign", self.server.request("office"), "--yes").code == 0
        self.sites = {name: self._make_site(name, **policy) for name in names}
        self.sign_roster()

    def _make_site(self, name: str, **policy: object) -> Site:
        folder = self.folder / name
        chosen = {"epsilon-budget": 1000.0, "delta": 1e-5, "min-sites": 3, "approve": "auto", **policy}
        options = [part for key, value in chosen.items() for part in (f"--{key}", str(value)) if part != "True"]
        server = f"{self.servers.get(name, 'localhost')}:{self.addresses.get(name, self.port)}"
        _done("site", "init", folder, "--name", name, "--data", self.records / name, "--base", self.base,
              "--server", server, *options, "--yes")  # fmt: skip
        _done("site", "enrol", folder)
        assert self.office.run("sign", folder / f"{name}.request", "--yes").code == 0
        return Site(folder)

    def sign_roster(self) -> None:
        """The consortium signs a roster of all members, and everybody installs what is theirs."""
        assert self.office.run("roster").code == 0
        ca = self.office.folder
        lists = ("--roster", ca / "roster", "--revocations", ca / "revocations.der")
        for name, site in self.sites.items():
            _done("site", "enrol", site.folder, "--certificate", self.office.member(name), "--authority",
                  ca / "authority.der", *lists, "--server-ca", self.server.public_ca, "--yes")  # fmt: skip
        members = [part for name in self.sites for part in ("--member", self.office.member(name))]
        _done("server", "enrol", self.server.path, "--authority", ca / "authority.der", "--coordinator",
              ca / "coordinator.cert", *lists, *members, "--yes")  # fmt: skip

    # The server

    def start_server(self) -> None:
        """Start nginx and the server."""
        self.start_nginx()
        self.start_keeper()

    def start_keeper(self) -> None:
        """Start the server."""
        log = self.folder / "server.log"
        self._server_program = Program.yoriai("server", "start", self.server.path, "--log-json", log=log)

    @property
    def keeper(self) -> Program:
        """The process of `server start`."""
        assert self._server_program is not None
        return self._server_program

    def superlink(self) -> int:
        """The SuperLink's process."""
        return children_of(self.keeper.pid, "superlink.py")[0]

    def start_nginx(self) -> None:
        """Start the distribution's nginx with the server's site."""
        place = self.folder / "nginx"
        place.mkdir(exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""  # Another user may not write into a test's folder.
        (place / "nginx.conf").write_text(
            f"{user}\ndaemon off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\nevents {{}}\n"
            f"http {{\n  access_log {place}/access.log;\n"
            + "".join(
                f"  {kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"  include {self.server.nginx_site};\n}}\n"
        )
        command = [needed("nginx", "nginx-light"), "-c", str(place / "nginx.conf")]
        self._nginx = Program(command, self.folder / "nginx.log", ends_by="TERM")  # It ends its workers.

    @property
    def nginx(self) -> Program:
        """nginx's master process."""
        assert self._nginx is not None
        return self._nginx

    def start(self, *, seed: bytes | None = None) -> None:
        """Start everything, and wait until every daemon has loaded."""
        self.start_server()
        for site in self.sites.values():
            gate = ["--gate"] if site is self.gated else []
            site.start(*(["--seed", seed.hex()] if seed is not None else gate))
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every daemon that runs has loaded."""
        for site in self.sites.values():
            if site.has_daemon:
                wait_until(lambda site=site: self.state_of(site) == "ready", _START_S, site.daemon.said)  # type: ignore[misc]

    def wait_back(self, name: str, since: float) -> None:
        """Wait until a site's node has connected after this moment, in seconds since the epoch."""
        number = NodeBook.of(self.server.flower_home).nodes()[name].node_id
        flower = FlowerControl(self.server.flower_home)

        def there() -> bool:
            seen = flower.seen()[number]
            return seen.online and seen.since is not None and seen.since >= since

        wait_until(there, _START_S, f"{name} is not connected again")

    def state_of(self, site: Site) -> str:
        """What a daemon says that it is at."""
        done = yoriai("site", "status", site.folder, "--json")
        return str(json.loads(done.screen).get("state", "")) if done.code == 0 else ""

    def stop(self) -> None:
        """Stop everything, all sites at once."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Site.stop, self.sites.values()))
        for program in (self._server_program, self._nginx):
            if program is not None:
                program.stop()

    def kill(self, pid: int) -> None:
        """kill -9 of one process."""
        os.kill(pid, signal.SIGKILL)

    def command(
        self, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """A command in a process of its own."""
        line = [str(Path(sys.executable).with_name("yoriai")), *map(str, arguments)]
        settings = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(environment or {})}
        return subprocess.run(line, env=settings, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)

    # Jobs

    def job(self, **settings: object) -> JobConfig:
        """A job for the tiny base; keys with __ for the dot."""
        more = {key.replace("__", "."): value for key, value in settings.items()}
        return override(JobConfig(name="tiny"), {**job_settings(self.base), **SETTINGS, **more})

    def submit(self, job: JobConfig | None = None, **settings: object) -> StoredJob:
        """Submit a job as an operator does."""
        path = self.folder / "job.toml"
        path.write_text(job_to_toml(job or self.job(**settings)), encoding="utf-8")
        done = self.command("job", "submit", path, "--server", self.server.path, "--json")
        assert done.returncode == 0, done.stderr
        return StoredJob(self.server.jobs / json.loads(done.stdout)["run"])

    def wait_for(self, job: StoredJob, phase: str = "finished", seconds: float = 600.0) -> None:
        """Wait until a job is in a phase."""
        wait_until(lambda: job.state().phase in (phase, "failed"), seconds, lambda: self.tell(job))
        assert job.state().phase == phase, self.tell(job)

    @property
    def gated(self) -> Site:
        """The site that can keep a job in a stage, started with the others."""
        return list(self.sites.values())[-1]

    def hold(self, stage: str, number: int = 1) -> None:
        """From now on let this message of each job lie at the gated site; one that lies there goes on."""
        place = self.gated.folder / "gate"
        new = place.with_suffix(".new")
        new.write_text(f"{stage} {number}")
        new.replace(place)

    def wait_held(self, job: StoredJob, seconds: float = 600.0) -> None:
        """Wait until the job is where `hold` keeps it."""
        here, said = f"{(self.gated.folder / 'gate').read_text()} {job.run_id}", self.gated.folder / "at-gate"
        wait_until(lambda: said.exists() and said.read_text() == here, seconds, lambda: self.tell(job))

    @contextmanager
    def held(self, stage: str, number: int = 1, **settings: object) -> Iterator[StoredJob]:
        """A job that was submitted and is kept in a stage; at the end it goes on."""
        self.hold(stage, number)
        try:
            job = self.submit(**settings)
            self.wait_held(job)
            yield job
        finally:
            (self.gated.folder / "gate").unlink()

    def tell(self, job: StoredJob) -> str:
        """All that may explain why a job is where it is."""
        parts = [job.state().model_dump_json(), *(json.dumps(event) for event in events_of(job)[-25:])]
        for path in sorted(self.folder.glob("*.log")):
            parts += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-12:]]
        return "\n".join(parts)


def events_of(job: StoredJob, name: str = "") -> list[dict[str, Any]]:
    """The coordinator's log of a job; of one kind of event, if named."""
    if not job.log_file.exists():
        return []
    events = [json.loads(line) for line in job.log_file.read_text().splitlines()]
    return [event for event in events if not name or event["event"] == name]


def final_adapter(job: StoredJob) -> AdapterState:
    """The adapter that a job ended with."""
    from yoriai.server.round.registry import Registry

    checkpoint = Registry(job.folder).load()
    assert checkpoint is not None
    return checkpoint.adapter


@contextmanager
def deployed(folder: Path, *, seed: bytes | None = None, **policy: object) -> Iterator[Deployment]:
    """A deployment that runs, and is stopped at the end."""
    world = Deployment(folder, **policy)
    try:
        world.start(seed=seed)
        yield world
    finally:
        world.stop()


@contextmanager
def tapped(world: Deployment, port: int, file: Path) -> Iterator[Path]:
    """Somebody listens on this port, passes everything on to the server, and writes it down in a file."""
    file.touch()
    server = world.server
    files = (server.tls_certificate, server.tls_key, server.tls_ca, file)
    command = [sys.executable, "-m", "tests.deploy.wiretap", str(port), str(world.port), *map(str, files)]
    tap = Program(command, file.with_suffix(".log"))
    try:
        yield file
    finally:
        tap.stop()


def _done(*arguments: object) -> None:
    done = yoriai(*arguments)
    assert done.code == 0, done.screen
