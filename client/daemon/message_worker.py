"""The message worker of a site's daemon: one message in work, a few that wait, and beyond those a refusal at once.

One thread opens the site, answers every message in turn and closes the site. A message that waits is a connection and a
number; its bytes are fetched when its turn has come. So memory holds one message and one reply, whoever asks and
however often.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from yoriai import wire
from yoriai.client.daemon.socket_protocol import LARGEST_MESSAGE_BYTES, Busy, FrameKind, Line, too_long
from yoriai.errors import DaemonError, YoriaiError
from yoriai.system.heartbeat import Heartbeat
from yoriai.system.log import EventLog

# For one message's way in or out of this machine's own socket; an idle or trickling peer holds the worker no longer.
TRANSFER_S = 60.0
# For a step of training to come to its end, once a message is to be abandoned.
ABANDON_S = 10.0


class Abandoned(BaseException):
    """The message at hand is given up because the daemon stops.

    No Exception: the site takes those for faults, pays for the round and answers. This ends it like a kill would: what
    was reserved stays reserved, and nothing leaves.
    """


class OpenSite(Protocol):
    """A site with its base in memory and its ledger open."""

    def handle(self, data: bytes) -> bytes:
        """Answer one message."""
        ...

    def afterwards(self) -> None:
        """Do what the last message left to do, once its reply is out. The next message waits meanwhile."""
        ...

    def budget(self) -> Mapping[str, float]:
        """The data set's epsilon by what became of it, for its operator."""
        ...

    def close(self) -> None:
        """Close the ledger."""
        ...


@dataclass(frozen=True)
class Health:
    """What a daemon is at.

    Attributes:
        state: loading, ready, working, stopping, or failed.
        messages: answered since the start.
        waiting: messages that wait for their turn.
        refusals: answers since the start that were a refusal for good.
        job: the run accepted last.
        round: the one begun last, counted from 1, as in reports.
        last_error: the last refusal's reason or the type of the last fault; empty if none came since a message was
            answered as it should be.
        budget: as the site said after the last message; None if it could not.
    """

    state: str = "loading"
    messages: int = 0
    waiting: int = 0
    refusals: int = 0
    job: str = ""
    round: int = 0
    last_error: str = ""
    budget: Mapping[str, float] | None = None


class MessageWorker:
    """Works off messages in the order in which they came.

    Args:
        open_site: called once, in the worker's thread, with what the site calls at every step of its work: it raises
            Abandoned when the message is to be given up.
        log: told of every event.
        waiting: most messages that wait.
        on_failure: called when the site cannot be opened; `failure` then says why.
        on_job_waits: called with the run at each offer that waits for the operator.
    """

    def __init__(
        self,
        open_site: Callable[[Callable[[], None]], OpenSite],
        log: EventLog,
        *,
        waiting: int,
        on_failure: Callable[[], None],
        on_job_waits: Callable[[str], None] = lambda _run: None,
    ) -> None:
        self.failure: Exception | None = None
        self._open_site, self._log, self._on_failure = open_site, log, on_failure
        self._on_job_waits = on_job_waits
        self._queue: queue.Queue[tuple[Line, int] | None] = queue.Queue(maxsize=waiting)
        self._taking = threading.Lock()
        self._stopping, self._abandon = threading.Event(), threading.Event()
        self._health = Health()
        self._thread = threading.Thread(target=self._work, name="message-worker", daemon=True)

    def start(self) -> None:
        """Open the site and begin to work."""
        self._thread.start()

    def health(self) -> Health:
        """What the message worker is at now."""
        state = "stopping" if self._stopping.is_set() else self._health.state
        return replace(self._health, state=state, waiting=self._queue.qsize())

    def take(self, line: Line, size_bytes: int) -> None:
        """Take over a connection whose message waits to be fetched; the message worker closes it.

        Raises:
            Busy: too many wait already, or the daemon is stopping. The connection stays the caller's.
        """
        with self._taking:
            if self._stopping.is_set():
                raise stopping()
            try:
                self._queue.put_nowait((line, size_bytes))
            except queue.Full:
                raise Busy("the site's daemon is busy, and enough messages wait", remedy="try again later") from None

    def finish(self, grace_s: float) -> bool:
        """Refuse what waits, let the message at hand come to its end, and close the site.

        Args:
            grace_s: after this time the message is abandoned at its next step.

        Returns:
            Whether the site is closed. If not, it is still being opened or a step hangs; then the process can only
            end, as if it were killed.
        """
        with self._taking:
            self._stopping.set()
            self._refuse_waiting(stopping())
            self._queue.put_nowait(None)
        opened = self._health.state != "loading"  # There is nothing to finish in loading, and no step to end it at.
        self._thread.join(grace_s if opened else 0)
        self._abandon.set()
        self._thread.join(ABANDON_S if opened else 0)
        return not self._thread.is_alive()

    def _checkpoint(self) -> None:
        if self._abandon.is_set():
            raise Abandoned

    def _work(self) -> None:
        with self._log.heartbeat("at_work") as heartbeat:
            self._open_and_serve(heartbeat)

    def _open_and_serve(self, heartbeat: Heartbeat) -> None:
        heartbeat.doing("loading base, records and ledger")
        try:
            site = self._open_site(self._checkpoint)
        except Exception as error:
            with self._taking:
                self._stopping.set()
                self._refuse_waiting(DaemonError("the site's daemon cannot start; its own log says why"))
            self.failure = error
            self._tell(state="failed")
            self._on_failure()
            return
        with contextlib.closing(site):
            self._tell(state="ready", budget=self._budget(site))
            self._log.event("loaded")
            heartbeat.doing("")
            while (task := self._queue.get()) is not None:
                self._tell(state="working")
                heartbeat.doing("answering a message")
                try:
                    self._serve(site, *task)
                    site.afterwards()
                except Abandoned:
                    self._log.event("abandoned", job=self._health.job, round=self._health.round)
                    break
                except Exception as error:  # Out of memory, say: this message is lost, the next need not be.
                    self._fault("fault", error)
                self._tell(state="ready", budget=self._budget(site))
                heartbeat.doing("")

    def _serve(self, site: OpenSite, line: Line, size_bytes: int) -> None:
        """Fetch one message, answer it, and hang up."""
        with line.connection:
            try:
                line.within(TRANSFER_S).announce(FrameKind.PROCEED)
                data = line.bytes_of(size_bytes)
            except OSError as error:
                self._fault("lost", error, size_bytes=size_bytes)
                return
            try:
                self._log_question(data)
                reply = site.handle(data)
            except Abandoned:
                refuse(line, stopping())
                raise
            except Exception as error:
                self._fault("fault", error)
                refuse(line, DaemonError("the site's daemon failed; its own log says where"))
                return
            del data
            self._log_reply(reply)
            try:
                self._send(line, reply)
            except OSError as error:
                self._fault("unheard", error, size_bytes=len(reply))

    def _send(self, line: Line, reply: bytes) -> None:
        if len(reply) > LARGEST_MESSAGE_BYTES:
            self._tell(last_error="the reply is too long")
            refuse(line, too_long(len(reply)))
        else:
            line.within(TRANSFER_S).send(FrameKind.ANSWER, reply)
            self._tell(messages=self._health.messages + 1)

    def _budget(self, site: OpenSite) -> Mapping[str, float] | None:
        """None if it cannot be told: a ledger that is in trouble refuses jobs by itself."""
        try:
            return site.budget()
        except Exception as error:
            self._fault("budget_unknown", error)
            return None

    def _refuse_waiting(self, error: YoriaiError) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if (task := self._queue.get_nowait()) is not None:
                    with task[0].connection:
                        refuse(task[0], error)

    def _log_question(self, data: bytes) -> None:
        header = wire.peek(data)
        run, number = _text(header, "run_id"), _round(header)
        match header.get("kind"):
            case "job_offer":
                self._log.event("offered", run=run, size_bytes=len(data))
            case "train_request":
                self._tell(round=number or 0)
                self._log.event("round_begun", run=run, round=number)
            case "delivery":
                self._log.event("delivered", run=run, size_bytes=len(data))
            case "version":
                self._log.event("version_delivered", run=run, size_bytes=len(data))
            case "secure_stage":
                self._log.event("stage", run=run, round=number, stage=_text(header, "stage"))
            case _:
                self._log.event("asked", size_bytes=len(data))

    def _log_reply(self, reply: bytes) -> None:
        header = wire.peek(reply)
        run, stage = _text(header, "run_id"), _text(header, "stage")
        if header.get("kind") != "refusal" or header.get("waiting") is True:
            self._tell(last_error="")  # What kept it from answering is over.
        match header.get("kind"), stage:
            case "acceptance", _:
                self._tell(job=run or "", round=0)
                self._log.event("accepted", run=run)
            case "refusal", _ if header.get("waiting") is True:
                self._log.event("waits_for_operator", run=run)
                self._on_job_waits(run or "")
            case "receipt", _ if not header.get("adapter_digest"):
                self._log.event("ended", run=run)
            case "receipt", _:
                self._log.event("stored", run=run)
            case "refusal", _:
                reason = _text(header, "reason")
                self._tell(last_error=reason or "refused", refusals=self._health.refusals + 1)
                self._log.event("refused", run=run, reason=reason)
            case ("plain_update", _) | ("secure_reply", "mask"):
                self._log.event("released", run=run, round=_round(header), size_bytes=len(reply))
            case _:
                self._log.event("answered", run=run, round=_round(header), stage=stage)

    def _fault(self, event: str, error: Exception, **values: int) -> None:
        """By its type alone: an unexpected message might quote a record."""
        self._tell(last_error=type(error).__name__)
        self._log.event(event, error=type(error).__name__, **values)

    def _tell(self, **values: object) -> None:
        # Only the message worker's thread writes; who reads gets the one or the other whole.
        self._health = replace(self._health, **values)  # type: ignore[arg-type]


def stopping() -> Busy:
    """The daemon takes nothing more."""
    return Busy("the site's daemon is stopping", remedy="try again when it runs")


def refuse(line: Line, error: YoriaiError) -> None:
    """Answer with an error; whoever is gone, or does not listen, goes without. The caller hangs up."""
    texts = {"what": error.what, "found": error.found, "expected": error.expected, "remedy": error.remedy}
    with contextlib.suppress(OSError):
        line.within(1.0).send_note(FrameKind.REFUSED, {"busy": isinstance(error, Busy), **texts})


def _text(header: Mapping[str, object], key: str) -> str | None:
    value = header.get(key)
    return value if isinstance(value, str) else None


def _round(header: Mapping[str, object]) -> int | None:
    """Counted from 1, as in reports."""
    value = header.get("round_index")
    return value + 1 if isinstance(value, int) else None
