"""Flower's SuperNode as a process that ends when it cannot work any more, so that whoever keeps it starts another.

Left to itself it lives on and does nothing: after an error in its main thread, because the one that serves its apps
keeps the process alive; when the thread has failed that tells the server that it is there; and when the process that
starts its apps has ended. All three were seen with Flower 1.41.

    python supernode.py ARGUMENTS    as `flower-supernode ARGUMENTS`
"""

import os
import signal
import sys
import threading
import time
import traceback

from flwr.supernode.cli import flower_supernode

_POLL_S = 1.0
_FAILED = 1
# For telling the server that the node leaves; one that does not must wait a minute to come back.
_LEAVING_S = 10.0


def main() -> None:
    """Run the SuperNode until it ends, in whole or in part."""
    threading.excepthook = _leave_with_thread
    threading.Thread(target=_leave_with_child, name="child", daemon=True).start()
    code = _FAILED
    try:
        flower_supernode()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else _FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _leave_with_child() -> None:
    """The SuperNode's one child starts its apps, and Flower does not look whether it lives."""
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            break
        except ChildProcessError:
            time.sleep(_POLL_S)  # Not started yet.
    _leave("the process that starts the SuperNode's apps has ended")


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
