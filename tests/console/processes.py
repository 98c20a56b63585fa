"""A console in a process of its own, as an operator starts it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def console_process(*words: object) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A console on any port until the end of the block: its process, and the first link that it prints."""
    command = [sys.executable, "-P", "-m", "yoriai.cli", *map(str, words), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().rpartition(": ")[2].strip()
        finally:
            process.kill()
