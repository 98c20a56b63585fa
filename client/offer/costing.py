"""Adding up what jobs cost in a process of its own, which may be ended: `accounting.cost` with limits.

What an offer costs is worked out before its operator has seen it, so whoever may offer has a hand in how long that
takes. `accounting` bounds that by itself; the site relies neither on it nor on the libraries behind it. The process
gets events, a delta and an accountant's name, one line of JSON a question, and answers with a line; it knows no record,
no key and no ledger. It is started with the first question that takes time, and kept for later ones.

    python -I -m yoriai.client.offer.costing MEMORY_BYTES
"""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from yoriai.errors import PolicyError
from yoriai.privacy.dp.accounting import Accountant, Cost, Events, cost, event_from_dict, event_to_dict, is_quick
from yoriai.privacy.dp.events import History, merged
from yoriai.system import child_launcher

TIMEOUT_S = 60.0
# As much longer a question may take by the clock: on a busy machine, or while a laptop sleeps, most of it is waiting.
_PATIENCE = 10.0
MEMORY_BYTES = 2 * 1024**3
_MODULE = "yoriai.client.offer.costing"
_GLANCE_S = 0.2
_PIECE_BYTES = 4096
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class CostWorker:
    """`accounting.cost` at a site, with the same answers: quick questions here, all others in a process with limits.

    To be called and closed from one thread, whose end ends the process as well. Answers are kept.

    Args:
        site: its name, for messages.
        timeout_s: for one question, in seconds of a processor, so that an honest offer is not refused where others
            keep the machine busy; the start of the process counts into the first one's. By the clock it may take
            ten times as long.
        memory_bytes: that the process may take on top of what its libraries hold.
        checkpoint: called while an answer is waited for; may raise to give the question up.
    """

    def __init__(
        self,
        site: str,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self._site, self._timeout_s, self._memory_bytes = site, timeout_s, memory_bytes
        self._checkpoint = checkpoint
        self._process: subprocess.Popen[bytes] | None = None
        self._line = socket.socket()
        self._known = lru_cache(maxsize=4096)(self._ask)

    def __call__(self, events: Events, delta: float, accountant: Accountant = "pld") -> Cost:
        """What `accounting.cost` returns.

        Raises:
            ConfigError: as that.
            PolicyError: the limits do not allow an answer, and the process was ended.
        """
        history = merged(events)
        if not history or is_quick(history, delta, accountant):
            return cost(history, delta, accountant)
        return self._known(history, delta, accountant)

    def close(self) -> None:
        """End the process, if there is one. The next question starts another."""
        self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ask(self, history: History, delta: float, accountant: Accountant) -> Cost:
        question = {"events": [event_to_dict(event) for event in history], "delta": delta, "accountant": accountant}
        if self._process is None:
            self._start()
        try:
            with contextlib.suppress(OSError):  # It has ended, then, and there is nothing to read either.
                self._line.sendall(json.dumps(question).encode() + b"\n")
            answer = json.loads(self._answer())
        except BaseException:  # Whatever ended the wait, what comes now must not be taken for the next answer.
            self.close()
            raise
        return Cost(answer["epsilon"], answer["accountant"])

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        self._line.settimeout(_GLANCE_S)
        tied = [sys.executable, "-I", "-S", child_launcher.__file__, str(os.getpid()), "-"]
        with theirs:
            self._process = subprocess.Popen(
                [*tied, sys.executable, "-I", "-m", _MODULE, str(self._memory_bytes)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, **_ONE_THREAD},
            )

    def _answer(self) -> bytes:
        most_s, deadline = self._worked_s() + self._timeout_s, time.monotonic() + self._timeout_s * _PATIENCE
        answer = b""
        while not answer.endswith(b"\n"):
            self._checkpoint()
            if self._worked_s() > most_s:
                raise self._refused(f"no answer after {self._timeout_s:g} s of a processor")
            if time.monotonic() > deadline:
                raise self._refused(f"no answer after {self._timeout_s * _PATIENCE:g} s")
            with contextlib.suppress(TimeoutError):
                piece = self._piece()
                if not piece:
                    raise self._refused(f"an end without an answer, at a limit of {self._memory_bytes:,} bytes")
                answer += piece
        return answer

    def _worked_s(self) -> float:
        """Processor time of the process so far, in seconds; what it waited for a processor does not count."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def _piece(self) -> bytes:
        """What came since; empty at the end of the process."""
        try:
            return self._line.recv(_PIECE_BYTES)
        except ConnectionError:
            return b""

    def _refused(self, found: str) -> PolicyError:
        return PolicyError(
            f"site {self._site}: what the job costs cannot be added up within this site's limits",
            found=found,
            remedy='lower rounds or local_steps, set privacy.accountant = "rdp", or wait if the site is busy',
        )


def answer_questions(memory_bytes: int) -> None:
    """Be the process: answer every line of the standard input with one on the standard output, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Meant for the site, which ends this process when it ends itself.
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin:
        question = json.loads(line)
        history = merged(event_from_dict(event) for event in question["events"])
        _limit(question["accountant"], memory_bytes)
        found = cost(history, question["delta"], question["accountant"])
        sys.stdout.write(json.dumps({"epsilon": found.epsilon, "accountant": found.accountant}) + "\n")
        sys.stdout.flush()


def _limit(accountant: str, memory_bytes: int) -> None:
    """Load the libraries, then limit what comes on top: their own size says nothing, for one brings torch with it."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    import_module("opacus.accountants" if accountant == "prv" else "dp_accounting.pld")
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    answer_questions(int(sys.argv[1]))
