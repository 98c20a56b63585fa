"""The server's long-lived process: keeps Flower's SuperLink alive, its nodes registered, and the queue of jobs moving.

One job runs at a time. Flower cannot resume a run; when one ends before its job does, the keeper starts another for the
same job, which goes on from the last stored round. Whether a coordinator is at work is told by the lock that it holds,
not by what Flower says of it: after a SuperLink was killed, the old coordinator may live on for a while and knows
nothing yet.

    tick   bring the nodes up to the members -> look at the first live job -> start it, wait, or begin it again
           no job is live: tell sites what channels hold, if they do not know yet (errands.py)
"""

import os
import select
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from yoriai.errors import RoundError, YoriaiError
from yoriai.flower import environment
from yoriai.server.flower.flower_control import SERVER_VARIABLE, FlowerControl, KeyInUse
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob
from yoriai.server.service.errands import ERRAND, Errands
from yoriai.system.log import EventLog
from yoriai.system.processes import kill
from yoriai.system.supervisor import Supervisor

_TICK_S = 1.0
_NODES_S = 5.0
_AGAIN_S = 10.0
# From `flwr run` to the coordinator's lock. Beyond it Flower's executor has died, which the SuperLink does not notice.
_START_S = 90.0
# How often Flower's executor looks for a job to start, in seconds.
_START_POLL_S = "0.5"
# A coordinator that is cancelled looks up every second, but for one that waits within Flower.
_CANCEL_S = 15.0


def superlink_command(folder: ServerFolder) -> list[str]:
    """The command line of Flower's SuperLink; it serves nodes and control on one port of loopback."""
    return [
        *(sys.executable, "-P", str(Path(__file__).with_name("superlink.py")), str(folder.config().hold_s)),
        *("--host", "127.0.0.1", "--port", str(folder.config().control_port)),
        *("--ssl-ca-certfile", str(folder.tls_ca)),
        *("--ssl-certfile", str(folder.tls_certificate), "--ssl-keyfile", str(folder.tls_key)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


class Keeper:
    """See the module.

    Args:
        folder: of the server.
        log: told of every event.
    """

    def __init__(self, folder: ServerFolder, log: EventLog) -> None:
        self._folder, self._log = folder, log
        self._flower = FlowerControl(folder.flower_home)
        self._nodes = NodeBook.of(folder.flower_home)
        self._jobs, self._errands = JobStore(folder.jobs), Errands(folder)
        self._superlink = self._supervised()
        self._up = False
        self._heartbeat = log.heartbeat("waiting")
        self._next_look = 0.0
        self._last_fault = ""
        self._live: list[StoredJob] = []

    def run(self, woken: socket.socket) -> None:
        """Keep the server until the socket can be read; the SuperLink, and a coordinator at work, end with it."""
        self._superlink.start()
        with self._heartbeat:
            self._keep(woken)

    def _keep(self, woken: socket.socket) -> None:
        try:
            while not select.select([woken], [], [], _TICK_S)[0]:
                try:
                    self._tick()
                except (YoriaiError, OSError) as error:
                    self._say_once(error)
        finally:
            self._superlink.stop(grace_s=10.0)
            self._end_coordinators()

    def _tick(self) -> None:
        if not self._up:
            self._heartbeat.doing("the SuperLink's first answer")
            self._up = self._flower.is_up()
            if not self._up:
                return
            self._log.event("superlink_up")
        self._register()
        live = self._jobs.live()
        self._say_what_ended(live)
        is_starting = bool(live) and live[0].state().phase == "starting"
        self._heartbeat.doing("the start of a job's coordinator" if is_starting else "")
        if live:
            self._look_after(live[0])
        else:
            self._tell_sites()

    def _say_what_ended(self, live: list[StoredJob]) -> None:
        """A line for each job that was live at the last tick and is over now, in whichever phase."""
        for job in self._live:
            if job not in live:
                self._log.event("job_over", job=job.run_id, phase=job.state().phase)
        self._live = live

    def _register(self) -> None:
        """Bring Flower's nodes up to the members, every now and then: certificates are verified anew each time."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _NODES_S
        wanted = self._folder.node_keys(datetime.now(UTC))
        if self._nodes.is_up_to(wanted):
            return
        try:
            self._nodes.bring_up_to(wanted, self._flower, self._log)
        except KeyInUse:
            self._log.event("nodes_begun_anew")
            self._restart_superlink()

    def _look_after(self, job: StoredJob) -> None:
        """Do what the first live job needs; nothing while a coordinator is at work on it."""
        state = job.state()
        if job.coordinator() is not None:
            if state.phase == "cancelling" and time.time() - state.since > _CANCEL_S:
                self._end_coordinators()  # It hangs in an exchange, or in a wait that nobody can end.
        elif state.phase == "cancelling":
            self._flower.stop(state.flower_run)
            job.change(phase="cancelled", only_from=("cancelling",))
            self._log.event("cancelled", job=job.run_id)
        elif state.phase == "running":
            # It ended without a word, and so was killed; `_give_up` would have left another phase.
            self._log.event("coordinator_died", job=job.run_id)
            job.begin_again("its coordinator ended without a word", only_from=("running",))
        elif state.phase == "starting" and time.time() - state.since > _START_S:
            self._log.event("not_started", job=job.run_id)
            job.begin_again("Flower has not started its coordinator", only_from=("starting",))
            self._restart_superlink()
        elif state.phase == "queued" and time.time() >= state.not_before and not self._errands.is_at_work():
            self._start(job)

    def _start(self, job: StoredJob) -> None:
        """Give a job to Flower. The phase comes first: the coordinator looks for it."""
        if job.change(phase="starting", only_from=("queued",)).phase != "starting":
            return
        try:
            flower_run = self._flower.run(self._folder.bundle, job=job.run_id)
        except RoundError as error:
            later = time.time() + _AGAIN_S
            job.change(phase="queued", only_from=("starting",), not_before=later, error=str(error))
            self._up = self._flower.is_up()
            raise
        starts = job.change(flower_run=flower_run, starts=job.state().starts + 1).starts
        self._log.event("job_started", job=job.run_id, flower_run=flower_run, starts=starts)

    def _tell_sites(self) -> None:
        """Start an errand if sites are owed what a channel holds; see `errands.py`."""
        if self._errands.is_at_work() or not self._errands.is_due(lambda: self._folder.node_keys(datetime.now(UTC))):
            return
        self._errands.begin()
        self._log.event("errand", flower_run=self._flower.run(self._folder.bundle, job=ERRAND))

    def _supervised(self) -> Supervisor:
        folder = self._folder
        return Supervisor(
            "superlink",
            superlink_command(folder),
            environment={
                **environment(folder.flower_home),
                SERVER_VARIABLE: str(folder.path.resolve()),
                "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _START_POLL_S,
            },
            log=self._log,
            output=folder.log / "superlink.log",
            on_restart=self._superlink_restarts,
        )

    def _superlink_restarts(self) -> None:
        """A coordinator of the SuperLink that died can reach nobody any more, and would hold up the next."""
        self._up = False
        try:
            self._end_coordinators()
        except (YoriaiError, OSError) as error:  # Nothing may keep the SuperLink from being started again.
            self._say_once(error)

    def _restart_superlink(self) -> None:
        """Stop Flower's SuperLink and start another, which knows what the book of nodes does."""
        self._superlink.stop(grace_s=10.0)
        self._superlink_restarts()
        self._superlink = self._supervised()
        self._superlink.start()

    def _end_coordinators(self) -> None:
        """Kill coordinators that are at work; their jobs lose nothing that was stored."""
        for holder in (self._errands.runner(), *(job.coordinator() for job in self._jobs.jobs())):
            if holder is not None:
                kill(holder, os.geteuid())

    def _say_once(self, error: Exception) -> None:
        """A fault that lasts is one line, not one a second."""
        if str(error) != self._last_fault:
            self._last_fault = str(error)
            self._log.event("fault", error=self._last_fault)
