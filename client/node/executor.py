"""Answers what a SuperNode's messages ask, for as long as the SuperNode lives: it forwards bytes to the site's daemon.

It stands where Flower starts a process a message, which unpacks the job's bundle and runs the code in it. Nothing of a
bundle is unpacked, imported or run here: what a message asks is decided by its payload alone, which the daemon judges.
Nothing is asked for in vain either: the SuperNode says by a byte that there is a message, and hears by one that there
is an answer.

    python executor.py --runtime HOST:PORT --secret FILE --news DESCRIPTOR
"""

import argparse
import ctypes
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from flwr.app import Message, MessageType

from yoriai.client.daemon.daemon_client import DaemonClient, daemon_client_of_node
from yoriai.client.node.client_app import answer
from yoriai.flower_internals import Runtime, Task, check_version

_BEAT_S: Final = 15.0
_PR_SET_PDEATHSIG: Final = 1
_WORD: Final = b"!"


def main() -> None:
    """Be the executor until the SuperNode is gone."""
    check_version()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # Also while it waits for the daemon.
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--secret", type=Path, required=True)
    parser.add_argument("--news", type=int, required=True)
    given = parser.parse_args()
    with socket.socket(fileno=given.news) as news:
        execute(Runtime(given.runtime, given.secret.read_bytes()), news)


def execute(runtime: Runtime, news: socket.socket) -> None:
    """Answer whatever there is, each time that the SuperNode says so, until it hangs up."""
    with suppress(ConnectionError):  # It was killed.
        while news.recv(64):
            while (task := runtime.acquire()) is not None:
                with _beating(task):
                    _work(task)
                news.send(_WORD)


def _work(task: Task) -> None:
    if (pulled := task.pull()) is not None:
        message, configuration = pulled
        task.push(reply_to(message, lambda: daemon_client_of_node(configuration)))


def reply_to(message: Message, daemon: Callable[[], DaemonClient]) -> Message:
    """The daemon's answer to a message; to one that is not of Yoriai's kind, that it is not."""
    is_ours = message.metadata.message_type.startswith(MessageType.QUERY) and message.has_content()
    return Message(answer(message.content if is_ours else None, daemon), reply_to=message)


@contextmanager
def _beating(task: Task) -> Iterator[None]:
    """Tell the SuperNode now and then that the message is still worked on; hang up at the end."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_S):
            task.beat()

    beating = threading.Thread(target=beat, name="heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        task.close()


if __name__ == "__main__":
    main()
