"""Flower's SuperNode as a process that ends when it cannot work any more, so that whoever keeps it starts another.

Left to itself it lives on and does nothing: after an error in its main thread, because the one that serves its executor
keeps the process alive; and when the thread has failed that tells the server that it is there. Both were seen with
Flower 1.41. Its executor (`executor.py`) is started here, and when that has ended the SuperNode ends too.

The interface by which the two talk lies on loopback, where every user of the machine may connect. A secret that only
this user can read says who may take a message there.

    python supernode.py BUSY_S IDLE_S ARGUMENTS    as `flower-supernode ARGUMENTS`; the two are the pauses of pacing.py
"""

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from yoriai.client.node.left_behind import LeftBehind
from yoriai.client.node.pacing import Pacing
from yoriai.flower_internals import check_version, serve_node
from yoriai.system.files import PRIVATE, write_atomically
from yoriai.system.signals import ignoring

_FAILED = 1
# For telling the server that the node leaves; one that does not must wait a minute to come back.
_LEAVING_S = 10.0
# The executor hears of a message once, and again should it have been looking elsewhere.
_REMIND_S = 10.0
_LOOK_S = 0.5
_WORD = b"?"


def main() -> None:
    """Run the SuperNode until it ends, in whole or in part."""
    check_version()
    busy_s, idle_s = float(sys.argv.pop(1)), float(sys.argv.pop(1))
    home = Path(os.environ["FLWR_HOME"])
    executor, news = start_executor(home)
    threading.excepthook = _leave_with_thread
    threading.Thread(target=_leave_with, args=(executor,), name="executor", daemon=True).start()
    code = _FAILED
    try:
        serve_node(NodeWaits(Pacing(busy_s, idle_s, time.monotonic()), news), LeftBehind(home / "connected"))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else _FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def start_executor(home: Path) -> tuple[int, socket.socket]:
    """Start the executor, and have Flower leave all messages to it. Its number, and where one hears of it."""
    secret = write_atomically(home / "executor.secret", secrets.token_bytes(32), mode=PRIVATE)
    port = sys.argv[sys.argv.index("--port") + 1]
    host = sys.argv[sys.argv.index("--host") + 1]
    sys.argv += ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
    ours, theirs = socket.socketpair()
    with theirs:
        program = [sys.executable, "-P", str(Path(__file__).with_name("executor.py"))]
        options = ["--runtime", f"{host}:{port}", "--secret", str(secret), "--news", str(theirs.fileno())]
        # The SuperNode's whole group is told to end. An executor that ended first would seem to have failed.
        with ignoring(signal.SIGTERM):
            pid = subprocess.Popen([*program, *options], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL).pid
    return pid, ours


class NodeWaits:
    """The SuperNode's waits: for its server by the pace, for its executor by the executor's word."""

    def __init__(self, pacing: Pacing, executor: socket.socket) -> None:
        self._pacing, self._executor = pacing, executor
        self._told_at = float("-inf")

    def for_message(self) -> None:
        """The server had no message; return when it is to be asked again."""
        time.sleep(self._pacing.pause(time.monotonic()))

    def for_reply(self) -> None:
        """A message waits for its answer; return when there may be one."""
        now = time.monotonic()
        with suppress(OSError):  # An executor that is gone takes this process along.
            if now - self._told_at >= _REMIND_S:
                with suppress(BlockingIOError):  # An executor at work for an hour has not read all of the others yet.
                    self._executor.send(_WORD, socket.MSG_DONTWAIT)
                self._told_at = now
            if select.select([self._executor], [], [], _LOOK_S)[0]:
                self._told_at = float("-inf") if self._executor.recv(64) else now
        self._pacing.message(time.monotonic())


def _leave_with(executor: int) -> None:
    """Without its executor the SuperNode takes messages that nobody answers."""
    os.waitid(os.P_PID, executor, os.WEXITED | os.WNOWAIT)
    _leave("the SuperNode's executor has ended")


def _leave_with_thread(failed: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(failed)
    threading.Thread(target=_leave, args=("a thread of the SuperNode has failed",), name="leave", daemon=True).start()


def _leave(why: str) -> None:
    """End as upon SIGTERM, and soon."""
    sys.stderr.write(f"{why}\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LEAVING_S)
    _end(_FAILED)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Threads that serve nobody any more would hold up `sys.exit`.


if __name__ == "__main__":
    main()
