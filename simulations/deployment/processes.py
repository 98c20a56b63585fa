"""The processes of a deployment on this machine, for as long as they are wanted: none outlives that."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from yoriai.client.daemon.daemon_client import DaemonClient
from yoriai.client.daemon.daemon_config import socket_in
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import ConfigError, DaemonError, RoundError, ServerError, StorageError
from yoriai.server.flower.flower_control import FlowerControl
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import LIVE, StoredJob
from yoriai.simulations.deployment.folders import Deployment
from yoriai.system.log import EventLog
from yoriai.system.memory import available_bytes
from yoriai.system.supervisor import Supervisor, installed

# Where Debian puts it, which is not on everybody's path.
_SBIN = ("/usr/sbin", "/sbin")
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# SuperNodes that are started before the last ones are waited for: each takes a core for seconds.
_AT_ONCE = 5
_UP_S = 300.0
_POLL_S = 2.0
_STOP_S = 40.0
_LEAST_LEFT_BYTES = 2**30


def nginx_binary() -> str:
    """The path of nginx.

    Raises:
        ConfigError: it is not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    found = shutil.which("nginx", path=path)
    if found is None:
        raise ConfigError(
            "nginx, which stands in front of every server, is not installed",
            remedy="as root: apt-get install -y --no-install-recommends nginx-light",
        )
    return found


def check_memory() -> None:
    """Raise StorageError when the machine has hardly any memory left: better to stop than to have others killed."""
    left_bytes = available_bytes()
    if left_bytes < _LEAST_LEFT_BYTES:
        raise StorageError(
            "this machine runs out of memory",
            found=f"{left_bytes / 2**20:.0f} MiB left",
            expected=f"at least {_LEAST_LEFT_BYTES / 2**20:.0f} MiB",
            remedy="take fewer sites, or a smaller adapter",
        )


def traffic_file(folder: Path) -> Path:
    """Where nginx leaves a line a request: its bytes in and out, headers included."""
    return folder / "nginx" / "traffic.log"


def daemon_logs(folder: Path) -> list[Path]:
    """Where the daemons leave what they did."""
    return sorted((folder / "log").glob("daemons-*.log"))


def daemon_command(site: SiteFolder) -> list[str]:
    """A site's daemon, as its operator starts it."""
    return [installed("yoriai"), "site", "start", str(site.path), "--only", "daemon", "--log-json"]


@contextmanager
def running(
    folder: Path, deployment: Deployment, say: Callable[[str], None], *, daemons: Sequence[Sequence[str]] | None = None
) -> Iterator[None]:
    """Start a deployment, wait until every site is connected, and end all of it at the end.

    Args:
        folder: for logs, and for nginx's files.
        say: told of what is waited for.
        daemons: the commands that are all sites' daemons; left out, each site's own.

    Raises:
        ConfigError: nginx is not installed.
        DaemonError, ServerError: something does not start in time; the folder's logs say why.
    """
    processes = _Processes(folder)
    try:
        processes.start("nginx", _nginx_command(folder, deployment.server))
        processes.start("server", [installed("yoriai"), "server", "start", str(deployment.server.path), "--log-json"])
        sites = list(deployment.sites)
        for number, command in enumerate(daemons or [daemon_command(site) for site in sites]):
            processes.start(f"daemons-{number}", command)
        say(f"waiting for {len(sites)} daemons and {len(sites)} SuperNodes")
        _start_nodes(processes, deployment)
        for site in sites:
            door = DaemonClient(socket_in(site.path))
            _wait(lambda door=door: door.health()["state"] == "ready", f"the daemon of {site.path.name}")  # type: ignore[misc]
        yield
    finally:
        processes.stop()


class _Processes:
    """Supervised programs, each with a log of its own."""

    def __init__(self, folder: Path) -> None:
        self._logs = folder / "log"
        self._logs.mkdir(exist_ok=True)
        self._stream = (self._logs / "supervisor.log").open("a", encoding="utf-8")
        self._log = EventLog(self._stream, as_json=True)
        self._kept: list[Supervisor] = []

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        output = self._logs / f"{name}.log"
        kept = Supervisor(name, command, environment=environment, log=self._log, output=output)
        self._kept.append(kept)
        kept.start()

    def stop(self) -> None:
        """End all, those started last first: sites leave before the server does."""
        sites, server = self._kept[2:], self._kept[:2]
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda kept: kept.stop(_STOP_S), sites))
        for kept in reversed(server):
            kept.stop(_STOP_S)
        self._stream.close()


def _start_nodes(processes: _Processes, deployment: Deployment) -> None:
    """Start the SuperNodes a few at a time, once the server knows their keys."""
    flower, book = FlowerControl(deployment.server.flower_home), NodeBook.of(deployment.server.flower_home)
    total = len(deployment.sites)
    _wait(lambda: len(book.nodes()) == total, "the registration of all nodes", seconds=_UP_S + 15.0 * total)
    for first in range(0, total, _AT_ONCE):
        batch = deployment.sites[first : first + _AT_ONCE]
        for site in batch:
            processes.start(f"node-{site.path.name}", _node_command(site))
        wanted = first + len(batch)
        _wait(lambda wanted=wanted: sum(flower.online().values()) >= wanted, f"{wanted} SuperNodes")  # type: ignore[misc]


def _node_command(site: SiteFolder) -> list[str]:
    return [installed("yoriai"), "site", "start", str(site.path), "--only", "node", "--same-user", "--log-json"]


def _wait(condition: Callable[[], bool], what: str, seconds: float = _UP_S) -> None:
    deadline = time.monotonic() + seconds
    while True:
        check_memory()
        try:
            if condition():
                return
        except DaemonError:
            pass
        if time.monotonic() >= deadline:
            raise ServerError(
                f"{what}: not up after {seconds:.0f} s", remedy="the logs in its folder say why; fewer sites may do"
            )
        time.sleep(_POLL_S)


def _nginx_command(folder: Path, server: ServerFolder) -> list[str]:
    """nginx with the server's site and nothing else, as `server init` wrote it, and a log of bytes."""
    place = folder / "nginx"
    place.mkdir(exist_ok=True)
    temporary = "".join(f"  {kind}_temp_path {place}/{kind};\n" for kind in _TEMPORARY)
    # Started by root, its workers would be another user's, who may not write into a private temporary folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(
        f"{user}daemon off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n"
        "events { worker_connections 2048; }\n"
        "http {\n  log_format bytes '$request_length $bytes_sent';\n"
        f"  access_log {traffic_file(folder)} bytes;\n{temporary}  include {server.nginx_site};\n}}\n"
    )
    return [nginx_binary(), "-c", str(place / "nginx.conf")]


def follow(job: StoredJob, say: Callable[[str], None]) -> None:
    """Wait for the end of a job, and tell of each round.

    Raises:
        RoundError: it did not end well.
        StorageError: the machine's memory runs out.
    """
    told = 0
    while (state := job.state()).phase in LIVE:
        time.sleep(1.0)
        check_memory()
        rounds = [e for e in events_in(job.log_file) if e["event"] == "round"] if job.log_file.exists() else []
        for event in rounds[told:]:
            say(f"round {event['round']}: {event['seconds']} s")
        told = len(rounds)
    if state.phase != "finished":
        raise RoundError(f"the job has {state.phase}", found=state.error, remedy="the logs in its folder say why")


def events_in(path: Path) -> list[dict[str, object]]:
    """The events of a JSON log; lines that other programs wrote are left out."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events
